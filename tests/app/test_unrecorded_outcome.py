"""A login may be stored, and nobody there to say so."""

from __future__ import annotations

from typing import Any

import pytest

from atproto_oauth_asgi.errors import StoreUnavailable
from atproto_oauth_asgi.testing import Network
from tests.app.faulty_store import EVERYTHING, FaultyStore
from tests.app.world import BASE_URL, PAGE, SCRIPT, world

pytestmark = pytest.mark.anyio


@pytest.mark.spec("G3", "G7")
async def test_who_was_killed_before_noting_the_outcome_has_signed_the_person_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("atproto_oauth_asgi.callback.REPEAT_WAIT", 0.0)
    store, network = FaultyStore("record_outcome"), Network()
    async with world(network, store=store) as one, world(network, store=store) as two:
        callback = await one.approved(next="/who")
        two.browser.cookies.update(one.browser.cookies)
        # The answer never reaches the browser, which asks again and meets another process.
        await one.browser.get(callback)
        back = await two.browser.get(callback, headers=PAGE)

        assert back.status_code == 303
        assert back.headers["location"] == BASE_URL
        assert await two.who() == one.did()
        assert len(network.token_requests("authorization_code")) == 1
        assert len(store.sessions) == 1


@pytest.mark.spec("G7")
async def test_who_was_killed_before_there_was_a_session_has_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("atproto_oauth_asgi.callback.REPEAT_WAIT", 0.0)
    store, network = FaultyStore("record_outcome", "create_session"), Network()
    async with world(network, store=store) as one, world(network, store=store) as two:
        callback = await one.approved()
        two.browser.cookies.update(one.browser.cookies)
        await one.browser.get(callback)
        back = await two.browser.get(callback, headers=PAGE)

        assert back.status_code == 400
        assert "took too long" in back.text
        assert "set-cookie" not in back.headers
        assert await two.who() is None


async def test_a_session_whose_storing_nobody_heard_of_asks_for_a_new_login(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Deaf(FaultyStore):
        """Stores a session, and goes away before it can say so: then its tokens are revoked."""

        async def create_session(self, *args: Any, **kwargs: Any) -> Any:
            await super().create_session(*args, **kwargs)
            self.failing = EVERYTHING
            raise StoreUnavailable

    monkeypatch.setattr("atproto_oauth_asgi.callback.REPEAT_WAIT", 0.0)
    store = Deaf()
    async with world(store=store) as here:
        callback = await here.approved()
        first = await here.browser.get(callback, headers=PAGE)
        await here.settled()
        store.failing = frozenset()
        back = await here.browser.get(callback, headers=PAGE)
        used = await here.browser.get("/me", headers=SCRIPT)

        assert first.status_code == 503
        assert back.status_code == 303
        assert here.network.sessions() == []
        # No session that looks well and does nothing: the first use of it ends it.
        assert used.status_code == 401
        assert [row.ended_reason for row in store.sessions] == ["revoked"]
