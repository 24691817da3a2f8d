"""What a session is to the app, and how it calls the PDS."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from atproto_oauth_asgi import OAuthSession
from atproto_oauth_asgi.errors import (
    AddressRefused,
    BadAnswer,
    Unreachable,
    XRPCError,
)
from atproto_oauth_asgi.testing.web import Answer
from tests.app.world import World, live_of, world

pytestmark = pytest.mark.anyio

SCOPE = "atproto repo:app.bsky.feed.post blob:image/*"
SESSION = "/xrpc/com.atproto.server.getSession"
RECORDS = "/xrpc/com.atproto.repo.listRecords"


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
        "https://xn--a/x",
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
@pytest.mark.parametrize("by_way_of", ["https://evil.example/", "https://pds.example/elsewhere"])
async def test_a_client_that_was_led_in_a_circle_has_no_answer_of_the_pds(by_way_of: str) -> None:
    async with world() as here:
        await here.login()
        asked: list[str] = []

        async def network(request: httpx.Request) -> httpx.Response:
            asked.append(str(request.url))
            nonce = {"dpop-nonce": f"n{min(len(asked), 2)}"}
            match len(asked):
                case 1:
                    challenge = {"www-authenticate": 'DPoP error="use_dpop_nonce"', **nonce}
                    return httpx.Response(401, headers=challenge)
                case 2:
                    return httpx.Response(307, headers={"location": by_way_of, **nonce})
                case 3 if "evil" in by_way_of:
                    back = f"https://pds.example{SESSION}"
                    return httpx.Response(307, headers={"location": back, **nonce})
                case _:
                    return httpx.Response(200, headers=nonce, json={})

        async with (
            here.oauth.session_for(here.did()) as session,
            httpx.AsyncClient(
                transport=httpx.MockTransport(network), auth=session.auth, follow_redirects=True
            ) as client,
        ):
            with pytest.raises(AddressRefused, match="a client that follows none"):
                await client.get(f"{session.pds}{SESSION}")
        assert by_way_of in asked


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
