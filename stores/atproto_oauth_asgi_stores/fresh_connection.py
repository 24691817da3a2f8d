"""A connection that no pool has kept, made as its engine makes them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.util import greenlet_spawn


@asynccontextmanager
async def fresh_connection(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """Connect for the length of a block, without a place in the engine's pool.

    Everything else is the engine's: how it connects and signs in, what listens to its events,
    its isolation level. (A second engine for the same URL would know nothing of these.)
    """
    # A pool for this one connection; one that is merely detached from its pool is not closed by
    # all drivers.
    pool = engine.sync_engine.pool.recreate()

    def connect() -> Connection:
        made = pool.connect()
        try:
            return Connection(engine.sync_engine, connection=made)
        except BaseException:
            made.invalidate()
            raise

    try:
        connection = AsyncConnection(engine, await greenlet_spawn(connect))
        try:
            yield connection
        finally:
            await connection.close()
    finally:
        await greenlet_spawn(pool.dispose)
