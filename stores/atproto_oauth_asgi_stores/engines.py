"""SQLAlchemy engines: one pair per running event loop, closed when the loop ends."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

from sqlalchemy import AdaptedConnection, Connection, event
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, StaticPool

from atproto_oauth_asgi.errors import ConfigurationError
from atproto_oauth_asgi_stores.urls import is_sqlite, parse_url

#: Seconds that a statement waits for another process's write, and a task for a connection.
LOCK_TIMEOUT = 5.0
POOL_TIMEOUT = 10.0
#: Reads of one SQLite file that run at once; each has a thread.
SQLITE_READERS = 4


class _Stoppable(Protocol):
    def stop(self) -> asyncio.Future[object] | None: ...


def _no_threads() -> weakref.WeakSet[_Stoppable]:
    return weakref.WeakSet()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Engines:
    """One way to read with a single statement, and one to write in a transaction."""

    reader: AsyncEngine
    writer: AsyncEngine
    #: Driver connections with a thread of their own, which outlives its event loop.
    threads: weakref.WeakSet[_Stoppable] = field(default_factory=_no_threads)

    async def dispose(self) -> None:
        """Close all connections, on the event loop that they belong to."""
        await self.writer.dispose()
        await self.reader.dispose()

    async def abandon(self) -> None:
        """Let go of connections whose event loop is closed: nothing of theirs can be awaited."""
        stopped = [connection.stop() for connection in list(self.threads)]
        ends = [end for end in stopped if end is not None]
        if ends:
            await asyncio.wait(ends, timeout=LOCK_TIMEOUT)
        for engine in (self.writer, self.reader):
            engine.sync_engine.dispose(close=False)


def given_engines(engine: AsyncEngine) -> Engines:
    """Use an engine of the app's as it is; it is never disposed."""
    if engine.dialect.name == "sqlite" and isinstance(engine.pool, StaticPool):
        raise ConfigurationError(
            "A SQLite database in memory has one connection, which cannot hold two transactions; "
            "give the store an engine on a file, or use memory://."
        )
    return Engines(reader=engine.execution_options(isolation_level="AUTOCOMMIT"), writer=engine)


def own_engines(url: str | URL, *, schema: str | None = None) -> Engines:
    """Make engines for a store URL; nothing is connected yet.

    Raises:
        ConfigurationError: the URL is not one, or its driver is not installed.
    """
    parsed = parse_url(url, schema=schema)
    try:
        return _sqlite_engines(parsed) if is_sqlite(parsed) else _server_engines(parsed)
    except (ImportError, NoSuchModuleError, ArgumentError, TypeError) as exc:
        raise ConfigurationError(
            f"The store URL's driver {parsed.drivername!r} cannot be used; install it (for "
            "PostgreSQL: `pip install 'atproto-oauth-asgi[postgres]'`, for MySQL and MariaDB: "
            "`[mysql]`) or correct the URL."
        ) from exc


def _server_engines(url: URL) -> Engines:
    engine = create_async_engine(
        url, hide_parameters=True, pool_pre_ping=True, pool_timeout=POOL_TIMEOUT
    )
    return Engines(reader=engine.execution_options(isolation_level="AUTOCOMMIT"), writer=engine)


def _sqlite_engines(url: URL) -> Engines:
    # isolation_level None: the driver adds no BEGIN of its own, so that ours is the only one.
    arguments = {"timeout": LOCK_TIMEOUT, "isolation_level": None}
    writer = create_async_engine(
        url,
        hide_parameters=True,
        connect_args=arguments,
        # One writer at a time is all that SQLite has; a queue here is fairer than its polling.
        pool_size=1,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
    )
    reader = create_async_engine(
        url,
        hide_parameters=True,
        connect_args=arguments,
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        pool_reset_on_return=None,
        pool_size=SQLITE_READERS,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
    )
    engines = Engines(reader=reader, writer=writer)

    def driver_of(connection: DBAPIConnection) -> _Stoppable:
        adapted = cast("AdaptedConnection", connection)
        return cast("_Stoppable", adapted.driver_connection)

    def prepare(connection: DBAPIConnection, *pragmas: str) -> None:
        engines.threads.add(driver_of(connection))
        cursor = connection.cursor()
        try:
            for pragma in pragmas:
                cursor.execute(f"PRAGMA {pragma}")
        except BaseException:
            # The pool forgets a connection that fails here without closing it.
            connection.close()
            raise
        cursor.close()

    def prepare_reader(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        prepare(connection, "query_only = ON")

    def prepare_writer(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        # NORMAL would lose the last commits with the power, and with them refresh tokens that
        # nobody else has: such a session is dead.
        prepare(connection, "foreign_keys = ON", "synchronous = FULL", "schema_version")
        cursor = connection.cursor()
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except connection.dbapi.OperationalError:
            # Somebody is writing right now, or the file system cannot: slower, not wrong.
            return
        finally:
            cursor.close()

    def begin_immediate(connection: Connection) -> None:
        # A deferred transaction that reads first cannot wait for its turn to write.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def forget(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        engines.threads.discard(driver_of(connection))

    for engine in (writer, reader):
        event.listen(engine.sync_engine, "close", forget)
    event.listen(writer.sync_engine, "connect", prepare_writer)
    event.listen(writer.sync_engine, "begin", begin_immediate)
    event.listen(reader.sync_engine, "connect", prepare_reader)
    return engines


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
