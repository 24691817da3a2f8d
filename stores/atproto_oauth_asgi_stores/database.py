"""How the SQL store reaches its database."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

import sqlalchemy as sa
from sqlalchemy.engine import URL, Row
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from atproto_oauth_asgi.errors import SchemaOutOfDate
from atproto_oauth_asgi_stores.engines import Engines, LoopEngines, given_engines, own_engines
from atproto_oauth_asgi_stores.failures import driver_errors_translated
from atproto_oauth_asgi_stores.tables import SCHEMA_HEAD, VERSION_TABLE, tables_in

_log = logging.getLogger("atproto_oauth_asgi.store")
_REVISION = re.compile(r"aoa_(\d+)")


class Database:
    """Runs statements: reads alone and without a transaction, writes in one."""

    def __init__(
        self, url_or_engine: str | URL | AsyncEngine, *, schema: str | None = None
    ) -> None:
        self.tables = tables_in(schema)
        self._schema = schema
        self._own: LoopEngines | None = None
        if isinstance(url_or_engine, AsyncEngine):
            self._given = given_engines(url_or_engine)
        else:
            url = url_or_engine
            # Made once here, so that a mistake in the URL is found where it was written.
            own_engines(url, schema=schema)
            self._own = LoopEngines(lambda: own_engines(url))

    async def _engines(self) -> Engines:
        return self._given if self._own is None else await self._own.get()

    async def rows(
        self, statement: sa.Executable, parameters: Mapping[str, object] | None = None
    ) -> Sequence[Row[tuple[object, ...]]]:
        """Run one statement outside a transaction and return its rows."""
        with driver_errors_translated():
            engines = await self._engines()
            async with engines.reader.connect() as connection:
                return (await connection.execute(statement, parameters)).all()

    async def change(self, statement: sa.Executable) -> int:
        """Run one writing statement in a transaction and return how many rows it changed."""
        async with self.transaction() as connection:
            return await changed(connection, statement)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncConnection]:
        """Give a connection in a transaction, which is committed at the end, or rolled back.

        Start with a writing statement: on an engine that we were given SQLite's transaction is
        not immediate, and on others the row it locks makes callers take turns.
        """
        with driver_errors_translated():
            engines = await self._engines()
            async with engines.writer.begin() as connection:
                yield connection

    async def open(self) -> None:
        """Connect and check the schema; see `Store.open`."""
        await self.check()

    async def aclose(self) -> None:
        """Dispose of the running event loop's engines, if they are ours; see `Store.aclose`."""
        if self._own is not None:
            with driver_errors_translated():
                await self._own.aclose()

    async def check(self) -> None:
        """Read the schema's version, in one statement; see `Store.check`."""
        with driver_errors_translated():
            engines = await self._engines()
            async with engines.reader.connect() as connection:
                found: Sequence[str]
                try:
                    found = (await connection.scalars(sa.select(self.tables.version))).all()
                except (OperationalError, ProgrammingError):
                    # Either there is no such table, or this raises as well.
                    if await connection.run_sync(self._has_version_table):
                        raise
                    found = []
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
