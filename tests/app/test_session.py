from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from atproto_oauth_asgi import OAuthSession
from atproto_oauth_asgi.errors import (
    AddressRefused,
    BadAnswer,
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
RECORDS = "/xrpc/com.atproto.repo.listRecords"
UPLOAD = "/xrpc/com.atproto.repo.uploadBlob"


def post(here: World, text: str = "hello") -> dict[str, object]:
    return {
        "repo": here.did(),
        "collection": "app.bsky.feed.post",
        "record": {"text": text, "createdAt": "2026-01-01T00:00:00Z"},
    }


def calls(here: World) -> list[str | None]:
    return [one.name for one in here.network.log.of("xrpc")]


async def test_it_says_whose_it_is_and_never_a_secret() -> None:
    async with world(scope=SCOPE) as here:
        await here.login()
        async with here.oauth.session_for(here.did()) as session:
            left = session.access_expires_at - datetime.now(UTC)

            assert session.did == here.did()
            assert session.handle == "alice.test"
            assert session.pds == session.issuer == here.network.host.origin
            assert session.scopes == frozenset(SCOPE.split())
            assert timedelta(minutes=55) < left <= timedelta(hours=1)
            text = repr(session) + repr(live_of(session)) + repr(live_of(session).tokens)
            assert live_of(session).tokens.access_token not in text
            assert str(live_of(session).tokens.refresh_token) not in text


@pytest.mark.spec("I15", "I19", "I5", "I4")
async def test_it_calls_the_pds_in_every_way() -> None:
    async with world(scope=SCOPE) as here:
        await here.login()
        async with here.oauth.session_for(here.did()) as session:
            written = await session.procedure("com.atproto.repo.createRecord", post(here))
            again = await session.post(
                "/xrpc/com.atproto.repo.createRecord", json=post(here, "two")
            )
            blob = await session.procedure(
                "com.atproto.repo.uploadBlob", b"\x89PNG", content_type="image/png"
            )
            listed = await session.query(
                "com.atproto.repo.listRecords",
                {"repo": here.did(), "collection": "app.bsky.feed.post", "limit": 10},
            )
            got = await session.get(SESSION)
            put = await session.request("PUT", f"{here.network.host.origin}{SESSION}")
            async with session.stream(
                "GET", RECORDS, params={"repo": here.did(), "collection": "app.bsky.feed.post"}
            ) as response:
                streamed = b"".join([chunk async for chunk in response.aiter_bytes()])

            assert str(written["uri"]).startswith("at://")
            assert again.status_code == 200
            assert json.dumps(blob).count("image/png") == 1
            assert len(listed["records"]) == 2  # type: ignore[arg-type]
            assert got.json()["handle"] == "alice.test"
            assert put.status_code == 405
            assert len(json.loads(streamed)["records"]) == 2


@pytest.mark.spec("I18", "I15")
@pytest.mark.parametrize(
    "path",
    [
        "https://evil.example/xrpc/x",
        "//evil.example/xrpc/x",
        "https://pds.example.evil.example/",
        "https://pds.example@evil.example/",
        "https://user@pds.example/xrpc/x",
        "https://pds.example:8443/xrpc/x",
        "http://pds.example/xrpc/x",
        "https://pds.example",
        "xrpc/x",
        "",
        "\\\\evil.example/x",
        "https://[bad/x",
    ],
)
async def test_its_tokens_go_to_its_pds_only(path: str) -> None:
    async with world() as here:
        await here.login()
        async with here.oauth.session_for(here.did()) as session:
            with pytest.raises(AddressRefused):
                await session.get(path)
        assert calls(here) == []


@pytest.mark.spec("I18")
async def test_a_client_of_the_apps_own_speaks_to_the_pds_only() -> None:
    async with world() as here:
        await here.login()
        apps = httpx.ASGITransport(here.network.host.app)
        async with (
            here.oauth.session_for(here.did()) as session,
            httpx.AsyncClient(transport=apps, auth=session.auth) as client,
        ):
            answer = await client.get(f"{session.pds}{SESSION}")
            assert answer.json()["handle"] == "alice.test"
            before = len(here.network.log)
            with pytest.raises(AddressRefused):
                await client.get(f"https://evil.example{SESSION}")
            assert len(here.network.log) == before


async def test_a_client_without_event_loop_is_refused() -> None:
    async with world() as here:
        await here.login()
        async with here.oauth.session_for(here.did()) as session:
            request = httpx.Request("GET", f"{session.pds}{SESSION}")
            with pytest.raises(RuntimeError, match=r"httpx\.AsyncClient"):
                session.auth.sync_auth_flow(request)


@pytest.mark.spec("I18", "P5")
async def test_a_redirect_of_the_pds_is_not_followed() -> None:
    async with world() as here:
        await here.login()
        with here.network.alter(
            SESSION,
            lambda answer: replace(
                answer, status=307, headers=(("location", "https://evil.example/steal"),)
            ),
        ):
            async with here.oauth.session_for(here.did()) as session:
                answer = await session.get(SESSION)

                assert answer.status_code == 307
                assert not answer.history
                with pytest.raises(XRPCError):
                    await session.query("com.atproto.server.getSession")


@pytest.mark.spec("I18", "P5")
async def test_a_client_that_follows_redirects_takes_no_token_elsewhere() -> None:
    async with world() as here:
        await here.login()
        stolen: list[httpx.Headers] = []

        async def network(request: httpx.Request) -> httpx.Response:
            if request.url.host != "pds.example":
                stolen.append(request.headers)
                return httpx.Response(200)
            return httpx.Response(307, headers={"location": "https://evil.example/steal"})

        async with (
            here.oauth.session_for(here.did()) as session,
            httpx.AsyncClient(
                transport=httpx.MockTransport(network), auth=session.auth, follow_redirects=True
            ) as client,
        ):
            with pytest.raises(AddressRefused):
                await client.get(f"{session.pds}{SESSION}")

        assert not any("authorization" in headers for headers in stolen)


async def test_an_error_of_the_pds_is_typed() -> None:
    async with world(scope=SCOPE) as here:
        await here.login()
        async with here.oauth.session_for(here.did()) as session:
            with pytest.raises(XRPCError) as caught:
                await session.procedure(
                    "com.atproto.repo.createRecord",
                    {**post(here), "collection": "app.bsky.feed.like"},
                )
            error = caught.value

            assert (error.http_status, error.error) == (403, "ScopeMissingError")
            assert "repo:app.bsky.feed.like" in error.server_message
        # Spec M7: nobody is signed out, and nothing refreshed, for a missing permission.
        assert not here.network.token_requests("refresh_token")
        assert await here.who() == here.did()


@pytest.mark.parametrize("nsid", ["", "getSession", "a.b.c/d", "../x", "a.b.c?x=y", "a.b.c#d"])
async def test_only_names_of_methods_are_called(nsid: str) -> None:
    async with world() as here:
        await here.login()
        async with here.oauth.session_for(here.did()) as session:
            with pytest.raises(AddressRefused):
                await session.query(nsid)


def compressed(answer: Answer) -> Answer:
    packed = gzip.compress(b"0" * 50_000_000)
    return replace(answer, body=packed).with_header("content-encoding", "gzip")


def body_of(body: bytes) -> Callable[[Answer], Answer]:
    return lambda answer: replace(answer, body=body)


TRAPS: dict[str, tuple[Callable[[Answer], Answer], str]] = {
    "gzip bomb": (compressed, "compressed"),
    "too large": (body_of(b"0" * (32 * 1024 * 1024 + 1)), "larger than"),
    "list": (body_of(b"[]"), "not a JSON object"),
    "page": (body_of(b"<html>"), "not a JSON object"),
}


@pytest.mark.spec("P6")
@pytest.mark.parametrize("trap", TRAPS)
async def test_an_answer_that_is_a_trap_is_refused(trap: str) -> None:
    change, what = TRAPS[trap]
    async with world() as here:
        await here.login()
        with here.network.alter(SESSION, change):
            async with here.oauth.session_for(here.did()) as session:
                with pytest.raises(BadAnswer, match=what):
                    await session.query("com.atproto.server.getSession")


async def test_an_error_answer_that_is_no_json_is_an_error_all_the_same() -> None:
    async with world() as here:
        await here.login()
        with here.network.alter(
            SESSION, lambda answer: replace(answer, status=502, body=b"<h1>Bad gateway</h1>")
        ):
            async with here.oauth.session_for(here.did()) as session:
                with pytest.raises(XRPCError) as caught:
                    await session.query("com.atproto.server.getSession")

        assert (caught.value.http_status, caught.value.error) == (502, "Unknown")


async def test_a_pds_that_is_away_is_said() -> None:
    async with world() as here:
        await here.login()
        with here.network.outage():
            async with here.oauth.session_for(here.did()) as session:
                with pytest.raises(Unreachable):
                    await session.get(SESSION)


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


async def test_proxied_calls_name_their_service() -> None:
    async with world() as here:
        await here.login()
        seen: list[httpx.Headers] = []

        async def network(request: httpx.Request) -> httpx.Response:
            seen.append(request.headers)
            return httpx.Response(200, json={})

        async with (
            here.oauth.session_for(here.did()) as session,
            httpx.AsyncClient(transport=httpx.MockTransport(network)) as client,
        ):
            runtime, service = here.oauth.runtime(), "did:web:api.example#appview"
            proxied = OAuthSession(
                live_of(session), upkeep=runtime.upkeep, client=client, end=runtime.logout
            )
            await proxied.query("app.bsky.feed.getTimeline", proxy=service)
            await proxied.procedure("app.bsky.x.do", b"x", proxy=service)

        assert [one["atproto-proxy"] for one in seen] == ["did:web:api.example#appview"] * 2
        assert [one.get_list("authorization")[0].split()[0] for one in seen] == ["DPoP"] * 2
        assert [len(one.get_list("dpop")) for one in seen] == [1, 1]


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
