"""A PDS that asks for another nonce, or refuses a proof, gets one more request and no storm."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from atproto_oauth_asgi.errors import RefreshFailed
from atproto_oauth_asgi.testing.web import Answer
from tests.app.faulty_store import FaultyStore
from tests.app.world import World, live_of, world

pytestmark = pytest.mark.anyio

SCOPE = "atproto repo:app.bsky.feed.post blob:image/*"
SESSION = "/xrpc/com.atproto.server.getSession"
UPLOAD = "/xrpc/com.atproto.repo.uploadBlob"


def calls(here: World) -> list[str | None]:
    return [one.name for one in here.network.log.of("xrpc")]


@pytest.mark.spec("I12")
async def test_a_stream_is_preceded_by_one_cheap_call_that_takes_the_challenges() -> None:
    sent = 0

    async def image() -> AsyncIterator[bytes]:
        nonlocal sent
        sent += 1
        for _ in range(3):
            yield b"\x89PNG" * 1000

    store = FaultyStore()
    async with world(store=store, scope=SCOPE) as here:
        await here.login()
        here.network.restart_hosts()
        here.network.expire_access_tokens()
        store.allow_refresh()
        async with here.oauth.session_for(here.did()) as session:
            answer = await session.post(
                UPLOAD, content=image(), headers={"content-type": "image/png"}
            )

            assert answer.status_code == 200
            assert answer.json()["blob"]["size"] == 12_000
        assert sent == 1
        assert calls(here)[-1] == "com.atproto.repo.uploadBlob"
        assert calls(here).count("com.atproto.repo.uploadBlob") == 1
        assert set(calls(here)[:-1]) == {"com.atproto.server.getSession"}


@pytest.mark.spec("I9", "I10")
async def test_a_restarted_pds_is_answered_with_its_new_nonce() -> None:
    async with world() as here:
        await here.login()
        async with here.oauth.session_for(here.did()) as session:
            await session.query("com.atproto.server.getSession")
            here.network.restart_hosts()
            before = len(here.network.log)
            await session.query("com.atproto.server.getSession")

            assert [one.status for one in here.network.log][before:] == [401, 200]


@pytest.mark.spec("I11")
async def test_a_pds_that_asks_for_nonces_for_ever_is_given_up() -> None:
    async with world() as here:
        await here.login()
        with here.network.alter(
            SESSION,
            lambda answer: replace(
                answer,
                status=401,
                headers=(
                    ("www-authenticate", 'DPoP error="use_dpop_nonce"'),
                    ("dpop-nonce", f"n{len(here.network.log)}"),
                ),
            ),
        ):
            async with here.oauth.session_for(here.did()) as session:
                answer = await session.get(SESSION)

        assert answer.status_code == 401
        assert len(calls(here)) == 2


@pytest.mark.spec("I10")
async def test_a_pds_may_challenge_as_an_authorization_server_does() -> None:
    async with world() as here:
        await here.login()
        async with here.oauth.session_for(here.did()) as session:
            await session.get(SESSION)
            here.network.restart_hosts()
            with here.network.alter(
                SESSION,
                lambda answer: (
                    replace(answer, status=400).with_header("www-authenticate", None)
                    if answer.status == 401
                    else answer
                ),
            ):
                before = len(calls(here))
                answer = await session.get(SESSION)

        assert answer.status_code == 200
        assert len(calls(here)) == before + 2


def refused(answer: Answer, error: str, media_type: str | None) -> Answer:
    """Refuse with 400 what was refused with 401: in a header, or in a body of a type."""
    if answer.status != 401:
        return answer
    words = None if media_type else f'DPoP error="{error}"'
    answer = replace(answer, status=400).with_header("www-authenticate", words)
    if media_type is None:
        return replace(answer, body=b"").with_header("content-type", None)
    return answer.with_json(error=error).with_header("content-type", media_type)


@pytest.mark.spec("I10")
@pytest.mark.parametrize(
    "media_type", [None, "application/json", "Application/JSON", "application/json ; charset=utf-8"]
)
async def test_a_challenge_with_400_is_one_in_the_header_and_in_the_body(
    media_type: str | None,
) -> None:
    async with world() as here:
        await here.login()
        async with here.oauth.session_for(here.did()) as session:
            await session.get(SESSION)
            here.network.restart_hosts()
            with here.network.alter(
                SESSION, lambda answer: refused(answer, "use_dpop_nonce", media_type)
            ):
                assert (await session.get(SESSION)).status_code == 200


@pytest.mark.spec("I10", "J7")
@pytest.mark.parametrize("new_nonce", [False, True])
async def test_a_token_refused_with_400_is_refreshed_whatever_nonce_came_along(
    new_nonce: bool,
) -> None:
    store = FaultyStore()
    async with world(store=store) as here:
        await here.login()
        async with here.oauth.session_for(here.did()) as session:
            await session.get(SESSION)
            here.network.expire_access_tokens()
            store.allow_refresh()

            def refuse(answer: Answer) -> Answer:
                nonce = f"n{len(here.network.log)}" if new_nonce else None
                refusal = refused(answer, "invalid_token", None)
                return refusal.with_header("dpop-nonce", nonce) if nonce else refusal

            with here.network.alter(SESSION, refuse):
                await session.get(SESSION)
        assert len(here.network.token_requests("refresh_token")) == 1


@pytest.mark.spec("I10")
@pytest.mark.parametrize("length", [65_536, 65_537, 1_000_000])
async def test_an_ordinary_refusal_is_handed_over_whole_whatever_nonce_came_along(
    length: int,
) -> None:
    body = b'{"error": "InvalidRequest", "message": "' + b"x" * (length - 42) + b'"}'
    assert len(body) == length
    async with world() as here:
        await here.login()
        async with here.oauth.session_for(here.did()) as session:
            await session.get(SESSION)
            with here.network.alter(
                SESSION,
                lambda answer: replace(
                    answer,
                    status=400,
                    headers=(
                        ("content-type", "application/json"),
                        ("dpop-nonce", f"n{len(here.network.log)}"),
                    ),
                    body=body,
                ),
            ):
                before = len(calls(here))
                answer = await session.get(SESSION)

        assert (answer.status_code, answer.content) == (400, body)
        assert len(calls(here)) == before + 1


@pytest.mark.spec("I11")
async def test_a_nonce_that_was_refused_is_not_sent_again() -> None:
    async with world() as here:
        await here.login()
        async with here.oauth.session_for(here.did()) as session:
            await session.get(SESSION)
            nonce = live_of(session).nonces.get(session.pds) or ""
            with here.network.alter(
                SESSION,
                lambda answer: replace(
                    answer,
                    status=401,
                    headers=(
                        ("www-authenticate", 'DPoP error="use_dpop_nonce"'),
                        ("dpop-nonce", nonce),
                    ),
                ),
            ):
                before = len(calls(here))
                answer = await session.get(SESSION)
            with here.network.alter(
                "/oauth/par",
                lambda answer: (
                    replace(answer, status=400)
                    .with_json(error="use_dpop_nonce")
                    .with_header(
                        "dpop-nonce", here.oauth.runtime().sessions.nonces.get(session.issuer)
                    )
                ),
            ):
                begun = await here.begin("bob.test")

        assert answer.status_code == 401
        assert len(calls(here)) == before + 1
        assert begun.status_code == 502
        assert len(here.network.log.of("par")) == 3


@pytest.mark.spec("I16", "J8")
async def test_a_refused_proof_is_said_and_kept_from_becoming_a_storm(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = FaultyStore()
    async with world(store=store) as here:
        await here.login()
        store.allow_refresh()
        here.network.expire_access_tokens()
        with here.network.alter(
            "/oauth/token",
            lambda answer: (
                replace(answer, status=400).with_json(error="invalid_dpop_proof")
                if answer.status == 200
                else answer
            ),
        ):
            async with here.oauth.session_for(here.did()) as session:
                for _ in range(3):
                    with pytest.raises(RefreshFailed):
                        await session.query("com.atproto.server.getSession")

        assert len(here.network.token_requests("refresh_token")) <= 2
        assert await here.who() == here.did()
    refused = [one for one in caplog.records if one.getMessage() == "refresh.refused"]
    assert refused
    assert all("invalid_dpop_proof" in str(one.__dict__) for one in refused)
