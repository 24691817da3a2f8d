"""Measure candidates against a reference: interleaved, shuffled, as ratios of processor time."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

Run = Callable[[int], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Figure:
    """What one candidate cost, beside the reference in the same rounds."""

    name: str
    #: Median processor time of one operation, in microseconds.
    micros: float
    #: Median over rounds of reference time / candidate time: 1.0 is as fast as the reference.
    ratio: float
    #: Median over rounds of candidate time - reference time, in microseconds.
    extra: float

    def __str__(self) -> str:
        return (
            f"  {self.name:<46} {self.micros:9.2f} us   ratio {self.ratio:5.2f}"
            f"   {self.extra:+9.2f} us"
        )


async def compare(
    candidates: Sequence[tuple[str, Run]], *, rounds: int, operations: int
) -> list[Figure]:
    """Run all candidates once a round, in random order; the first is the reference.

    Args:
        candidates: Names, and functions that do so many operations.
        rounds: How often; figures are medians over them.
        operations: How many operations a candidate does in a round.
    """
    for _, run in candidates:
        await run(max(1, operations // 10))
    times: dict[str, list[float]] = {name: [] for name, _ in candidates}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, run in random.sample(list(candidates), len(candidates)):
                start = time.process_time_ns()
                await run(operations)
                times[name].append((time.process_time_ns() - start) / operations / 1000)
            gc.collect()
    finally:
        gc.enable()
    reference = times[candidates[0][0]]
    return [
        Figure(
            name=name,
            micros=statistics.median(own),
            ratio=statistics.median(r / o for r, o in zip(reference, own, strict=True)),
            extra=statistics.median(o - r for r, o in zip(reference, own, strict=True)),
        )
        for name, own in times.items()
    ]
