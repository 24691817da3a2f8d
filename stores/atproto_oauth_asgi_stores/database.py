"""How the SQL store reaches its database."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, Row
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from atproto_oauth_asgi.errors import SchemaOutOfDate
from atproto_oauth_asgi_stores.engines import (
    LOCK_TIMEOUT,
    Engines,
    LoopEngines,
    given_engines,
    own_engines,
)
from atproto_oauth_asgi_stores.failures import driver_errors_translated
from atproto_oauth_asgi_stores.tables import SCHEMA_HEAD, VERSION_TABLE, tables_in
from atproto_oauth_asgi_stores.urls import refuse_missing_folder

_log = logging.getLogger("atproto_oauth_asgi.store")
Result = TypeVar("Result")
_REVISION = re.compile(r"aoa_(\d+)")


class _Whole(asyncio.Task[Result]):
    """Is work on a connection, which goes on to its end whoever is cancelled.

    A cancellation inside SQLAlchemy can lose a connection on its way out of the pool or back; it
    also waits for the database, which is what a caller with a deadline must not do. An event loop
    that ends cancels its tasks and then waits for them: for this one until the work is done,
    which the database's own timeouts bound.
    """

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002 - as asyncio.Task has it
        return False


class Database:
    """Runs statements: reads alone and without a transaction, writes in one."""

    def __init__(
        self, url_or_engine: str | URL | AsyncEngine, *, schema: str | None = None
    ) -> None:
        self.tables = tables_in(schema)
        self._schema = schema
        self._own: LoopEngines | None = None
        self._working: set[asyncio.Task[object]] = set()
        if isinstance(url_or_engine, AsyncEngine):
            self._given = given_engines(url_or_engine)
        else:
            url = url_or_engine
            # Made once here, so that a mistake in the URL is found where it was written.
            own_engines(url, schema=schema)
            refuse_missing_folder(url)
            self._own = LoopEngines(lambda: own_engines(url))

    async def engines(self) -> Engines:
        """Return the engines to use on the running event loop."""
        return self._given if self._own is None else await self._own.get()

    async def _whole(self, work: Coroutine[object, object, Result]) -> Result:
        task = _Whole(work, loop=asyncio.get_running_loop())
        self._working.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[object]) -> None:
        self._working.discard(task)
        # Marks an error as seen: nobody else looks when the caller has gone.
        task.exception()

    async def rows(
        self, statement: sa.Executable, parameters: Mapping[str, object] | None = None
    ) -> Sequence[Row[tuple[object, ...]]]:
        """Run one statement outside a transaction and return its rows."""

        async def work() -> Sequence[Row[tuple[object, ...]]]:
            engines = await self.engines()
            async with engines.reader.connect() as connection:
                return (await connection.execute(statement, parameters)).all()

        with driver_errors_translated():
            return await self._whole(work())

    async def transact(self, write: Callable[[AsyncConnection], Awaitable[Result]]) -> Result:
        """Call `write` with a connection in a transaction; commit, or roll back if it raises.

        It starts with a writing statement: on an engine that we were given SQLite's transaction
        is not immediate, and on others the row it locks makes callers take turns.
        """

        async def work() -> Result:
            engines = await self.engines()
            async with engines.writer.begin() as connection:
                return await write(connection)

        with driver_errors_translated():
            return await self._whole(work())

    async def change(self, statement: sa.Executable) -> int:
        """Run one writing statement in a transaction and return how many rows it changed."""
        return await self.transact(lambda connection: changed(connection, statement))

    async def open(self) -> None:
        """Connect and check the schema; see `Store.open`."""
        await self.check()

    async def aclose(self) -> None:
        """Dispose of the running event loop's engines, if they are ours; see `Store.aclose`."""
        loop = asyncio.get_running_loop()
        working = [task for task in self._working.copy() if task.get_loop() is loop]
        if working:
            await asyncio.wait(working, timeout=LOCK_TIMEOUT)
        if self._own is not None:
            with driver_errors_translated():
                await self._own.aclose()

    async def check(self) -> None:
        """Read the schema's version, in one statement; see `Store.check`."""

        async def work() -> Sequence[str]:
            engines = await self.engines()
            async with engines.reader.connect() as connection:
                try:
                    return (await connection.scalars(sa.select(self.tables.version))).all()
                except (OperationalError, ProgrammingError):
                    # Either there is no such table, or this raises as well.
                    if await connection.run_sync(self._has_version_table):
                        raise
                    return ()

        with driver_errors_translated():
            found = await self._whole(work())
        judge_revision(found)

    def _has_version_table(self, connection: sa.Connection) -> bool:
        return sa.inspect(connection).has_table(VERSION_TABLE, schema=self._schema)


async def changed(connection: AsyncConnection, statement: sa.Executable) -> int:
    """Run a writing statement and return how many rows matched."""
    return (await connection.execute(statement)).rowcount


def judge_revision(found: Sequence[str]) -> None:
    """Refuse a schema that is missing or behind; say so of one that is newer, and go on.

    A newer one is what the old processes see while a deployment rolls.
    """
    if SCHEMA_HEAD in found:
        return
    known, wanted = (_REVISION.fullmatch(text) for text in ("".join(found), SCHEMA_HEAD))
    if not found or (known and wanted and int(known[1]) < int(wanted[1])):
        state = f"at {found[0]}, behind {SCHEMA_HEAD}" if found else "not there yet"
        raise SchemaOutOfDate(
            f"The store's tables are {state}: run `atproto-oauth-asgi db upgrade`."
        )
    _log.warning(
        "The store's tables are newer than this version of atproto-oauth-asgi knows; upgrade it.",
        extra={"found": list(found), "known": SCHEMA_HEAD},
    )
