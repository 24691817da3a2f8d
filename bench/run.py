"""Run the benchmarks: `python dev.py bench`. Figures are ratios; see `interleave`."""

from __future__ import annotations

import argparse
import asyncio

from bench import calls, proof, requests


async def main(rounds: int) -> None:
    """Measure and print all cases."""
    for title, case in (
        ("DPoP proof (goal: ratio >= 0.80)", proof),
        ("Request (goals: <= 2 us anonymous, <= 6 us signed in)", requests),
        ("Call to a PDS (goal: ratio >= 0.88)", calls),
    ):
        print(title)
        for figure in await case.measure(rounds=rounds):
            print(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25, help="medians are over these")
    asyncio.run(main(parser.parse_args().rounds))
