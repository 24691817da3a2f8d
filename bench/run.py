"""Run the benchmarks: `python dev.py bench [--rounds N] [case…]`. Figures are ratios.

Without a case those run that need a few seconds; `interleave` says how they measure.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

#: What each case shows.
QUICK: Mapping[str, str] = {
    "proof": "DPoP proof (goal: ratio >= 0.80)",
    "requests": "Request (goals: <= 2 us anonymous, <= 6 us signed in)",
    "calls": "Call to a PDS (goal: ratio >= 0.88)",
}
#: These start a PostgreSQL of their own, and fill it.
SLOW: Mapping[str, str] = {
    "pool": "Session loads beside refreshes on a pool of 10 (goal: worst <= 50 ms beside leases)",
    "rows": "A million session rows against ten thousand (goals: ratios near 1, >= 0.35 of raw)",
}


class Case(Protocol):
    """What each module of a case has."""

    async def measure(self, *, rounds: int, **size: int) -> Sequence[object]:
        """Return figures, which print as lines."""
        ...


async def main(names: Sequence[str], *, rounds: int, rows: int = 1_000_000) -> None:
    """Measure and print cases; by default the quick ones."""
    titles = {**QUICK, **SLOW}
    for name in names or QUICK:
        print(titles[name], flush=True)
        # A case imports what only it needs.
        case = cast("Case", importlib.import_module(f"bench.{name}"))
        size = {"rows": rows} if name == "rows" else {}
        for figure in await case.measure(rounds=rounds, **size):
            print(figure, flush=True)
    if not names:
        print(f"Not run, name them to: {', '.join(SLOW)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="case", help=", ".join([*QUICK, *SLOW]))
    parser.add_argument("--rounds", type=int, default=25, help="medians are over these")
    parser.add_argument("--rows", type=int, default=1_000_000, help="many, for the case rows")
    given = parser.parse_args()
    unknown = set(given.cases) - {*QUICK, *SLOW}
    if unknown:
        parser.error(f"there is no case {', '.join(sorted(unknown))}")
    asyncio.run(main(given.cases, rounds=given.rounds, rows=given.rows))
