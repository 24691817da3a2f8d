"""A token that the PDS refuses is refreshed once, and only where that can help."""

from __future__ import annotations

import asyncio

import pytest

from atproto_oauth_asgi.errors import (
    RefreshFailed,
    SessionRevoked,
    Unreachable,
    XRPCError,
)
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.testing.web import Answer
from tests.app.faulty_store import FaultyStore
from tests.app.world import World, live_of, world

pytestmark = pytest.mark.anyio

SCOPE = "atproto repo:app.bsky.feed.post blob:image/*"
SESSION = "/xrpc/com.atproto.server.getSession"


def post(here: World, text: str = "hello") -> dict[str, object]:
    return {
        "repo": here.did(),
        "collection": "app.bsky.feed.post",
        "record": {"text": text, "createdAt": "2026-01-01T00:00:00Z"},
    }


@pytest.mark.spec("N5")
async def test_an_account_that_was_taken_down_is_no_refresh_loop() -> None:
    store = FaultyStore()
    async with world(store=store) as here:
        await here.login()
        store.allow_refresh()
        here.network.take_down("alice.test")
        async with here.oauth.session_for(here.did()) as session:
            with pytest.raises(SessionRevoked):
                await session.query("com.atproto.server.getSession")
            with pytest.raises(SessionRevoked):
                await session.query("com.atproto.server.getSession")

        assert len(here.network.token_requests("refresh_token")) == 1


@pytest.mark.spec("N5", "J7")
async def test_a_token_refused_right_after_login_is_refreshed_once_and_not_in_circles() -> None:
    def refuse(answer: Answer) -> Answer:
        challenge = ("www-authenticate", 'DPoP error="invalid_token"')
        return Answer(status=401, headers=(challenge,), body=answer.body)

    async with world() as here:
        await here.login()
        async with here.oauth.session_for(here.did()) as session:
            with here.network.alter("/xrpc/com.atproto.server.getSession", refuse):
                for _ in range(3):
                    assert (await session.get(SESSION)).status_code == 401
            assert len(here.network.token_requests("refresh_token")) == 1
            assert (await session.get(SESSION)).status_code == 200


@pytest.mark.spec("N5")
async def test_an_account_taken_down_right_after_login_is_no_error_of_the_pds() -> None:
    async with world() as here:
        await here.login()
        here.network.take_down("alice.test")
        async with here.oauth.session_for(here.did()) as session:
            with pytest.raises(SessionRevoked):
                await session.query("com.atproto.server.getSession")
        assert await here.who() is None


@pytest.mark.spec("J8")
async def test_a_refresh_that_fails_in_passing_raises_what_may_be_tried_again() -> None:
    store = FaultyStore()
    async with world(store=store) as here:
        await here.login()
        store.allow_refresh()
        here.network.expire_access_tokens()
        here.network.faults.fail(500, grant="refresh_token")
        async with here.oauth.session_for(here.did()) as session:
            with pytest.raises(RefreshFailed) as caught:
                await session.query("com.atproto.server.getSession")

        assert caught.value.retryable
        assert await here.who() == here.did()


@pytest.mark.spec("J1", "J7")
async def test_many_calls_on_a_stale_session_make_one_token_request() -> None:
    store = FaultyStore()
    async with world(store=store) as here:
        await here.login()
        store.allow_refresh()
        here.network.expire_access_tokens()
        answers = await asyncio.gather(*(here.browser.get("/me") for _ in range(20)))

        assert {answer.status_code for answer in answers} == {200}
        assert len(here.network.token_requests("refresh_token")) == 1


@pytest.mark.spec("M7")
async def test_a_missing_permission_is_no_reason_to_refresh_or_to_sign_anybody_out() -> None:
    store = FaultyStore()
    async with world(store=store, scope="atproto") as here:
        await here.login()
        store.allow_refresh()
        async with here.oauth.session_for(here.did()) as session:
            with pytest.raises(XRPCError) as caught:
                await session.procedure("com.atproto.repo.createRecord", post(here))

        assert caught.value.http_status == 403
        assert not here.network.token_requests("refresh_token")
        assert await here.who() == here.did()


@pytest.mark.spec("J5", "H10")
async def test_a_refresh_may_change_what_is_granted() -> None:
    store = FaultyStore()
    async with world(store=store, scope=SCOPE) as here:
        await here.login()
        store.allow_refresh()
        here.network.expire_access_tokens()
        with here.network.alter(
            "/oauth/token",
            lambda answer: (
                answer.with_json(scope="atproto blob:*/*") if answer.status == 200 else answer
            ),
        ):
            async with here.oauth.session_for(here.did()) as session:
                await session.get(SESSION)
                now = session.scopes
        (row,) = store.sessions

        assert now == {"atproto", "blob:*/*"}
        assert row.scope == "atproto blob:*/*"


@pytest.mark.spec("N1", "N2", "N4")
@pytest.mark.parametrize("moved", [True, False])
async def test_a_pds_that_does_not_answer_is_looked_up_and_a_moved_account_followed(
    moved: bool,
) -> None:
    network, store = Network(), FaultyStore()
    server, old = network.host, network.add_host("https://pds2.example")
    new = network.add_host("https://pds3.example")
    carol = network.add_account("carol.test", host=old)
    server.accounts.add(carol)
    resource = network.alter(
        "/.well-known/oauth-protected-resource",
        lambda answer: answer.with_json(authorization_servers=[server.origin]),
    )
    metadata = network.alter(
        "/.well-known/oauth-authorization-server",
        lambda answer: answer.with_json(protected_resources=None),
    )
    with resource, metadata:
        async with world(network, store=store) as here:
            await here.login("carol.test")
            store.allow_refresh()
            async with here.oauth.session_for(carol.did) as session:
                live_of(session).refresh_at = 0.0
                if moved:
                    network.move_account("carol.test", new)
                    server.accounts.add(carol)
                with network.outage(old.origin):
                    for _ in range(3):
                        with pytest.raises(Unreachable):
                            await session.get(SESSION)
                        if not moved:
                            await here.settled()
                    await here.settled()
                    at = session.pds
                asked = network.token_requests("refresh_token")

    assert at == (new.origin if moved else old.origin)
    assert len(asked) == int(moved)
