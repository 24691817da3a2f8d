from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from atproto_oauth_asgi import keep_alive
from atproto_oauth_asgi.keep_alive import KeepAlive
from atproto_oauth_asgi.keys import ClientKeys, generate_client_keys
from atproto_oauth_asgi.testing import Network
from tests.app.faulty_store import FaultyStore
from tests.app.world import World, world

pytestmark = [pytest.mark.anyio, pytest.mark.spec("L3")]

KEYS = generate_client_keys()
DAY_MS = 86_400_000


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep_alive, "PAUSE", 0.001)


@asynccontextmanager
async def confidential(
    store: FaultyStore, network: Network | None = None, *, keys: str = KEYS
) -> AsyncGenerator[World]:
    async with world(network, store=store, client_keys=ClientKeys(keys), keep_alive=True) as here:
        yield here


async def log_in(here: World, times: int = 1) -> None:
    """Log in with as many browsers."""
    for _ in range(times):
        here.browser.cookies.clear()
        assert (await here.login()).status_code == 303


def keeper(here: World) -> KeepAlive:
    found = here.oauth.runtime().keep_alive
    assert found is not None
    return found


async def rounds(here: World) -> int:
    """Do two: the first begins somewhere in the middle."""
    return sum([await keeper(here).round(), await keeper(here).round()])


def refreshes(network: Network) -> int:
    return len(network.token_requests("refresh_token"))


async def until(happened: Callable[[], bool]) -> None:
    for _ in range(2000):
        if happened():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never happened")


def versions(store: FaultyStore) -> list[int]:
    return sorted(row.version for row in store.sessions)


async def test_an_idle_session_is_refreshed_once_and_goes_on() -> None:
    store = FaultyStore()
    async with confidential(store) as here:
        await log_in(here)
        store.clock.now += 61 * DAY_MS

        assert await rounds(here) == 1
        assert (versions(store), refreshes(here.network)) == ([2], 1)
        assert await rounds(here) == 0
        assert refreshes(here.network) == 1
        assert (await here.browser.get("/me")).json()["handle"] == "alice.test"


async def test_a_session_that_was_refreshed_lately_is_left_alone() -> None:
    store = FaultyStore()
    async with confidential(store) as here:
        await log_in(here)
        store.clock.now += 59 * DAY_MS

        assert await rounds(here) == 0
        assert refreshes(here.network) == 0


async def test_the_session_of_a_public_client_is_never_refreshed_for_its_own_sake() -> None:
    store, network = FaultyStore(), Network()
    async with world(network, store=store, session_max_age=90 * 86_400) as here:
        await log_in(here)
        assert here.oauth.runtime().keep_alive is None
    async with confidential(store, network) as here:
        store.clock.now += 61 * DAY_MS

        assert await rounds(here) == 0
        assert (versions(store), refreshes(network)) == ([1], 0)


async def test_workers_that_meet_refresh_each_session_once() -> None:
    store, network = FaultyStore(), Network()
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(confidential(store, network)) for _ in range(3)]
        await log_in(workers[0], 6)
        store.clock.now += 61 * DAY_MS

        await asyncio.gather(*(rounds(worker) for worker in workers))

        assert versions(store) == [2] * 6
        assert refreshes(network) == 6
        assert len(network.sessions()) == 6


async def test_sessions_that_cannot_be_refreshed_do_not_stand_in_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keep_alive, "BATCH", 1)
    monkeypatch.setattr(keep_alive, "BATCHES", 4)
    store, network = FaultyStore(), Network()
    async with confidential(store, network, keys=generate_client_keys()) as here:
        await log_in(here, 9)
    network.forget_clients()
    async with confidential(store, network) as here:
        await log_in(here)
        store.clock.now += 61 * DAY_MS
        kept = [await keeper(here).round() for _ in range(4)]

        assert sum(kept) == 1
        assert versions(store) == [1] * 9 + [2]


async def test_a_server_in_trouble_costs_no_session() -> None:
    store = FaultyStore()
    async with confidential(store) as here:
        await log_in(here)
        store.clock.now += 61 * DAY_MS
        with here.network.outage():
            assert await rounds(here) == 0
        assert versions(store) == [1]

        store.clock.now += DAY_MS
        assert await rounds(here) == 1
        assert versions(store) == [2]


async def test_a_process_that_is_going_begins_nothing() -> None:
    store = FaultyStore()
    async with confidential(store) as here:
        await log_in(here)
        store.clock.now += 61 * DAY_MS
        here.oauth.runtime().tasks.closing.set()

        assert await rounds(here) == 0
        assert refreshes(here.network) == 0


async def test_it_goes_on_in_the_background_after_an_outage_until_the_app_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keep_alive, "EVERY", 0.01)
    caplog.set_level(logging.INFO, "atproto_oauth_asgi.keep_alive")
    store = FaultyStore()
    async with confidential(store) as here:
        await log_in(here)
        store.clock.now += 61 * DAY_MS
        store.failing = frozenset({"list_sessions"})
        await until(lambda: "sessions.not_kept_alive" in caplog.messages)
        store.failing = frozenset()
        await until(lambda: versions(store) == [2])
        assert {task.get_name() for task in asyncio.all_tasks()} >= {"housekeeping", "keep alive"}

    assert not {task.get_name() for task in asyncio.all_tasks()} & {"housekeeping", "keep alive"}
    assert refreshes(here.network) == 1
