"""Workers that are killed, and a database file that is locked: nobody is signed out for nothing."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi_migrations import migrate_empty
from atproto_oauth_asgi_stores import SQLStore
from tests.app.world import world
from tests.refresh.fleet import (
    LOOPBACK_URL,
    QUICK,
    SCOPE,
    SECRET_KEYS,
    events,
    logged,
    timing,
    within,
)
from tests.refresh.processes import ask, process
from tests.refresh.scenarios_sql import on_disk

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def _stale(folder: Path) -> AsyncGenerator[tuple[Network, Path]]:
    """Serve a network; leave a session in a file whose access token has run out."""
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
        _write(database, "UPDATE atproto_oauth_session SET access_expires = 1, refresh_after = 1")
        yield network, database
    finally:
        await asyncio.to_thread(network.stop)


def _write(database: Path, statement: str) -> None:
    connection = sqlite3.connect(database)
    with connection:
        connection.execute(statement)
    connection.close()


def _row(database: Path, columns: str) -> tuple[object, ...]:
    connection = sqlite3.connect(database)
    row = connection.execute(f"SELECT {columns} FROM atproto_oauth_session").fetchone()  # noqa: S608
    connection.close()
    return tuple(row)


@pytest.mark.slow
async def test_a_worker_killed_with_the_answer_on_its_way_is_called_by_its_name(
    tmp_path: Path,
) -> None:
    async with _stale(tmp_path) as (network, database):
        async with (
            process(network, database, "quick") as one,
            network.pause_token_endpoint("refresh_token", when="after") as pause,
        ):
            asked = asyncio.create_task(ask(one, 1))
            await within(10, pause.arrived())
            assert _row(database, "attempts") == (1,)
            one.kill()
            await one.wait()
            await asyncio.gather(asked, return_exceptions=True)
        async with process(network, database, "quick") as two:
            answers: list[int | str] = ["refresh_failed"]
            # The lease runs out, the row is watched, and then the outcome is seen.
            end = time.monotonic() + 15
            while answers == ["refresh_failed"] and time.monotonic() < end:
                await asyncio.sleep(0.05)
                answers = await ask(two, 1)

        assert answers == ["session_revoked"]
        assert len(network.token_requests("refresh_token")) == 2
        assert _row(database, "status, ended_reason") == ("ended", "lost_rotation")


@pytest.mark.slow
async def test_a_worker_killed_before_its_mark_costs_nothing(tmp_path: Path) -> None:
    async with _stale(tmp_path) as (network, database):
        did = network.account("alice.test").did
        async with process(network, database, "quick") as one, network.hold(f"/{did}") as looking:
            asked = asyncio.create_task(ask(one, 1))
            await within(10, looking.arrived())
            assert _row(database, "attempts") == (0,)
            one.kill()
            await one.wait()
            await asyncio.gather(asked, return_exceptions=True)
        async with process(network, database, "quick") as two:
            # A short lease that ran out unannounced is taken at once.
            await asyncio.sleep(0.4)
            assert await ask(two, 1) == [200]
        assert len(network.token_requests("refresh_token")) == 1
        assert _row(database, "status, version") == ("active", 2)


async def test_a_locked_database_file_delays_the_commit_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with timing(QUICK, commit_try=0.1), logged() as records:
        async with on_disk(path) as here:
            async with here.network.pause_token_endpoint("refresh_token", when="after") as pause:
                refreshing = asyncio.create_task(here.refresh())
                await within(30, pause.arrived())
                lock = sqlite3.connect(path, isolation_level=None)
                lock.execute("BEGIN IMMEDIATE")
                pause.release()
                # Served from memory, while several tries wait for the file.
                async with asyncio.timeout(30):
                    while here.live.version < 2 or "commit.retry" not in events(records):  # noqa: ASYNC110  # neither has an event
                        await asyncio.sleep(0.01)
                lock.execute("ROLLBACK")
                lock.close()
                await within(60, refreshing)

            assert _row(path, "version, status") == (2, "active")
            assert len(here.network.token_requests("refresh_token")) == 1
    assert "commit.retry" in events(records)
    assert "session.refreshed" in events(records)
    assert "refresh.superseded" not in events(records)
