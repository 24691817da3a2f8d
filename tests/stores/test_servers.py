"""What goes wrong with database servers and on the way to them."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import cast

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection

from atproto_oauth_asgi.errors import (
    StoreError,
    StoreUnavailable,
)
from atproto_oauth_asgi.store import Store
from atproto_oauth_asgi.testing.conformance import StoreConformance
from atproto_oauth_asgi.testing.conformance_base import (
    browser,
    cancelled_after,
    hashed,
    one_time,
    refreshed,
    session,
)
from atproto_oauth_asgi_stores import SQLStore, server_engines
from tests.proxy import Proxy
from tests.stores.places import Place, empty

pytestmark = pytest.mark.anyio
kit = StoreConformance()


@pytest.fixture
async def proxy(place: Place) -> AsyncGenerator[Proxy]:
    async with Proxy(place.server.port) as proxy:
        yield proxy


@pytest.fixture
async def far_store(place: Place, store: SQLStore, proxy: Proxy) -> AsyncGenerator[SQLStore]:
    """Is a store behind the proxy."""
    far = SQLStore(place.through(proxy))
    yield far
    proxy.flow()
    await far.aclose()


# --- What is sent ---


async def test_a_load_is_one_statement(far_store: SQLStore, proxy: Proxy) -> None:
    await far_store.create_session(session(), browser=browser())
    await far_store.load(hashed("cookie"))
    proxy.requests.clear()

    for _ in range(8):
        assert await far_store.load(hashed("cookie"))

    # Drivers prepare a statement when they have seen it a few times.
    assert len(proxy.requests) in {8, 9}
    assert len({request.count(b"SELECT") for request in proxy.requests}) <= 2
    assert not any(b"BEGIN" in one or b"ROLLBACK" in one for one in proxy.requests)


async def test_a_payload_is_wiped_when_it_is_used(store: SQLStore) -> None:
    await store.put(one_time())
    await store.consume(hashed("state"), kind="login")

    ((sealed,),) = await store.rows(sa.select(store.tables.one_time.c.sealed))
    assert sealed is None


async def test_a_guarded_write_needs_no_transaction_around_it(
    far_store: SQLStore, proxy: Proxy
) -> None:
    await far_store.create_session(session(), browser=None)
    for _ in range(2):
        proxy.requests.clear()
        assert await far_store.acquire_refresh("session", version=1, owner="me", lease_ms=9)

    # A question, so that nothing is written into a connection that has died, and the write.
    assert len(proxy.requests) == 2
    assert not any(b"BEGIN" in one or b"COMMIT" in one for one in proxy.requests)


# --- The clock ---


async def test_the_clock_is_the_servers_in_milliseconds(store: SQLStore) -> None:
    before = time.time_ns() // 1_000_000
    await store.put(one_time(ms=0))
    after = time.time_ns() // 1_000_000

    ((created,),) = await store.rows(sa.select(store.tables.one_time.c.created))
    assert before - 1 <= cast("int", created) <= after + 1


async def test_a_wait_for_a_lock_never_makes_a_lease_longer(place: Place, store: SQLStore) -> None:
    await store.create_session(session(), browser=None)
    held = asyncio.Event()
    freed = 0.0

    async def hold(connection: AsyncConnection) -> None:
        nonlocal freed
        await connection.execute(sa.update(store.tables.session).values(handle=None))
        held.set()
        await asyncio.sleep(0.3)
        freed = time.monotonic()

    holding = asyncio.ensure_future(store.transact(hold))
    await held.wait()
    assert await store.acquire_refresh("session", version=1, owner="me", lease_ms=10_000)
    row = await store.load_session("session")
    since_ms = (time.monotonic() - freed) * 1000
    await holding

    assert row is not None
    assert row.lease_remaining_ms is not None
    assert row.lease_remaining_ms <= 10_000
    if place.postgresql:
        # Its clock is read where the lock has been waited for.
        assert row.lease_remaining_ms > 10_000 - since_ms - 50


# --- Races ---


async def test_transactions_that_lock_each_other_out_both_come_through(store: SQLStore) -> None:
    for name in ("one", "two"):
        await store.create_session(session(name), browser=None)
    met: list[str] = []
    both = asyncio.Event()
    row = store.tables.session

    def crossing(*names: str) -> Callable[[AsyncConnection], Awaitable[None]]:
        async def write(connection: AsyncConnection) -> None:
            for name in names:
                await connection.execute(
                    sa.update(row).where(row.c.id == name).values(failures=row.c.failures + 1)
                )
                met.append(name)
                if len(met) == 2:
                    both.set()
                await both.wait()

        return write

    await asyncio.gather(
        store.transact(crossing("one", "two")),
        store.transact(crossing("two", "one")),
    )

    assert len(met) > 4
    for name in ("one", "two"):
        found = await store.load_session(name)
        assert found is not None
        assert found.failures == 2


@pytest.fixture
async def serializable(place: Place) -> AsyncGenerator[SQLStore]:
    """Is a store on a database that gives up whoever came second, as some always do."""
    level = "SET default_transaction_isolation ="
    place.server.run(f"ALTER DATABASE {place.name} {level} 'serializable'")
    store = SQLStore(place.url)
    yield store
    await store.aclose()
    place.server.run(f"ALTER DATABASE {place.name} RESET default_transaction_isolation")


@pytest.mark.parametrize("place", ["psycopg", "asyncpg"], indirect=True)
async def test_a_serialization_failure_is_a_lost_race_or_tried_again(
    store: SQLStore, serializable: SQLStore
) -> None:
    tests: list[Callable[[Store, Store], Awaitable[None]]] = [
        kit.test_one_of_fifty_gets_the_lease,
        kit.test_one_of_many_commits,
        kit.test_one_of_fifty_is_first,
        kit.test_the_first_reason_stays,
        kit.test_purges_may_race,
    ]
    for test in tests:
        await empty(store)
        await test(serializable, serializable)


# --- The way to the server ---


async def test_a_server_that_was_started_again_is_used_at_once(
    place: Place, store: SQLStore
) -> None:
    await store.create_session(session(), browser=browser())
    await store.load(hashed("cookie"))

    place.server.crash()
    with pytest.raises(StoreUnavailable, match="check that it runs"):
        await store.load(hashed("cookie"))
    with pytest.raises(StoreUnavailable, match="check that it runs"):
        await store.commit_refresh("session", version=1, owner="me", refreshed=refreshed())
    place.server.start()

    assert await store.load(hashed("cookie"))
    assert await store.commit_refresh("session", version=1, owner="me", refreshed=refreshed())
    await store.touch("browser", "session")


async def test_connections_that_were_cut_while_idle_cost_nobody_anything(
    far_store: SQLStore, proxy: Proxy
) -> None:
    await far_store.create_session(session(), browser=browser())
    for _ in range(3):
        await asyncio.gather(*(far_store.load(hashed("cookie")) for _ in range(5)))
        await far_store.acquire_refresh("session", version=1, owner="me", lease_ms=1)
        proxy.cut()

        assert await far_store.load(hashed("cookie"))
        assert await far_store.acquire_refresh("session", version=1, owner="me", lease_ms=1)
        await far_store.touch("browser", "session")


async def test_a_lost_acknowledgement_is_unavailable_and_done(
    far_store: SQLStore, store: SQLStore, proxy: Proxy
) -> None:
    await far_store.create_session(session(), browser=None)
    # Some drivers ask the server to prepare a statement that they see for the first time.
    assert not await far_store.commit_refresh(
        "session", version=9, owner="me", refreshed=refreshed()
    )

    with pytest.raises(StoreUnavailable):
        await commit_without_an_answer(far_store, proxy)

    row = await store.load_session("session")
    assert row is not None
    assert (row.version, row.lease_owner, row.sealed_tokens) == (2, "me", b"new tokens")
    assert not await far_store.commit_refresh(
        "session", version=1, owner="me", refreshed=refreshed(b"again")
    )


async def commit_without_an_answer(store: SQLStore, proxy: Proxy) -> None:
    engines = await store.engines()
    assert engines.single is not None
    engine = engines.single.sync_engine

    def at_the_write(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        if "UPDATE" in statement:
            proxy.swallow_answers()

    event.listen(engine, "before_cursor_execute", at_the_write)
    try:
        await store.commit_refresh("session", version=1, owner="me", refreshed=refreshed())
    finally:
        assert proxy.swallowed.is_set()
        event.remove(engine, "before_cursor_execute", at_the_write)
        proxy.flow()


@pytest.mark.slow
async def test_a_server_that_falls_silent_is_given_up(
    place: Place, store: SQLStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = SQLStore(place.through(proxy))
    await impatient.create_session(session(), browser=browser())
    await impatient.load(hashed("cookie"))

    proxy.go_silent()
    started = time.monotonic()
    with monkeypatch.context() as patch:
        # For the silence alone: connecting may take a busy machine longer.
        patch.setattr(impatient, "_deadline", 0.3)
        done = await asyncio.gather(
            impatient.load(hashed("cookie")),
            impatient.acquire_refresh("session", version=1, owner="me", lease_ms=1),
            impatient.touch("browser", "session"),
            return_exceptions=True,
        )
    took = time.monotonic() - started
    proxy.flow()

    assert [type(one) for one in done] == [StoreUnavailable] * 3
    assert "in time" in str(done[0])
    assert took < 12
    assert await impatient.load(hashed("cookie"))
    await impatient.touch("browser", "session")
    await impatient.aclose()


async def test_a_caller_with_a_deadline_does_not_wait_for_a_silent_server(
    far_store: SQLStore, proxy: Proxy
) -> None:
    await far_store.put(one_time())
    proxy.go_silent()
    started = time.monotonic()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(far_store.put(one_time("two")), 0.05)

    assert time.monotonic() - started < 2
    proxy.flow()
    await far_store.aclose()


async def test_a_process_that_stops_in_a_transaction_frees_its_locks(
    place: Place, store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_engines, "STATEMENT_TIMEOUT", 1)
    await store.create_session(session(), browser=None)
    stopped = SQLStore(place.url)
    held, goes_on = asyncio.Event(), asyncio.Event()

    async def stop(connection: AsyncConnection) -> None:
        await connection.execute(sa.update(store.tables.session).values(handle=None))
        held.set()
        await goes_on.wait()

    stopping = asyncio.ensure_future(stopped.transact(stop))
    await held.wait()

    assert await store.end_session("session", "logout")
    assert not stopping.done()
    goes_on.set()
    with pytest.raises(StoreError):
        await stopping
    await stopped.aclose()


@pytest.fixture
async def impatient(place: Place, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[SQLStore]:
    """Is a store whose statements wait a second for others, and may take two."""
    monkeypatch.setattr(server_engines, "LOCK_TIMEOUT", 1.0)
    monkeypatch.setattr(server_engines, "STATEMENT_TIMEOUT", 2)
    store = SQLStore(place.url)
    yield store
    await store.aclose()


async def test_a_table_that_somebody_locks_is_not_waited_for(
    place: Place, store: SQLStore, impatient: SQLStore
) -> None:
    """Whoever alters a table or copies it must not take the app's requests with them."""
    await store.create_session(session(), browser=browser())
    name = store.tables.session.name
    lock = f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE" if place.postgresql else "LOCK TABLES %s"
    engine = (await store.engines()).writer
    async with engine.begin() as holder:
        await holder.exec_driver_sql(lock.replace("%s", f"{name} WRITE"))
        started = time.monotonic()
        done = await asyncio.gather(
            impatient.load(hashed("cookie")),
            impatient.acquire_refresh("session", version=1, owner="me", lease_ms=1),
            return_exceptions=True,
        )
        took = time.monotonic() - started
        if not place.postgresql:
            await holder.exec_driver_sql("UNLOCK TABLES")

    assert ["keeps a row or table locked" in str(one) for one in done] == [True, True]
    assert [type(one) for one in done] == [StoreUnavailable] * 2
    assert took < 5
    assert await impatient.load(hashed("cookie"))


async def test_a_statement_that_takes_too_long_is_ended(place: Place, impatient: SQLStore) -> None:
    sleep = "SELECT pg_sleep(20)" if place.postgresql else "SELECT sleep(20)"

    with pytest.raises(StoreUnavailable, match="a statement took too long"):
        await asyncio.wait_for(impatient.rows(sa.text(sleep)), 10)


async def test_cancelled_work_ends_and_gives_its_connection_back(store: SQLStore) -> None:
    for number in range(30):
        await cancelled_after(number * 0.0003, store.put(one_time(f"{number}")))
        await cancelled_after(number * 0.0003, store.load(hashed("cookie")))
        await cancelled_after(number * 0.0003, store.touch("browser", "session"))

    await store.aclose()
    gc.collect()
    await store.put(one_time("after"))
