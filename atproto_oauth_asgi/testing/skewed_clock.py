from __future__ import annotations

from collections.abc import Callable


class SkewedClock:
    """Is the servers' clock, which may be wrong."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        #: Seconds by which it is fast.
        self.skew = 0.0

    def __call__(self) -> float:
        """Return the time that the servers believe, in seconds since 1970."""
        return self._clock() + self.skew
