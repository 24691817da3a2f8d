"""How the SQL store reaches its database."""

from __future__ import annotations

import asyncio
import random
from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
    Sequence,
)
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, Row
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from atproto_oauth_asgi.errors import StoreError
from atproto_oauth_asgi.tasks import Kept
from atproto_oauth_asgi_stores.connections import (
    fresh_connection,
    live_connection,
    pooled_connection,
)
from atproto_oauth_asgi_stores.engines import given_engines, own_engines
from atproto_oauth_asgi_stores.failures import driver_errors_translated, is_lost_race
from atproto_oauth_asgi_stores.loop_engines import LOCK_TIMEOUT, Engines, LoopEngines
from atproto_oauth_asgi_stores.primary import refuse_read_only
from atproto_oauth_asgi_stores.revisions import judge_revision, revisions_in
from atproto_oauth_asgi_stores.server_engines import DEADLINE
from atproto_oauth_asgi_stores.tables import tables_in
from atproto_oauth_asgi_stores.urls import is_sqlite, parse_url, refuse_missing_folder, schema_of
from atproto_oauth_asgi_stores.whole import Whole

Result = TypeVar("Result")

#: How often a transaction is made that others keep winning; each time somebody else got on.
RACES = 5
#: Seconds that a write which cannot be lost leaves to the pool's connections alone, and seconds
#: that such a write may take on a connection of its own.
POOL_PATIENCE = 1.0
FRESH_DEADLINE = 6.0


class Database:
    """Runs statements: those that stand alone without a transaction, the others in one."""

    def __init__(
        self,
        url_or_engine: str | URL | AsyncEngine,
        *,
        schema: str | None = None,
        check_schema: bool = True,
    ) -> None:
        self._own: LoopEngines | None = None
        self._working: set[asyncio.Task[object]] = set()
        self._check_schema = check_schema
        if isinstance(url_or_engine, AsyncEngine):
            self._given = given_engines(url_or_engine)
            sqlite = url_or_engine.dialect.name == "sqlite"
        else:
            url = url_or_engine
            # Made once here, so that a mistake in the URL is found where it was written.
            own_engines(url, schema=schema)
            refuse_missing_folder(url)
            self._own = LoopEngines(lambda: own_engines(url))
            schema = schema or schema_of(url)
            sqlite = is_sqlite(parse_url(url))
        # Work on a SQLite file ends by itself: nothing on the way can go silent.
        self._deadline = None if sqlite else DEADLINE
        self._fresh_deadline = None if sqlite else FRESH_DEADLINE
        self._schema = schema
        self.tables = tables_in(schema)

    async def engines(self) -> Engines:
        """Return the engines to use on the running event loop."""
        return self._given if self._own is None else await self._own.get()

    def _begin(
        self, work: Coroutine[object, object, Result], deadline: float | None
    ) -> Whole[Result]:
        task = Whole(work, deadline=deadline)
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        return task

    async def _whole(self, work: Coroutine[object, object, Result]) -> Result:
        with driver_errors_translated():
            return await self._begin(work, self._deadline).result_or_timeout()

    async def rows(
        self, statement: sa.Executable, parameters: Mapping[str, object] | None = None
    ) -> Sequence[Row[tuple[object, ...]]]:
        """Run one reading statement outside a transaction and return its rows."""

        async def read(connection: AsyncConnection) -> Sequence[Row[tuple[object, ...]]]:
            return (await connection.execute(statement, parameters)).all()

        return await self._whole(self._reading(read))

    async def _reading(self, read: Callable[[AsyncConnection], Awaitable[Result]]) -> Result:
        reader = (await self.engines()).reader
        try:
            async with pooled_connection(reader) as connection:
                return await read(connection)
        except DBAPIError as exc:
            if not exc.connection_invalidated:
                raise
        # The server went away, or somebody on the way to it, while this connection was idle; all
        # that are as old as it are forgotten now.
        async with pooled_connection(reader) as connection:
            return await read(connection)

    async def transact(
        self, write: Callable[[AsyncConnection], Awaitable[Result]], *, races: int = RACES
    ) -> Result:
        """Call `write` with a connection in a transaction; commit, or roll back if it raises.

        It starts with a writing statement: on an engine that we were given SQLite's transaction
        is not immediate, and on others the row it locks makes callers take turns. When the
        database gives the transaction up for another's sake, all of it is done again.
        """

        async def work() -> Result:
            engines = await self.engines()
            async with pooled_connection(engines.writer) as connection, connection.begin():
                return await write(connection)

        return await self._racing(work, races)

    async def change(self, statement: sa.Executable, *, races: int = RACES) -> int:
        """Run one writing statement and return how many rows it changed."""

        async def work() -> int:
            engines = await self.engines()
            if engines.single is None:
                async with pooled_connection(engines.writer) as connection, connection.begin():
                    return await changed(connection, statement)
            # No begin, no commit, and no moment at which a stopped process holds a lock.
            async with live_connection(engines.single) as connection:
                return await changed(connection, statement)

        return await self._racing(work, races)

    async def change_surely(self, statement: sa.Executable) -> int:
        """Run one writing statement as `change` does, whatever has become of the pool.

        When the pool does not bring it about soon, because its connections are all taken, have
        fallen silent, or lead to a server that may not write any more, it is tried on a fresh
        connection as well. So it may run twice, and must be guarded: the second changes nothing.
        """
        tries = [Kept(self.change(statement))]
        tries[0].kept = True
        try:
            await asyncio.wait(tries, timeout=POOL_PATIENCE)
            if not tries[0].done() or tries[0].exception() is not None:
                tries.append(Kept(self._change_freshly(statement)))
                tries[1].kept = True
            error: StoreError | None = None
            for one in asyncio.as_completed(tries):
                try:
                    return await one
                except StoreError as exc:
                    error = error or exc
            raise error or AssertionError("a try ends with a result or an error")
        finally:
            for one in tries:
                one.cancel()
            await asyncio.gather(*tries, return_exceptions=True)

    async def _change_freshly(self, statement: sa.Executable) -> int:
        engines = await self.engines()

        async def work() -> int:
            async with fresh_connection(engines.single or engines.writer) as connection:
                if engines.single is not None:
                    return await changed(connection, statement)
                async with connection.begin():
                    return await changed(connection, statement)

        # Few at a time, for as long as the connection lasts: an outage must not end in a rush.
        await engines.fresh.acquire()
        task = self._begin(work(), self._fresh_deadline)
        task.add_done_callback(lambda _: engines.fresh.release())
        with driver_errors_translated():
            return await task.result_or_timeout()

    async def _racing(
        self, work: Callable[[], Coroutine[object, object, Result]], races: int
    ) -> Result:
        for _ in range(races - 1):
            try:
                return await self._whole(work())
            except StoreError as exc:
                if not is_lost_race(exc.__cause__):
                    raise
            await asyncio.sleep(random.uniform(0, 0.05))  # noqa: S311 - to meet less often
        return await self._whole(work())

    async def open(self) -> None:
        """Connect and check the schema; see `Store.open`."""
        await self.check()

    async def aclose(self) -> None:
        """Dispose of the running event loop's engines, if they are ours; see `Store.aclose`."""
        loop = asyncio.get_running_loop()
        working = [task for task in self._working.copy() if task.get_loop() is loop]
        if working:
            # As long as they may take: what comes back to a closed pool would stay open.
            await asyncio.wait(working, timeout=max(self._deadline or 0.0, LOCK_TIMEOUT))
        if self._own is not None:
            with driver_errors_translated():
                await self._own.aclose()

    async def check(self) -> None:
        """Read the schema's version, and whether this is the primary; see `Store.check`."""

        async def ask(connection: AsyncConnection) -> Sequence[str]:
            if self._check_schema:
                return await revisions_in(connection, self._schema)
            await refuse_read_only(connection)
            return ()

        found = await self._whole(self._reading(ask))
        if self._check_schema:
            judge_revision(found)


async def changed(connection: AsyncConnection, statement: sa.Executable) -> int:
    """Run a writing statement and return how many rows matched."""
    return (await connection.execute(statement)).rowcount
