"""What a fuzz target is: a parser of a stranger's bytes, and what must be true of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Check = Callable[[bytes], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Names a parser; `check` raises for every input that shows a defect.

    A check lets only the parser's own typed errors pass, and asserts what holds of every result.
    """

    name: str
    check: Check
    seeds: tuple[bytes, ...]


TARGETS: dict[str, Target] = {}


def target(*seeds: bytes | str) -> Callable[[Check], Check]:
    """Register a check under its function's name."""

    def register(check: Check) -> Check:
        texts = (seed.encode() if isinstance(seed, str) else seed for seed in seeds)
        TARGETS[check.__name__] = Target(name=check.__name__, check=check, seeds=tuple(texts))
        return check

    return register
