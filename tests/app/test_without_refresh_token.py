"""A server may give no refresh token; then a session is as long as its one access token."""

from __future__ import annotations

import pytest

from atproto_oauth_asgi import Event
from atproto_oauth_asgi.errors import SessionRevoked
from tests.app.faulty_store import FaultyStore
from tests.app.world import World, live_of, world

pytestmark = [pytest.mark.anyio, pytest.mark.spec("H9")]


async def login(here: World) -> None:
    with here.network.alter("/oauth/token", lambda answer: answer.with_json(refresh_token=None)):
        await here.login()


async def test_the_session_ends_with_its_token() -> None:
    told: list[Event] = []
    async with world(on_event=told.append) as here:
        await login(here)
        async with here.oauth.session_for(here.did()) as session:
            live_of(session).access_expires = 0.0
            with pytest.raises(SessionRevoked) as caught:
                await session.query("com.atproto.server.getSession")

        assert caught.value.reason == "expired"
        assert await here.who() is None
    ended = [event.fields["reason"] for event in told if event.name == "session.ended"]
    assert ended == ["expired"]


async def test_a_refused_token_ends_it_early() -> None:
    store = FaultyStore()
    async with world(store=store) as here:
        await login(here)
        here.network.revoke_sessions()
        store.allow_refresh()
        async with here.oauth.session_for(here.did()) as session:
            with pytest.raises(SessionRevoked) as caught:
                await session.query("com.atproto.server.getSession")

        assert caught.value.reason == "revoked"
        assert await here.who() is None
