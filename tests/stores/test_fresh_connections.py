"""New tokens are stored whatever has become of the pool's connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from atproto_oauth_asgi.errors import StoreUnavailable
from atproto_oauth_asgi.testing.conformance_base import refreshed, session
from atproto_oauth_asgi_migrations import migrate_empty
from atproto_oauth_asgi_stores import SQLStore, database
from atproto_oauth_asgi_stores.loop_engines import FRESH
from tests.proxy import Proxy
from tests.stores.places import Place, all_taken

pytestmark = pytest.mark.anyio

#: Seconds in which a commit comes about. A refresh gives each try 3, and a busy machine may take
#: longer, but not until `FRESH_DEADLINE`, which ends what hangs.
TRY = 5.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "POOL_PATIENCE", 0.1)


@pytest.fixture
async def proxy(place: Place) -> AsyncGenerator[Proxy]:
    async with Proxy(place.server.port) as proxy:
        yield proxy


@pytest.fixture
async def far_store(place: Place, store: SQLStore, proxy: Proxy) -> AsyncGenerator[SQLStore]:
    """Is a store behind the proxy, whose pool has all the connections that it can have."""
    far = SQLStore(place.through(proxy))
    await far.create_session(session(), browser=None)
    async with all_taken(far):
        pass
    yield far
    # Whatever is stuck ends.
    proxy.cut()
    await far.aclose()


async def _commit(store: SQLStore, session_id: str = "session", owner: str = "me") -> bool:
    return await store.commit_refresh(
        session_id, version=1, owner=owner, refreshed=refreshed(owner.encode())
    )


async def _version(store: SQLStore, session_id: str = "session") -> tuple[int, str | None]:
    row = await store.load_session(session_id)
    assert row is not None
    return row.version, row.lease_owner


# --- The store's own pool ---


async def test_a_pool_that_works_is_used_and_nothing_else(
    far_store: SQLStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "POOL_PATIENCE", 30.0)
    before = proxy.connections

    assert await _commit(far_store)
    assert proxy.connections == before


async def test_dead_connections_spoil_no_check(far_store: SQLStore, proxy: Proxy) -> None:
    await far_store.check()
    proxy.cut()
    await far_store.check()


@pytest.mark.parametrize("place", ["psycopg"], indirect=True)
async def test_nothing_is_prepared_on_a_connection_that_a_pooler_may_exchange(
    store: SQLStore,
) -> None:
    for _ in range(20):
        await store.load_session("nobody")
        await store.touch(None, "nobody")
    engines = await store.engines()
    async with engines.reader.connect() as connection:
        prepared = await connection.scalar(sa.text("SELECT count(*) FROM pg_prepared_statements"))
    assert prepared == 0


async def test_dead_connections_delay_no_commit(
    far_store: SQLStore, store: SQLStore, proxy: Proxy
) -> None:
    proxy.cut()

    async with asyncio.timeout(TRY):
        assert await _commit(far_store)
    assert await _version(store) == (2, "me")


async def test_silent_connections_delay_no_commit(
    far_store: SQLStore, store: SQLStore, proxy: Proxy
) -> None:
    # As after a failover: nobody closes the old connections, and new ones work.
    proxy.strand()

    async with asyncio.timeout(TRY):
        assert await _commit(far_store)
    assert await _version(store) == (2, "me")


async def test_a_pool_that_is_used_up_delays_no_commit(
    far_store: SQLStore, store: SQLStore
) -> None:
    async with all_taken(far_store), asyncio.timeout(TRY):
        assert await _commit(far_store)
    assert await _version(store) == (2, "me")


async def test_connections_to_what_is_no_primary_any_more_delay_no_commit(
    place: Place, far_store: SQLStore, store: SQLStore
) -> None:
    demoted = (
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"
        if place.postgresql
        else "SET SESSION TRANSACTION READ ONLY"
    )
    engine = (await far_store.engines()).single
    assert engine is not None
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(6):
            connection = await stack.enter_async_context(engine.connect())
            await connection.exec_driver_sql(demoted)
    with pytest.raises(StoreUnavailable, match="read-only"):
        await far_store.acquire_refresh("session", version=1, owner="me", lease_ms=1)

    async with asyncio.timeout(TRY):
        assert await _commit(far_store)
    assert await _version(store) == (2, "me")


async def test_an_outage_does_not_end_in_a_rush_of_connections(
    far_store: SQLStore, store: SQLStore, proxy: Proxy
) -> None:
    names = [f"session {number}" for number in range(30)]
    for name in names:
        await store.create_session(session(name), browser=None)
    proxy.strand()
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, proxy.open_connections)
            await asyncio.sleep(0.001)

    watching = asyncio.ensure_future(watch())
    stranded = proxy.open_connections
    done = await asyncio.gather(*(_commit(far_store, name) for name in names))
    watching.cancel()

    assert done == [True] * 30
    # The pool has its one place beyond those that it keeps, and one more may be on its way out.
    assert FRESH <= most - stranded <= FRESH + 2


async def test_a_statement_that_ran_twice_changes_nothing_the_second_time(
    far_store: SQLStore, store: SQLStore, proxy: Proxy
) -> None:
    # The pool's connections are slow, not dead: both tries arrive.
    proxy.go_silent()
    first = asyncio.ensure_future(_commit(far_store))
    await asyncio.sleep(database.POOL_PATIENCE + 0.2)
    proxy.flow()

    assert await first in {True, False}
    await far_store.aclose()
    assert await _version(store) == (2, "me")


async def test_a_commit_that_nobody_waits_for_gives_its_turn_back(
    far_store: SQLStore, store: SQLStore, proxy: Proxy
) -> None:
    proxy.go_silent()
    for _ in range(3 * FRESH):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_commit(far_store), 0.15)
    proxy.flow()

    async with asyncio.timeout(TRY):
        await _commit(far_store)
    assert (await _version(store))[0] == 2


# --- An engine of the app's ---


@contextlib.asynccontextmanager
async def _used_up(url: str) -> AsyncGenerator[tuple[AsyncEngine, SQLStore]]:
    """Is the app's own engine, whose every connection the app is using, and a store with it."""
    engine = create_async_engine(url, pool_size=1, max_overflow=0)
    store = SQLStore(engine)
    async with engine.connect():
        yield engine, store
    # What waited for the app's connection gets it now.
    await store.aclose()
    await engine.dispose()


async def test_an_app_that_uses_up_its_engine_delays_no_commit(
    place: Place, store: SQLStore
) -> None:
    await store.create_session(session(), browser=None)
    async with _used_up(place.url) as (_, busy), asyncio.timeout(TRY):
        assert await _commit(busy)
    assert await _version(store) == (2, "me")


async def test_a_fresh_connection_is_made_as_the_app_makes_them(
    place: Place, store: SQLStore
) -> None:
    await store.create_session(session(), browser=None)
    told: list[str] = []

    def listen(name: str) -> Callable[..., None]:
        return lambda *_, **__: told.append(name)

    async with _used_up(place.url) as (engine, busy):
        for name in ("do_connect", "connect", "engine_connect", "before_cursor_execute"):
            event.listen(engine.sync_engine, name, listen(name))
        assert await _commit(busy)
        assert told == ["do_connect", "connect", "engine_connect", "before_cursor_execute"]


async def test_a_file_whose_connections_the_app_uses_up_delays_no_commit(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    await migrate_empty(url)
    store = SQLStore(url)
    await store.create_session(session(), browser=None)
    given = url.replace("sqlite:", "sqlite+aiosqlite:")
    async with _used_up(given) as (_, busy), asyncio.timeout(TRY):
        assert await _commit(busy)
    assert await _version(store) == (2, "me")
    await store.aclose()


async def test_a_file_that_is_locked_for_longer_is_written_when_it_is_free(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    await migrate_empty(url)
    store, other = SQLStore(url), SQLStore(url)
    await store.create_session(session(), browser=None)
    held = asyncio.Event()

    async def hold(connection: AsyncConnection) -> None:
        held.set()
        await asyncio.sleep(database.POOL_PATIENCE + 0.3)

    holding = asyncio.ensure_future(other.transact(hold))
    await held.wait()
    async with asyncio.timeout(TRY):
        await _commit(store)
    await holding
    assert await _version(store) == (2, "me")
    await store.aclose()
    await other.aclose()
