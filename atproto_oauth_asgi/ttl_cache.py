"""Answers of other servers, kept for a short while."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class TTLCache(Generic[K, V]):
    """Keeps at most `size` answers, each for `ttl` seconds from the moment it was asked for.

    Event loops in several threads may share one; no method waits for anything but memory.

    Args:
        ttl: Seconds an answer may be used.
        size: Number of answers kept; the one used longest ago goes first.
        clock: A monotonic clock in seconds.
    """

    def __init__(self, *, ttl: float, size: int, clock: Callable[[], float]) -> None:
        self._ttl = ttl
        self._size = size
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def now(self) -> float:
        """Return the time to hand to `put`, read before the question is sent."""
        return self._clock()

    def get(self, key: K) -> V | None:
        """Return the answer, or None when there is none or it is too old."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            asked, value = entry
            if self._clock() - asked >= self._ttl:
                del self._entries[key]
                return None
            self._entries.move_to_end(key)
            return value

    def put(self, key: K, value: V, *, asked: float) -> None:
        """Keep an answer, unless one that was asked for later is already here.

        Without that, a slow look-up would undo what a fresh one has just found out.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and entry[0] > asked:
                return
            self._entries[key] = (asked, value)
            self._entries.move_to_end(key)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)

    def drop(self, key: K) -> None:
        """Forget an answer."""
        with self._lock:
            self._entries.pop(key, None)
