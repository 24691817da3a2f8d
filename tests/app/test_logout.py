from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from atproto_oauth_asgi import Event, session_from
from atproto_oauth_asgi.errors import StoreUnavailable
from atproto_oauth_asgi.keys import ClientKeys, generate_client_keys
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.testing.sessions import Session, Sessions
from tests.app.faulty_store import FaultyStore
from tests.app.world import BASE_URL, QUICK, SCRIPT, World, live_of, world

pytestmark = pytest.mark.anyio


async def refresh_is_refused(here: World, token: str) -> bool:
    """Send a refresh token to the server as the library would; say whether it is dead."""
    from atproto_oauth_asgi.authorization_server import post
    from atproto_oauth_asgi.dpop import DPoPKey, Nonces

    server = await here.oauth.core.discovery.for_issuer(here.network.host.origin)
    answer = await post(
        here.oauth.runtime().net,
        here.oauth.core.client,
        server.token_endpoint,
        {"grant_type": "refresh_token", "refresh_token": token},
        issuer=server.issuer,
        kid=None,
        key=DPoPKey.generate(),
        nonces=Nonces(),
    )
    return answer.answer.status == 400 and answer.description == "Invalid refresh token"


async def tokens(here: World) -> tuple[str, str]:
    """Return the access token and the refresh token of the only session."""
    async with here.oauth.session_for(here.did()) as session:
        held = live_of(session).tokens
        assert held.refresh_token is not None
        return held.access_token, held.refresh_token


@pytest.mark.spec("K1", "K2", "K3", "Q5")
async def test_logging_out_ends_the_grant_at_the_server() -> None:
    async with world() as here:
        await here.login()
        _, refresh_token = await tokens(here)
        answer = await here.logout()

        assert (answer.status_code, answer.headers["location"]) == (303, BASE_URL)
        assert here.cookie is None
        assert not here.network.sessions()
        assert here.network.log.of("revoke")[-1].session_id is not None
        assert await refresh_is_refused(here, refresh_token)


@pytest.mark.spec("K2", "E26")
async def test_a_confidential_client_revokes_with_its_own_key_too() -> None:
    keys = ClientKeys(generate_client_keys())
    async with world(client_keys=keys) as here:
        await here.login()
        await here.logout()

        assert not here.network.sessions()


@pytest.mark.spec("K1")
async def test_a_server_that_is_away_does_not_keep_anybody_signed_in() -> None:
    async with world() as here:
        await here.login()
        with here.network.outage():
            answer = await here.logout()

        assert answer.status_code == 303
        assert here.cookie is None
        assert await here.who() is None


@pytest.mark.spec("K1")
async def test_a_server_that_hangs_makes_nobody_wait_for_long() -> None:
    async with world(timing=replace(QUICK, wait=0.1)) as here:
        await here.login()
        before = here.cookie or ""
        async with here.network.hold("/oauth/revoke") as pause:
            leaving = asyncio.create_task(here.logout())
            await pause.arrived()
            # Ended here before the server was asked.
            async with here.another_browser() as other:
                other.cookies.set(here.oauth.cookies.session, before)
                seen = await other.get("/who", headers={"sec-fetch-mode": "navigate"})
            answer = await leaving

        assert seen.json()["did"] is None
        assert answer.status_code == 303


@pytest.mark.spec("K1")
@pytest.mark.parametrize("add", ["", "1"])
async def test_a_slow_logout_from_before_a_login_leaves_the_newer_cookie(add: str) -> None:
    async with world() as here:
        await here.login("alice.test")
        before = here.cookie or ""
        await here.login("bob.test", add=add)
        async with here.another_browser() as tab:
            tab.cookies.set(here.oauth.cookies.session, before)
            answer = await tab.post("/oauth/logout", headers={"origin": BASE_URL})

        assert "set-cookie" not in answer.headers
        assert await here.who() == here.did("bob.test")


@pytest.mark.parametrize(
    ("headers", "json", "status"),
    [
        ({"origin": BASE_URL}, None, 303),
        ({**SCRIPT}, {}, 204),
        ({"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}, None, 204),
        ({"sec-fetch-site": "same-origin", "hx-request": "true"}, None, 204),
    ],
)
async def test_the_answer_suits_who_asks(
    headers: dict[str, str], json: object, status: int
) -> None:
    async with world() as here:
        await here.login()
        answer = await here.browser.post("/oauth/logout", headers=headers, json=json)

        assert answer.status_code == status
        assert here.cookie is None
        assert answer.headers["cache-control"] == "private, no-store"


@pytest.mark.parametrize(
    ("target", "location"),
    [("/who?x=1", f"{BASE_URL}/who?x=1"), ("https://evil.example/", BASE_URL)],
)
async def test_logging_out_leads_to_next_within_the_site(target: str, location: str) -> None:
    async with world() as here:
        await here.login()
        answer = await here.browser.post(
            "/oauth/logout", data={"next": target}, headers={"origin": BASE_URL}
        )

        assert answer.headers["location"] == location


async def test_logging_out_without_a_session_is_no_error() -> None:
    async with world() as here:
        anonymous = await here.logout()
        here.browser.cookies.set(here.oauth.cookies.session, "x" * 43)
        unknown = await here.logout()

        assert (anonymous.status_code, unknown.status_code) == (303, 303)
        assert "set-cookie" not in anonymous.headers
        assert "Max-Age=0" in unknown.headers["set-cookie"]


@pytest.mark.spec("Q0")
async def test_nobody_can_log_somebody_else_out() -> None:
    async with world() as here:
        await here.login()
        async with here.another_browser() as other:
            other.cookies.set("did", here.did())
            other.cookies.set(here.oauth.cookies.session, here.did())
            await other.post("/oauth/logout", headers={"origin": BASE_URL})

        assert await here.who() == here.did()
        assert len(here.network.sessions()) == 1


async def test_a_store_that_does_not_answer_keeps_the_person_signed_in() -> None:
    store = FaultyStore()
    async with world(store=store) as here:
        await here.login()
        store.failing = frozenset({"end_session"})
        page = await here.logout()
        store.failing = frozenset()

        assert page.status_code == 503
        assert "set-cookie" not in page.headers
        assert await here.who() == here.did()
        assert len(here.network.sessions()) == 1


@pytest.mark.spec("K1", "J1")
async def test_logging_out_during_a_refresh_revokes_what_the_refresh_brings() -> None:
    network, store = Network(), FaultyStore()
    async with world(network, store=store) as here:
        await here.login()
        _, refresh_token = await tokens(here)
        store.allow_refresh()
        network.expire_access_tokens()
        async with network.pause_token_endpoint("refresh_token", when="after") as pause:
            call = asyncio.create_task(here.browser.get("/me", headers=SCRIPT))
            await pause.arrived()
            leaving = asyncio.create_task(here.logout())
            await leaving
            pause.release()
            await call
        await here.settled()

        assert await here.who() is None
        assert not network.sessions()
        assert await refresh_is_refused(here, refresh_token)


@pytest.mark.spec("K1", "J1")
@pytest.mark.parametrize("refreshes", [1, 2, 3])
async def test_logging_out_beside_a_refresh_elsewhere_revokes_the_newest_tokens(
    refreshes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Sessions.find

    def find(sessions: Sessions, token: str) -> Session | None:
        # RFC 7009 asks no server to know a token that was spent.
        session = known(sessions, token)
        return session if session is not None and session.refresh_token == token else None

    monkeypatch.setattr(Sessions, "find", find)
    network, store = Network(), FaultyStore()
    end_session = store.end_session
    async with world(network, store=store) as here, world(network, store=store) as elsewhere:
        await here.login()
        elsewhere.browser.cookies.update(here.browser.cookies)

        async def late(*args: Any, **kwargs: Any) -> bool:
            if store.sessions[0].version <= refreshes:
                store.allow_refresh()
                network.expire_access_tokens()
                assert (await elsewhere.browser.get("/me")).status_code == 200
            return await end_session(*args, **kwargs)

        monkeypatch.setattr(store, "end_session", late)
        await here.logout()

        assert store.sessions[0].ended_reason == "logout"
        # Nobody can be hindered from refreshing for ever, but then the person still goes.
        assert await here.revoked() == (refreshes < 3)
        assert await here.who() is None


@pytest.mark.spec("K1")
async def test_logging_out_revokes_though_the_store_did_not_say_that_it_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = FaultyStore()
    async with world(store=store) as here:
        await here.login()
        end_session = store.end_session

        async def lost(*args: Any, **kwargs: Any) -> bool:
            await end_session(*args, **kwargs)
            raise StoreUnavailable("The acknowledgement was lost; this is a planted fault.")

        monkeypatch.setattr(store, "end_session", lost)
        page = await here.logout()

        assert (page.status_code, here.cookie) == (303, None)
        assert await here.revoked()


async def test_an_app_may_end_the_session_itself() -> None:
    async def bye(request: Request) -> Response:
        await session_from(request).logout()
        return Response(status_code=204)

    app = Starlette(routes=[Route("/bye", bye, methods=["POST"])])
    async with world(app=app) as here:
        await here.login()
        answer = await here.browser.post("/bye", headers={"origin": BASE_URL})
        session = (await here.browser.get("/oauth/session")).json()

        assert answer.status_code == 204
        assert session["authenticated"] is False
        assert cast("list[object]", session["accounts"]) == []
        assert not here.network.sessions()


@pytest.mark.spec("K6")
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
async def test_nothing_but_a_post_logs_anybody_out(method: str) -> None:
    async with world() as here:
        await here.login()
        answer = await here.browser.request(
            method, "/oauth/logout", headers={"sec-fetch-site": "same-origin"}
        )

        assert answer.status_code == 405
        assert await here.who() == here.did()


@pytest.mark.parametrize("how", ["a person", "the app"])
async def test_what_ended_otherwise_is_not_told_as_a_logout(how: str) -> None:
    store = FaultyStore()
    told: list[str] = []

    def hear(event: Event) -> None:
        if event.name == "session.ended":
            told.append(str(event.fields["reason"]))

    async with world(store=store, on_event=hear) as here:
        await here.login()
        async with here.oauth.session_for(here.did()) as session:
            # As another worker does when the server says so.
            await store.end_session(session.id, "revoked")
            await (here.logout() if how == "a person" else session.logout())
        assert store.sessions[0].ended_reason == "revoked"
    assert told == []
