"""Engines of our own, one set per running event loop, closed when the loop ends."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncEngine

#: Seconds that a statement waits for another's write, and a task for a connection.
LOCK_TIMEOUT = 5.0
POOL_TIMEOUT = 10.0
#: Connections at a time that are made beside the pools, for writes that cannot be lost.
FRESH = 2


class Stoppable(Protocol):
    """Is a driver's connection with a thread of its own."""

    def stop(self) -> asyncio.Future[object] | None:
        """End the thread; usable when the connection's event loop is closed."""
        ...


def _no_threads() -> weakref.WeakSet[Stoppable]:
    return weakref.WeakSet()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Engines:
    """Ways to run one statement alone, and one to run several in a transaction."""

    #: Reads of one statement, without a transaction around it.
    reader: AsyncEngine
    #: Writes of one statement, likewise; None: they need a transaction.
    single: AsyncEngine | None = None
    writer: AsyncEngine
    #: Whose turn it is to make a connection beside the pools.
    fresh: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(FRESH))
    #: Driver connections with a thread of their own, which outlives its event loop.
    threads: weakref.WeakSet[Stoppable] = field(default_factory=_no_threads)

    async def dispose(self) -> None:
        """Close all connections, on the event loop that they belong to."""
        try:
            await self.writer.dispose()
        finally:
            await self.reader.dispose()

    async def abandon(self) -> None:
        """Let go of connections whose event loop is closed: nothing of theirs can be awaited."""
        stopped = [connection.stop() for connection in list(self.threads)]
        ends = [end for end in stopped if end is not None]
        if ends:
            await asyncio.wait(ends, timeout=LOCK_TIMEOUT)
        for engine in (self.writer, self.reader):
            engine.sync_engine.dispose(close=False)


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """Engines in use on an event loop, and the generator that disposes of them at its end."""

    loop: asyncio.AbstractEventLoop
    engines: Engines
    until_the_end: AsyncGenerator[None]


# Held here and not by the store alone: a generator that is collected together with its store,
# while the event loop shuts down, is closed too late.
_kept: set[_Kept] = set()
_kept_lock = threading.Lock()


async def _dispose_at_the_end(engines: Engines) -> AsyncGenerator[None]:
    """Dispose of engines when closed, which event loops do to generators before they end."""
    try:
        yield
    finally:
        try:
            await engines.dispose()
        finally:
            with _kept_lock:
                _kept.difference_update([one for one in _kept if one.engines is engines])


class LoopEngines:
    """Engines of our own, made for each event loop that asks: a connection knows only its own.

    An engine is disposed by `aclose`, or else when its event loop shuts down (`asyncio.run`
    closes asynchronous generators), or else, the loop being closed without that, by the next
    event loop that asks.
    """

    def __init__(self, make: Callable[[], Engines]) -> None:
        self._make = make
        self._held: dict[asyncio.AbstractEventLoop, _Kept] = {}

    async def get(self) -> Engines:
        """Return the running event loop's engines."""
        loop = asyncio.get_running_loop()
        held = self._held.get(loop)
        if held is not None:
            return held.engines
        engines = self._make()
        kept = _Kept(loop, engines, _dispose_at_the_end(engines))
        with _kept_lock:
            dead = {old for old in _kept if old.loop.is_closed()}
            _kept.difference_update(dead)
            _kept.add(kept)
            for ended in [old for old in self._held if old.is_closed()]:
                del self._held[ended]
            self._held[loop] = kept
        # The first step waits for nothing, so no other task gets in between.
        await anext(kept.until_the_end)
        for old in dead:
            await old.engines.abandon()
        return engines

    async def aclose(self) -> None:
        """Dispose of the running event loop's engines."""
        with _kept_lock:
            held = self._held.pop(asyncio.get_running_loop(), None)
        if held is None:
            return
        await held.until_the_end.aclose()
