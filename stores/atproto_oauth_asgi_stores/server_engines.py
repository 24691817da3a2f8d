"""Engines for PostgreSQL, MySQL and MariaDB."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from atproto_oauth_asgi_stores.loop_engines import FRESH, LOCK_TIMEOUT, POOL_TIMEOUT, Engines

#: Seconds to wait for a new connection, for one statement, and for one piece of work in all.
CONNECT_TIMEOUT = 5
STATEMENT_TIMEOUT = 10
DEADLINE = 20.0
#: Seconds that a migration waits for its turn and for locks; its statements may take any time.
MIGRATION_PATIENCE = 60
#: Seconds after which a connection is made anew: firewalls forget idle ones without a word.
RECYCLE = 300

#: What each driver calls the timeouts that it has. Where it has none, the deadline remains.
_ARGUMENTS: Mapping[str, Mapping[str, object]] = {
    "psycopg": {
        "connect_timeout": CONNECT_TIMEOUT,
        "keepalives_idle": 30,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": STATEMENT_TIMEOUT * 1000,
        # Statements that a connection prepared are unknown on the next one that a pooler gives.
        "prepare_threshold": None,
    },
    "asyncpg": {"timeout": CONNECT_TIMEOUT},
    "asyncmy": {"connect_timeout": CONNECT_TIMEOUT},
}

# A process that stops in the middle of a transaction must not keep its locks for ever. Set by a
# statement and not in the connection's first packet, which poolers refuse.
_POSTGRESQL = (
    "SELECT set_config('lock_timeout', '{lock}s', false), "
    "set_config('statement_timeout', '{statement}s', false), "
    "set_config('idle_in_transaction_session_timeout', '{idle}s', false)"
)
# Rows and whole tables are waited for by clocks of their own. The comments are a statement's part
# for one of the two alone: MySQL limits reading statements, in milliseconds, and no transaction.
_MYSQL = (
    "SET SESSION innodb_lock_wait_timeout = {lock}, lock_wait_timeout = {lock}"
    " /*!50708 , max_execution_time = {statement}000 */"
    " /*M!100302 , max_statement_time = {statement}, idle_write_transaction_timeout = {idle} */"
)


def server_engines(url: URL) -> Engines:
    """Make engines for a database server: at most 11 connections for each event loop.

    That counts the fresh ones, which are made beside these pools.
    """
    alone = _engine(url, "AUTOCOMMIT", size=5, overflow=3 - FRESH)
    return Engines(
        reader=alone, single=alone, writer=_engine(url, "READ COMMITTED", size=1, overflow=2)
    )


def migration_engine(url: URL) -> AsyncEngine:
    """Make an engine for one connection that may take its time."""
    return _engine(url, "READ COMMITTED", size=1, patient=True)


def _engine(
    url: URL,
    isolation: Literal["AUTOCOMMIT", "READ COMMITTED"],
    *,
    size: int,
    overflow: int = 0,
    patient: bool = False,
) -> AsyncEngine:
    arguments = _ARGUMENTS.get(url.get_driver_name(), {})
    alone = isolation == "AUTOCOMMIT"
    engine = create_async_engine(
        url,
        hide_parameters=True,
        # What the URL says comes first.
        connect_args={name: value for name, value in arguments.items() if name not in url.query},
        isolation_level=isolation,
        # With nothing to roll back, a statement is one message each way.
        skip_autocommit_rollback=alone,
        pool_reset_on_return=None if alone else "rollback",
        # Alone: a read that finds a dead connection is repeated, and a write asks before.
        pool_pre_ping=not alone,
        pool_size=size,
        max_overflow=overflow,
        pool_timeout=POOL_TIMEOUT,
        pool_recycle=RECYCLE,
    )
    limits = limits_of(url.get_backend_name(), patient=patient)

    def limit(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        cursor.execute(limits)
        cursor.close()
        # In a transaction that is rolled back it would be forgotten.
        connection.commit()

    if url.get_backend_name() in {"postgresql", "mysql", "mariadb"}:
        event.listen(engine.sync_engine, "connect", limit)
    return engine


def limits_of(backend: str, *, patient: bool) -> str:
    """Return the statement that a new connection of a backend begins with."""
    text = _POSTGRESQL if backend == "postgresql" else _MYSQL
    return text.format(
        lock=MIGRATION_PATIENCE if patient else int(LOCK_TIMEOUT),
        statement=0 if patient else STATEMENT_TIMEOUT,
        idle=0 if patient else STATEMENT_TIMEOUT,
    )
