"""Connections that find back to their pool, whatever cancels who uses them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from time import monotonic
from typing import Protocol, cast

import httpcore

#: Seconds after which a connection that no request has begun on was made for nobody.
BEGINS_WITHIN = 5.0
#: Seconds that closing waits for connections which are closing already.
CLOSES_WITHIN = 5.0


class Pool(httpcore.AsyncConnectionPool):
    """A pool that loses no place to a request that is cancelled.

    httpcore protects its own clearing up from the cancellation of anyio, not of asyncio; and
    a connection that was made for a request that never began is neither used nor idle, so it
    would keep its place, and its socket, for the life of the process.
    """

    def create_connection(self, origin: httpcore.Origin) -> httpcore.AsyncConnectionInterface:
        """Make a connection that closes when a request on it fails in whatever way."""
        return _Connection(super().create_connection(origin))

    async def aclose(self) -> None:
        """Close all connections, and wait for those that are closing already."""
        await super().aclose()
        loop = asyncio.get_running_loop()
        # A copy, which other threads cannot change: their loops have theirs in it.
        if ours := [one for one in list(_endings) if one.get_loop() is loop]:
            await asyncio.wait(ours, timeout=CLOSES_WITHIN)


class _Connection(httpcore.AsyncConnectionInterface):
    def __init__(self, inner: httpcore.AsyncConnectionInterface) -> None:
        self._inner = inner
        self._made = monotonic()
        self._begun = False
        # A request has come, and the connection below may still call itself idle.
        self._entering = False
        self._gone = False

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        if self._gone or self._entering:
            # The pool finds or makes another one.
            raise httpcore.ConnectionNotAvailable
        self._begun = self._entering = True
        try:
            response = await self._inner.handle_async_request(request)
        except httpcore.ConnectionNotAvailable:
            # Somebody else's request is on it.
            raise
        except BaseException:
            await self.aclose()
            raise
        finally:
            self._entering = False
        response.stream = _Body(cast("_Stream", response.stream), self)
        return response

    async def give_up(self) -> None:
        """Close, unless the request on it has come to its end all the same."""
        if not self._inner.is_idle():
            await self.aclose()

    async def aclose(self) -> None:
        # Nothing is waited for, so nothing can be cancelled half-way.
        self._gone = True
        _begin(self._inner.aclose())

    def info(self) -> str:
        return self._inner.info()

    def can_handle_request(self, origin: httpcore.Origin) -> bool:
        return self._inner.can_handle_request(origin)

    def is_available(self) -> bool:
        return not (self._gone or self._entering) and self._inner.is_available()

    def has_expired(self) -> bool:
        made_for_nobody = not self._begun and monotonic() > self._made + BEGINS_WITHIN
        return made_for_nobody or (not self._entering and self._inner.has_expired())

    def is_idle(self) -> bool:
        return not self._entering and self._inner.is_idle()

    def is_closed(self) -> bool:
        return self._gone or self._inner.is_closed()


class _Stream(Protocol):
    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


class _Body:
    """Is a body whose connection closes when the reading, or its end, is cut off.

    What httpcore does then takes several steps, and a second cancellation ends it half-way.
    """

    def __init__(self, inner: _Stream, connection: _Connection) -> None:
        self._inner = inner
        self._connection = connection

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._inner:
                yield part
        except BaseException:
            await self._connection.give_up()
            raise

    async def aclose(self) -> None:
        try:
            await self._inner.aclose()
        except BaseException:
            await self._connection.give_up()
            raise


_endings: set[asyncio.Task[None]] = set()


async def to_its_end(work: Coroutine[object, object, None]) -> None:
    """Wait for clearing up that goes on even if who waits is cancelled."""
    await asyncio.shield(_begin(work))


def _begin(work: Coroutine[object, object, None]) -> asyncio.Task[None]:
    task = asyncio.ensure_future(work)
    _endings.add(task)
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[None]) -> None:
    _endings.discard(task)
    if not task.cancelled():
        # What went wrong while it was closed is over with it.
        task.exception()
