"""Fifty requests on one stale session, in one process and in two."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi_migrations import migrate_empty
from atproto_oauth_asgi_stores import SQLStore
from tests.app.world import world
from tests.refresh.faults_core import remove_single_flight
from tests.refresh.faults_store import remove_lease
from tests.refresh.fleet import LOOPBACK_URL, SCOPE, SECRET_KEYS, fleet, within
from tests.refresh.processes import ask, process
from tests.virtual_time import in_virtual_time


async def _fifty_requests() -> tuple[list[int], int]:
    async with fleet() as here, here.worker() as one:
        calls = [one.call(one.browser.get("/me")) for _ in range(50)]
        await within(200, asyncio.wait(calls))
        await one.settled()
        # Where tokens are spent twice an app's call fails however it can.
        statuses = [call.result().status_code if not call.exception() else 0 for call in calls]
        return statuses, here.refreshes


@pytest.mark.spec("J1")
def test_fifty_requests_of_one_process_make_one_token_request() -> None:
    assert in_virtual_time(_fifty_requests) == ([200] * 50, 1)


def test_without_single_flight_the_lease_still_allows_only_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remove_single_flight(monkeypatch)
    statuses, refreshes = in_virtual_time(_fifty_requests)
    assert refreshes == 1
    assert len(statuses) == 50


def test_without_single_flight_and_lease_there_are_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remove_single_flight(monkeypatch)
    remove_lease(monkeypatch)
    _, refreshes = in_virtual_time(_fifty_requests)
    assert refreshes > 1


async def _two_processes(folder: Path, fault: str = "") -> tuple[list[int | str], int]:
    database = folder / "store.db"
    await asyncio.to_thread(lambda: asyncio.run(migrate_empty(f"sqlite:///{database}")))
    network = Network()
    await asyncio.to_thread(network.start)
    try:
        async with world(
            network,
            store=SQLStore(f"sqlite:///{database}"),
            base_url=LOOPBACK_URL,
            secret_keys=SECRET_KEYS,
            scope=SCOPE,
            net_policy=network.policy(apps={}),
        ) as here:
            assert (await here.login()).status_code == 303
        async with (
            process(network, database, fault) as one,
            process(network, database, fault) as two,
        ):
            connection = sqlite3.connect(database)
            with connection:
                connection.execute(
                    "UPDATE atproto_oauth_session SET access_expires = 1, refresh_after = 1"
                )
            connection.close()
            # The first request is held until both processes had time to send theirs, and where the
            # lease does not keep the second from it, until it came.
            async with network.pause_token_endpoint("refresh_token") as pause:
                asked = asyncio.gather(ask(one, 50), ask(two, 50))
                await within(20, pause.arrived(2 if fault else 1))
                await asyncio.sleep(0.7)
                pause.release()
                first, second = await within(30, asked)
        return [*first, *second], len(network.token_requests("refresh_token"))
    finally:
        await asyncio.to_thread(network.stop)


@pytest.mark.anyio
@pytest.mark.slow
@pytest.mark.spec("J1")
async def test_a_hundred_requests_of_two_processes_make_one_token_request(tmp_path: Path) -> None:
    assert await _two_processes(tmp_path) == ([200] * 100, 1)


@pytest.mark.anyio
@pytest.mark.slow
async def test_two_processes_without_the_lease_make_more(tmp_path: Path) -> None:
    _, refreshes = await _two_processes(tmp_path, "lease removed")
    assert refreshes > 1
