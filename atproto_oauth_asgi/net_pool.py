"""Connections that find back to their pool, whatever cancels who uses them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import httpcore

_endings: set[asyncio.Task[None]] = set()


class Pool(httpcore.AsyncConnectionPool):
    """A pool that loses no place to a request that is cancelled.

    httpcore protects its own clearing up from the cancellation of anyio, not of asyncio; and
    a connection that was made for a request that never began is neither used nor idle, so it
    would keep its place, and its socket, for the life of the process.
    """

    def create_connection(self, origin: httpcore.Origin) -> httpcore.AsyncConnectionInterface:
        """Make a connection that closes when a request on it fails in whatever way."""
        return _Connection(super().create_connection(origin))


class _Connection(httpcore.AsyncConnectionInterface):
    def __init__(self, inner: httpcore.AsyncConnectionInterface) -> None:
        self._inner = inner

    def __repr__(self) -> str:
        return repr(self._inner)

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        try:
            return await self._inner.handle_async_request(request)
        except httpcore.ConnectionNotAvailable:
            # Somebody else's request is on it.
            raise
        except BaseException:
            await to_its_end(self._inner.aclose())
            raise

    async def aclose(self) -> None:
        await to_its_end(self._inner.aclose())

    def info(self) -> str:
        return self._inner.info()

    def can_handle_request(self, origin: httpcore.Origin) -> bool:
        return self._inner.can_handle_request(origin)

    def is_available(self) -> bool:
        return self._inner.is_available()

    def has_expired(self) -> bool:
        return self._inner.has_expired()

    def is_idle(self) -> bool:
        return self._inner.is_idle()

    def is_closed(self) -> bool:
        return self._inner.is_closed()


async def to_its_end(work: Coroutine[object, object, None]) -> None:
    """Wait for clearing up that goes on even if who waits is cancelled."""
    task = asyncio.ensure_future(work)
    _endings.add(task)
    task.add_done_callback(_endings.discard)
    await asyncio.shield(task)
