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
from alembic.util import CommandError
from sqlalchemy.util import await_only

from atproto_oauth_asgi.errors import ConfigurationError, StoreUnavailable
from atproto_oauth_asgi_migrations.environment import include_name_in
from atproto_oauth_asgi_stores.engines import engines_to_migrate
from atproto_oauth_asgi_stores.failures import driver_errors_translated
from atproto_oauth_asgi_stores.revisions import revisions_of_app
from atproto_oauth_asgi_stores.tables import PREFIX, VERSION_TABLE, metadata_for
from atproto_oauth_asgi_stores.urls import refuse_missing_folder

Result = TypeVar("Result")

# Alembic keeps its context in module globals, so only one run at a time in a process.
_turn = threading.Lock()
#: How long to wait for another run, in steps of 10 ms.
_TURN_STEPS = 6000
#: Databases that every revision can write SQL for.
DIALECTS = ("sqlite", "postgresql", "mysql", "mariadb")


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
        schema: The database schema of the tables; PostgreSQL makes it if it is not there.
        revision: The revision to end at.

    Raises:
        ConfigurationError: there is no such revision, or the app's own Alembic keeps the tables.
        StoreUnavailable: another migration did not end in time.
    """
    _refuse_what_an_app_keeps(connection, schema)
    with _one_at_a_time(connection), _sentences():
        command.upgrade(config(connection=connection, schema=schema), revision)


def downgrade(connection: sa.Connection, revision: str, *, schema: str | None = None) -> None:
    """Take the tables back to a revision, or with `base` drop them and all that is in them.

    Raises:
        ConfigurationError: as `upgrade` does.
    """
    _refuse_what_an_app_keeps(connection, schema)
    with _one_at_a_time(connection), _sentences():
        command.downgrade(config(connection=connection, schema=schema), revision)


def stamp(connection: sa.Connection, *, schema: str | None = None, revision: str = "head") -> None:
    """Write down the revision that the tables are at, and change nothing else.

    Raises:
        ConfigurationError: as `upgrade` does.
    """
    _refuse_what_an_app_keeps(connection, schema)
    with _one_at_a_time(connection), _sentences():
        command.stamp(config(connection=connection, schema=schema), revision, purge=True)


def current(connection: sa.Connection, *, schema: str | None = None) -> str | None:
    """Return the revision that the tables are at, or None when there are none of ours.

    It is in our own version table, or in that of an app whose Alembic runs our revisions.
    """
    return ", ".join(_own(connection, schema) or revisions_of_app(connection, schema)) or None


def _own(connection: sa.Connection, schema: str | None) -> tuple[str, ...]:
    if not sa.inspect(connection).has_table(VERSION_TABLE, schema=schema):
        return ()
    context = MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE, "version_table_schema": schema}
    )
    return context.get_current_heads()


def _refuse_what_an_app_keeps(connection: sa.Connection, schema: str | None) -> None:
    kept = () if _own(connection, schema) else revisions_of_app(connection, schema)
    if kept:
        raise ConfigurationError(
            f"These tables are kept by your app's own Alembic ({kept[0]} in its version table): "
            "run your `alembic upgrade heads` instead."
        )


@contextmanager
def _sentences() -> Generator[None]:
    try:
        yield
    except CommandError as exc:
        raise ConfigurationError(
            f"The migration cannot be run: {exc}. Name a revision that this version of "
            "atproto-oauth-asgi has, such as `head`."
        ) from exc


def differences(connection: sa.Connection, *, schema: str | None = None) -> list[str]:
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


def sql(
    dialect: str,
    out: TextIO,
    *,
    schema: str | None = None,
    start: str | None = None,
    revision: str = "head",
) -> None:
    """Write the SQL of a migration for somebody else to run; needs no database and no driver.

    Args:
        dialect: `postgresql`, `mysql`, `mariadb` or `sqlite`.
        out: Where to write.
        schema: The database schema of the tables.
        start: The revision that the tables are at; None for none.
        revision: The revision to end at; with `base`, or one before `start`, it goes back.

    Raises:
        ConfigurationError: there is no such revision or dialect.
    """
    if dialect not in DIALECTS:
        raise ConfigurationError(f"SQL can be written for {', '.join(DIALECTS)}; choose one.")
    back = start is not None and revision != "head" and (revision == "base" or revision < start)
    run = command.downgrade if back else command.upgrade
    span = revision if start is None else f"{start}:{revision}"
    with _one_at_a_time(None), _sentences():
        run(config(schema=schema, dialect=dialect, out=out), span, sql=True)


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
    engines = engines_to_migrate(url, schema=schema)
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
