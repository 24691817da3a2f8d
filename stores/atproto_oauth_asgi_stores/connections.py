"""Connections of an engine, each for the length of a block.

`async with engine.connect()` gives its connection back in a task of its own, which an event loop
that ends cancels: the connection is lost, and what was committed on it looks as if it had failed.
These give it back in the task that used it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.util import greenlet_spawn

_QUESTION: sa.Select[tuple[int]] = sa.select(sa.literal_column("1"))


@asynccontextmanager
async def pooled_connection(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """Take a connection from the engine's pool."""
    connection = await engine.connect()
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def live_connection(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """Take one, and ask something first: what is written into a dead connection is lost."""
    connection = await engine.connect()
    try:
        try:
            await connection.execute(_QUESTION)
        except DBAPIError as exc:
            if not exc.connection_invalidated:
                raise
            await connection.close()
            connection = await engine.connect()
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def fresh_connection(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """Make one that has no place in the engine's pool.

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
