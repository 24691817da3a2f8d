"""The refresh on a database server, which is not always where it was, or as fast as it was."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from atproto_oauth_asgi.errors import StoreError, StoreUnavailable
from atproto_oauth_asgi.testing.conformance_base import session
from atproto_oauth_asgi_stores import SQLStore, database
from tests.proxy import Proxy
from tests.refresh.fleet import QUICK, timing, within
from tests.refresh.scenarios_sql import in_database
from tests.refresh.sentences import shows_on_servers
from tests.stores.places import Place, all_taken, empty


@asynccontextmanager
async def _opened(url: str) -> AsyncGenerator[SQLStore]:
    store = SQLStore(url)
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def _emptied(place: Place) -> AsyncGenerator[SQLStore]:
    async with _opened(place.url) as store:
        await empty(store)
        yield store


# --- Commit ---


@asynccontextmanager
async def _committing(place: Place) -> AsyncGenerator[tuple[Proxy, SQLStore, AsyncExitStack]]:
    """Let a refresh get as far as its answer; after the block it must be stored in time.

    What is left on the stack is undone when it was.
    """
    with pytest.MonkeyPatch.context() as patch, timing(QUICK, wait=0.5, commit_try=3.0):
        # Each try spoils one connection of the pool at most, so what waits for the pool is not done
        # in time, and a busy machine is.
        patch.setattr(database, "POOL_PATIENCE", 0.1)
        async with _emptied(place) as direct, Proxy(place.server.port) as proxy:
            far = SQLStore(place.through(proxy))
            try:
                async with in_database(place.url, far) as here, AsyncExitStack() as until_stored:
                    async with here.network.pause_token_endpoint(
                        "refresh_token", when="after"
                    ) as pause:
                        refreshing = asyncio.create_task(here.refresh())
                        await within(30, pause.arrived())
                        yield proxy, far, until_stored
                        pause.release()
                        await asyncio.wait({refreshing}, timeout=5)
                    found = await direct.load_session(here.live.id)
                    # What is stuck ends, whatever was found.
                    await until_stored.aclose()
                    proxy.cut()
                    await within(30, refreshing)
                    assert found is not None
                    assert (found.version, found.status) == (2, "active")
                    assert len(here.network.token_requests("refresh_token")) == 1
            finally:
                proxy.cut()
                await far.aclose()


@shows_on_servers("6.5.fresh", without=("commits wait for the pool",))
async def connections_that_fell_silent_delay_no_commit(place: Place) -> None:
    async with _committing(place) as (proxy, far, _):
        async with all_taken(far):
            pass
        # All that the pool keeps lead nowhere, as after a failover.
        proxy.strand()


@shows_on_servers("6.5.fresh", without=("commits wait for the pool",))
async def a_pool_that_is_used_up_delays_no_commit(place: Place) -> None:
    async with _committing(place) as (_, far, until_stored):
        await until_stored.enter_async_context(all_taken(far))


# --- The clock ---


@shows_on_servers(
    "6.2.statement",
    without=("the clock stands still in a statement",),
    # MariaDB has none that is read later; there leases come out shorter, and never longer.
    drivers=("psycopg", "asyncpg"),
)
async def a_lease_begins_when_the_row_is_written(place: Place) -> None:
    async with _emptied(place) as store:
        await store.create_session(session(), browser=None)
        held = asyncio.Event()
        freed = 0.0

        async def hold(connection: AsyncConnection) -> None:
            nonlocal freed
            await connection.execute(sa.update(store.tables.session).values(handle=None))
            held.set()
            await asyncio.sleep(0.6)
            freed = time.monotonic()

        holding = asyncio.create_task(store.transact(hold))
        await held.wait()
        # It waits for the row for most of what it then has: too little to look servers up in.
        assert await store.acquire_refresh("session", version=1, owner="me", lease_ms=800)
        row = await store.load_session("session")
        since_ms = (time.monotonic() - freed) * 1000
        await holding

        assert row is not None
        assert row.lease_remaining_ms is not None
        assert row.lease_remaining_ms > 800 - since_ms - 50


# --- The primary ---


@shows_on_servers("6.2.primary", without=("replicas are taken for primaries",))
async def a_server_that_takes_no_writes_is_refused_at_start(place: Place) -> None:
    with place.read_only():
        async with _opened(place.url) as store:
            said = "nothing"
            try:
                await store.open()
            except StoreUnavailable as exc:
                said = str(exc)
            assert "let the store's URL name the primary" in said
    async with _opened(place.url) as store:
        await store.open()


# --- Transactions ---


@shows_on_servers(
    "6.2.transaction",
    without=("the next try is made in the same transaction",),
    drivers=("psycopg", "asyncpg"),
)
async def a_try_after_a_lost_race_sees_what_the_winner_wrote(place: Place) -> None:
    async with _emptied(place) as store:
        await store.create_session(session(), browser=None)
        row, tries = store.tables.session, 0

        async def write(connection: AsyncConnection) -> int:
            nonlocal tries
            tries += 1
            if tries == 1:
                # Somebody else is faster.
                await connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
                await connection.execute(sa.select(row.c.version))
                assert await store.change(sa.update(row).values(failures=1)) == 1
            written = sa.update(row).values(failures=row.c.failures + 1)
            return (await connection.execute(written)).rowcount

        try:
            assert await store.transact(write) == 1
        except StoreError as exc:
            raise AssertionError("it was not tried anew") from exc
        found = await store.load_session("session")
        assert found is not None
        assert (tries, found.failures) == (2, 2)
