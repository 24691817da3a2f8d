from __future__ import annotations

from collections.abc import Callable

_MOST = 100_000


class ReplayCache:
    """Remembers names that may be used once, until they would be refused for their age anyway."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def first_use(self, name: str, *, seconds: float) -> bool:
        """Say whether the name is new, and remember it for a time."""
        now = self._clock()
        self._prune(now)
        if self._until.get(name, now) > now:
            return False
        self._until.pop(name, None)
        self._until[name] = now + seconds
        return True

    def _prune(self, now: float) -> None:
        while self._until:
            oldest = next(iter(self._until))
            if self._until[oldest] > now and len(self._until) < _MOST:
                return
            del self._until[oldest]
