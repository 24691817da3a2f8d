from __future__ import annotations

import pytest

from tests.app.faulty_store import EVERYTHING, FaultyStore
from tests.app.world import PAGE, SCRIPT, world

pytestmark = pytest.mark.anyio


async def test_with_the_store_away_nobody_is_taken_for_anonymous() -> None:
    store = FaultyStore()
    async with world(store=store) as here:
        await here.login()
        cookie = here.cookie
        store.failing = EVERYTHING
        for path in ("/who", "/me", "/oauth/session"):
            for headers in (PAGE, SCRIPT):
                answer = await here.browser.get(path, headers=headers)
                assert answer.status_code == 503, path
                assert "set-cookie" not in answer.headers
        answer = await here.logout()
        assert answer.status_code == 503
        assert "set-cookie" not in answer.headers
        store.failing = frozenset()

        assert here.cookie == cookie
        assert await here.who() == here.did()
        assert len(here.network.sessions()) == 1


async def test_with_the_store_away_routes_that_ask_nothing_work_on() -> None:
    store = FaultyStore()
    async with world(store=store) as here:
        await here.login()
        store.failing = EVERYTHING

        assert (await here.browser.get("/nothing", headers=PAGE)).status_code == 404
        for path in ("/oauth/login", "/oauth-client-metadata.json", "/oauth/jwks.json"):
            assert (await here.browser.get(path, headers=PAGE)).status_code == 200


async def test_with_the_store_away_who_has_no_cookie_is_anonymous() -> None:
    store = FaultyStore()
    async with world(store=store) as here:
        store.failing = EVERYTHING

        assert await here.who() is None
        assert (await here.browser.get("/me", headers=SCRIPT)).status_code == 401


@pytest.mark.parametrize("refresh", ["on_request", "on_use"])
async def test_with_the_store_away_a_session_in_use_goes_on(refresh: str) -> None:
    store = FaultyStore()
    async with world(
        store=store, refresh="on_use" if refresh == "on_use" else "on_request"
    ) as here:
        await here.login()
        async with here.oauth.session_for(here.did()) as session:
            store.failing = EVERYTHING
            answer = await session.query("com.atproto.server.getSession")

        assert answer["handle"] == "alice.test"


async def test_a_store_that_comes_up_later_needs_no_restart() -> None:
    store = FaultyStore("open")
    async with world(store=store, owned=False) as here:
        first = await here.begin()
        store.failing = frozenset()
        second = await here.begin()

        assert (first.status_code, second.status_code) == (503, 303)
        await here.oauth.runtime().aclose()
