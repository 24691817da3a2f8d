"""A token endpoint that lies makes no session, ends none, and what it gave is revoked."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from atproto_oauth_asgi.errors import ATProtoOAuthError, RefreshFailed
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.testing.web import Answer
from tests.app.faulty_store import FaultyStore
from tests.app.wire import Tap
from tests.app.world import live_of, world
from tests.hostile.lies import (
    BODIES,
    NONCES,
    Change,
    endless_challenge,
    honest_challenge,
    member,
    nonce,
    raw,
    redirect,
    unlimited,
)

pytestmark = pytest.mark.anyio

GET_SESSION = "com.atproto.server.getSession"
REFRESH_TOKENS: list[object] = ["", 7, True, ["r"], {"r": 1}, "r\r\nX: y", "r\xe9", "r" * 40_000]
LIVES: list[object] = [-1, 0, 1e99, 1e308, "soon", True, False, [], {}, 0.001, 10**300]


def good(change: Change) -> Change:
    """Lie in the place of tokens only."""
    return lambda answer: change(answer) if answer.status == 200 else answer


# Login


async def all_refused(lies: Mapping[str, Change], *, revoked: bool = True, posts: int = 1) -> None:
    """Log in at a server that lies, in each of some ways."""
    store = FaultyStore()
    async with world(store=store, limit_logins=unlimited) as here:
        for name, lie in lies.items():
            before = len(here.network.token_requests(challenged=True))
            callback = await here.approved()
            with here.network.alter("/oauth/token", lie):
                back = await here.browser.get(callback)
            after = len(here.network.token_requests(challenged=True))

            assert back.status_code == 502, name
            assert here.cookie is None, name
            assert not store.sessions, name
            assert after - before <= posts + 1, name
            await here.settled()
            # What could be read of the tokens was revoked before anybody could use it.
            assert (not here.network.sessions()) == revoked, name
            here.network.revoke_sessions()


@pytest.mark.spec("H2", "P6")
async def test_a_body_that_holds_no_tokens() -> None:
    await all_refused({name: good(raw(body)) for name, body in BODIES.items()}, revoked=False)


@pytest.mark.spec("H2", "K5")
async def test_a_refresh_token_that_is_none() -> None:
    # Revoking the access token ends the grant too.
    await all_refused(
        {repr(value)[:20]: good(member("refresh_token", value)) for value in REFRESH_TOKENS}
    )


@pytest.mark.spec("K5")
@pytest.mark.parametrize(
    ("given", "revoked"),
    [
        ({"refresh_token": "r r"}, "r r"),
        ({"refresh_token": "r\tr", "access_token": "a"}, "a"),
        ({"refresh_token": None, "access_token": "a"}, "a"),
        ({"refresh_token": "r\xe9", "access_token": "a\xe9"}, "r\xe9"),
    ],
)
async def test_what_is_revoked_of_a_refused_answer(given: dict[str, object], revoked: str) -> None:
    network = Network()
    tap = Tap(network)
    async with world(network, net_policy=tap.policy()) as here:
        callback = await here.approved()
        with network.alter(
            "/oauth/token", good(lambda answer: answer.with_json(**given, token_type="Bearer"))
        ):
            assert (await here.browser.get(callback)).status_code == 502
        await here.settled()
        assert {one.form["token"] for one in tap.to("/oauth/revoke")} == {revoked}


@pytest.mark.spec("H8")
async def test_a_life_that_is_none_is_a_short_one() -> None:
    async with world(limit_logins=unlimited) as here:
        for value in LIVES:
            callback = await here.approved()
            with here.network.alter("/oauth/token", good(member("expires_in", value))):
                back = await here.browser.get(callback)

            assert back.status_code == 303, value
            async with here.oauth.session_for(here.did()) as session:
                assert 0 < live_of(session).life <= 24 * 3600, value


@pytest.mark.spec("I14", "I13", "K5")
async def test_tokens_without_a_nonce() -> None:
    await all_refused({name: good(nonce(*values)) for name, values in NONCES.items()})


@pytest.mark.spec("I11")
async def test_a_challenge_with_a_new_nonce_each_time_is_answered_once() -> None:
    lie = endless_challenge()
    await all_refused({"endless": lie}, revoked=False, posts=2)
    assert next(lie.count) == 3


@pytest.mark.spec("P5", "G7")
async def test_a_redirect_is_not_followed_with_a_code() -> None:
    location = "https://pds.example/oauth/par"
    await all_refused(
        {
            f"{status}": honest_challenge(redirect(status, location))
            for status in (301, 302, 303, 307, 308)
        },
        revoked=False,
    )


@pytest.mark.spec("H7", "A18", "K5")
async def test_an_account_that_moves_between_the_tokens_and_the_check_is_seen() -> None:
    network = Network()
    other = network.add_host()

    def move(answer: Answer) -> Answer:
        network.move_account("alice.test", other)
        return answer

    async with world(network) as here:
        callback = await here.approved()
        with network.alter("/oauth/token", good(move)):
            back = await here.browser.get(callback)

        assert back.status_code == 400
        assert here.cookie is None
        assert await here.revoked()


# Refresh

HICCUPS: dict[str, Change] = {
    **{f"200 {name}": raw(body) for name, body in BODIES.items()},
    **{
        f"{status} {error}": raw(json.dumps({"error": error}).encode(), status=status)
        for status, error in (
            (400, "invalid_request"),
            (400, "use_dpop_nonce"),
            (400, "invalid_dpop_proof"),
            (401, "invalid_client"),
            (403, "invalid_grant"),
            (500, "invalid_grant"),
            (200, "invalid_grant"),
            (400, "INVALID_GRANT"),
            (400, "invalid_grant "),
        )
    },
    **{
        f"{status}": raw(b"<h1>No</h1>", status=status, content_type="text/html")
        for status in (201, 204, 302, 400, 401, 404, 429, 500, 502, 503)
    },
    "no access token": member("access_token", None),
    "an access token with a line break": member("access_token", "a\r\nb"),
    "a refresh token that is a number": member("refresh_token", 7),
}


@pytest.mark.spec("J8", "P6")
@pytest.mark.timeout(240)  # dozens of logins
async def test_a_hiccup_ends_no_session() -> None:
    store = FaultyStore()
    async with world(store=store, limit_logins=unlimited) as here:
        for name, hiccup in HICCUPS.items():
            await here.login()
            here.network.expire_access_tokens()
            store.allow_refresh()
            async with here.oauth.session_for(here.did()) as session:
                with (
                    here.network.alter("/oauth/token", honest_challenge(hiccup)),
                    pytest.raises(RefreshFailed) as caught,
                ):
                    await session.query(GET_SESSION)

            assert caught.value.retryable, name
            (row,) = (row for row in store.sessions if row.id == session.id)
            assert (row.status, row.version) == ("active", 1), name
            assert await here.who() == here.did(), name


@pytest.mark.spec("H9", "J3")
@pytest.mark.parametrize("kept", ["absent", "the same"])
async def test_a_server_that_does_not_rotate_keeps_the_refresh_token(kept: str) -> None:
    store = FaultyStore()
    async with world(store=store) as here:
        await here.login()
        here.network.expire_access_tokens()
        store.allow_refresh()
        async with here.oauth.session_for(here.did()) as session:
            old = live_of(session).tokens.refresh_token
            value = None if kept == "absent" else old
            with here.network.alter("/oauth/token", good(member("refresh_token", value))):
                await session.query(GET_SESSION)

            assert live_of(session).tokens.refresh_token == old
            assert live_of(session).version == 2


@pytest.mark.spec("J5", "K5")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("token_type", "Bearer"),
        ("scope", "transition:generic"),
        ("scope", 7),
        ("sub", "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"),
        ("sub", None),
    ],
)
async def test_tokens_for_somebody_else_end_this_session_and_no_other(
    name: str, value: object
) -> None:
    store = FaultyStore()
    network = Network()
    network.add_account("carol.test", host=network.add_host())
    async with world(network, store=store) as here:
        await here.login("carol.test")
        await here.login(add="1")
        network.expire_access_tokens("alice.test")
        store.allow_refresh()
        async with here.oauth.session_for(here.did()) as session:
            with network.alter("/oauth/token", good(member(name, value))):
                with pytest.raises(ATProtoOAuthError) as caught:
                    await session.query(GET_SESSION)
                await here.settled()

        assert caught.value.code == "session_revoked"
        status = {row.did: row.status for row in store.sessions}
        assert status == {here.did(): "ended", here.did("carol.test"): "active"}
        assert not network.sessions("alice.test")
        assert network.sessions("carol.test")
