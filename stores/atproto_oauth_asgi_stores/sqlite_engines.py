"""Engines for a SQLite file."""

from __future__ import annotations

from typing import cast

from sqlalchemy import AdaptedConnection, Connection, event
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from atproto_oauth_asgi_stores import loop_engines
from atproto_oauth_asgi_stores.loop_engines import POOL_TIMEOUT, Engines, Stoppable

#: Reads of one file that run at once; each has a thread.
READERS = 4


def sqlite_engines(url: URL) -> Engines:
    """Make engines for an SQLite file: one connection that writes, and a few that read."""
    # isolation_level None: the driver adds no BEGIN of its own, so that ours is the only one.
    arguments = {"timeout": loop_engines.LOCK_TIMEOUT, "isolation_level": None}
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
        pool_size=READERS,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
    )
    engines = Engines(reader=reader, writer=writer)

    def driver_of(connection: DBAPIConnection) -> Stoppable:
        adapted = cast("AdaptedConnection", connection)
        return cast("Stoppable", adapted.driver_connection)

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
