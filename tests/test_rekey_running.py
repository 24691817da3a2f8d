from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from atproto_oauth_asgi.cli import OK, main
from atproto_oauth_asgi.plugins import open_store
from atproto_oauth_asgi.refresh_timing import RefreshTiming
from atproto_oauth_asgi.rekey import rekey
from atproto_oauth_asgi.sealing import KeyRing
from atproto_oauth_asgi.store import SessionFilter
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.vault import sealed_with
from tests.app.world import World, world
from tests.databases import Server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

OLD, NEW = b"o" * 32, b"n" * 32
PEOPLE = 6


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/store.db"
    else:
        server = cast("Server", request.getfixturevalue(request.param))
        url = server.url(server.create_database(), *(["asyncmy"] * (request.param == "mariadb")))
    assert await asyncio.to_thread(main, ["db", "upgrade", "--url", url]) == OK
    return url


async def calls(here: World, cookie: str, *, until: asyncio.Event) -> int:
    """Use a session over and over; return how often."""
    done = 0
    async with here.another_browser() as browser:
        browser.cookies.set(here.oauth.cookies.session, cookie)
        while True:
            answer = await browser.get("/me")
            # On a slow machine so short a token may run out on its way; nobody is signed out.
            assert answer.status_code in {200, 502, 503}, answer.text
            done += answer.status_code == 200
            if until.is_set():
                return done


async def test_rekeys_to_and_fro_disturb_no_refresh_of_the_app_that_runs(url: str) -> None:
    network, timing = Network(token_life=2.0), RefreshTiming()
    cookies: list[str] = []
    store = open_store(url)
    try:
        async with world(network, store=url, secret_keys=(OLD, NEW), timing=timing) as here:
            for _ in range(PEOPLE):
                here.browser.cookies.clear()
                await here.login()
                cookies.append(here.cookie or "")
            over = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for cookie in cookies:
                    group.create_task(calls(here, cookie, until=over))
                async with asyncio.timeout(30):
                    for number in range(10_000):
                        keys = [OLD, NEW] if number % 2 else [NEW, OLD]
                        assert not (await rekey(store, KeyRing(keys))).broken
                        if len(network.token_requests("refresh_token")) >= 2 * PEOPLE:
                            break
                        await asyncio.sleep(0.01)
                over.set()
        new = KeyRing([NEW, OLD])
        assert (await rekey(store, new)).done
        rows = await store.list_sessions(SessionFilter())
    finally:
        await store.aclose()

    assert {key_id for row in rows for key_id in sealed_with(row)} == {new.primary_key_id}
    assert {row.status for row in rows} == {"active"}
    assert len(network.sessions()) == PEOPLE
    now = asyncio.Event()
    now.set()
    async with world(network, store=url, secret_keys=(NEW,), timing=timing) as here:
        # Every token has run out by then, and those that replace them last.
        network.host.authorization_server.sessions.token_life = 3600.0
        await asyncio.sleep(2.1)
        assert [await calls(here, cookie, until=now) for cookie in cookies] == [1] * PEOPLE
