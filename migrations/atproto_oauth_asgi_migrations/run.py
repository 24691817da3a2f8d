"""Run Alembic from code: no ini file, no engine of its own, one at a time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.resources import files
from typing import TextIO, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy.util import await_only

from atproto_oauth_asgi.errors import StoreUnavailable
from atproto_oauth_asgi_migrations.environment import include_name_in
from atproto_oauth_asgi_stores.engines import own_engines
from atproto_oauth_asgi_stores.failures import driver_errors_translated
from atproto_oauth_asgi_stores.tables import PREFIX, VERSION_TABLE, metadata_for
from atproto_oauth_asgi_stores.urls import refuse_missing_folder

Result = TypeVar("Result")

# Alembic keeps its context in module globals, so only one run at a time in a process.
_turn = threading.Lock()
#: How long to wait for another run, in steps of 10 ms.
_TURN_STEPS = 6000


@contextmanager
def _one_at_a_time(connection: sa.Connection | None) -> Generator[None]:
    # Under `run_sync` this is the event loop's thread: to wait in it would stop the very task
    # that has the turn.
    pause = _pause_task if connection is not None and connection.dialect.is_async else time.sleep
    for _ in range(_TURN_STEPS):
        if _turn.acquire(blocking=False):
            break
        pause(0.01)
    else:
        raise StoreUnavailable("Another migration in this process does not end; restart it.")
    try:
        yield
    finally:
        _turn.release()


def _pause_task(seconds: float) -> None:
    await_only(asyncio.sleep(seconds))


def config(
    *,
    connection: sa.Connection | None = None,
    schema: str | None = None,
    dialect: str | None = None,
    out: TextIO | None = None,
) -> Config:
    """Return Alembic's configuration for our packaged revisions."""
    made = Config() if out is None else Config(output_buffer=out)
    # A percent sign is the ini format's own.
    made.set_main_option(
        "script_location", str(files("atproto_oauth_asgi_migrations")).replace("%", "%%")
    )
    made.attributes.update(schema=schema, connection=connection, dialect=dialect)
    return made


def upgrade(
    connection: sa.Connection, *, schema: str | None = None, revision: str = "head"
) -> None:
    """Bring the tables up to a revision, in the connection's transaction.

    Args:
        connection: A synchronous connection, which an async one gives to `run_sync`.
        schema: The database schema of the tables.
        revision: The revision to end at.
    """
    with _one_at_a_time(connection):
        command.upgrade(config(connection=connection, schema=schema), revision)


def current(connection: sa.Connection, *, schema: str | None = None) -> str | None:
    """Return the revision that the tables are at, or None when there are none of ours."""
    if not sa.inspect(connection).has_table(VERSION_TABLE, schema=schema):
        return None
    context = MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE, "version_table_schema": schema}
    )
    heads = context.get_current_heads()
    return ", ".join(heads) or None


def check(connection: sa.Connection, *, schema: str | None = None) -> list[str]:
    """Compare the database with the tables that the stores expect; return the differences."""
    context = MigrationContext.configure(
        connection,
        opts={
            "version_table": VERSION_TABLE,
            "version_table_schema": schema,
            "include_schemas": schema is not None,
            "include_name": include_name_in(schema),
            "compare_type": True,
        },
    )
    return [str(difference) for difference in compare_metadata(context, metadata_for(schema))]


def sql(dialect: str, out: TextIO, *, schema: str | None = None, revision: str = "head") -> None:
    """Write the SQL of an upgrade from nothing; needs no database and no driver."""
    with _one_at_a_time(None):
        command.upgrade(config(schema=schema, dialect=dialect, out=out), revision, sql=True)


async def on_url(
    url: str, work: Callable[[sa.Connection], Result], *, schema: str | None = None
) -> Result:
    """Run something in one transaction on a store URL, on a connection made for it.

    Args:
        url: The store's URL.
        work: Called with a synchronous connection, in a transaction that is then committed.
        schema: The schema it is about; only looked at to refuse one where there are none.

    Raises:
        ConfigurationError: the URL is wrong, or its driver is not installed.
        StoreUnavailable: the database does not answer.
    """
    engines = own_engines(url, schema=schema)
    refuse_missing_folder(url)
    try:
        with driver_errors_translated():
            async with engines.writer.begin() as connection:
                return await connection.run_sync(work)
    finally:
        await engines.dispose()


async def migrate_empty(url: str) -> bool:
    """Make the tables in a database that has none of ours; tell whether that was done.

    Whoever comes second waits for the first and finds the tables: SQLite's immediate
    transaction is the lock on the file.
    """

    def fill(connection: sa.Connection) -> bool:
        if any(name.startswith(PREFIX) for name in sa.inspect(connection).get_table_names()):
            return False
        upgrade(connection)
        return True

    return await on_url(url, fill)
