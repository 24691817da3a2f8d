from __future__ import annotations

import json
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI
from fastapi import WebSocket as FastAPIWebSocket
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from atproto_oauth_asgi import OAuthSession, session_from, session_or_none
from atproto_oauth_asgi.errors import NotAuthenticated, SessionRevoked
from tests.app.faulty_store import FaultyStore
from tests.app.socket import socket
from tests.app.world import BASE_URL, World, world

pytestmark = pytest.mark.anyio

TRUSTED = "https://www.birdsong.dev"


async def private(websocket: WebSocket) -> None:
    """Answer each message with what the PDS says."""
    session = session_from(websocket)
    await websocket.accept()
    try:
        async for _ in websocket.iter_text():
            await websocket.send_json(await session.query("com.atproto.server.getSession"))
    except WebSocketDisconnect:
        return


async def who(websocket: WebSocket) -> None:
    session = session_or_none(websocket)
    await websocket.accept()
    await websocket.send_json({"did": session.did if session else None})
    await websocket.close()


async def lenient(websocket: WebSocket) -> None:
    """Take everybody, and serve what they may have."""
    try:
        name: str = session_from(websocket).did
    except NotAuthenticated:
        name = "nobody"
    await websocket.accept()
    async for _ in websocket.iter_text():
        await websocket.send_text(name)


async def patient(websocket: WebSocket) -> None:
    """Catch the end of a session, and go on without it."""
    session = session_from(websocket)
    await websocket.accept()
    async for _ in websocket.iter_text():
        try:
            await session.query("com.atproto.server.getSession")
            await websocket.send_text("signed in")
        except SessionRevoked:
            await websocket.send_text("signed out")


def starlette() -> Starlette:
    return Starlette(
        routes=[
            WebSocketRoute("/private", private),
            WebSocketRoute("/who", who),
            WebSocketRoute("/lenient", lenient),
            WebSocketRoute("/patient", patient),
        ]
    )


def fastapi() -> FastAPI:
    app = FastAPI()

    @app.websocket("/private")
    async def fast_private(
        websocket: FastAPIWebSocket, session: Annotated[OAuthSession, Depends(session_from)]
    ) -> None:
        await websocket.accept()
        async for _ in websocket.iter_text():
            await websocket.send_json(await session.query("com.atproto.server.getSession"))

    return app


async def raw(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await private(WebSocket(scope, receive, send))


async def did_seen(here: World, **headers: str) -> object:
    async with socket(here, "/who", headers) as end:
        assert (await end.next())["type"] == "websocket.accept"
        message = await end.next()
    return json.loads(message["text"])["did"]


@pytest.mark.parametrize("app", [starlette(), fastapi(), raw])
async def test_a_websocket_has_the_session(app: Starlette) -> None:
    async with world(app=app) as here:
        await here.login()
        async with socket(here, "/private") as end:
            assert (await end.next())["type"] == "websocket.accept"
            end.say("who am I?")
            assert "alice.test" in (await end.next())["text"]


@pytest.mark.parametrize("app", [starlette(), fastapi(), raw])
async def test_without_a_session_the_handshake_is_refused(app: Starlette) -> None:
    async with world(app=app) as here, socket(here, "/private") as end:
        # Before the handshake a server turns this into a 403.
        assert await end.next() == {
            "type": "websocket.close",
            "code": 1008,
            "reason": "not_authenticated",
        }


@pytest.mark.parametrize("app", [starlette(), fastapi()])
async def test_a_server_that_can_answers_the_handshake_with_the_reason(app: Starlette) -> None:
    async with world(app=app) as here, socket(here, "/private", can_respond=True) as end:
        start = await end.next()
        assert (start["type"], start["status"]) == ("websocket.http.response.start", 401)
        assert b"not_authenticated" in (await end.next())["body"]

    assert end.from_app.empty()


async def test_with_a_store_that_does_not_answer_it_is_refused_too() -> None:
    store = FaultyStore()
    async with world(store=store, app=starlette()) as here:
        await here.login()
        store.failing = frozenset({"load"})
        async with socket(here, "/private") as end:
            assert await end.next() == {
                "type": "websocket.close",
                "code": 1008,
                "reason": "store_unavailable",
            }


@pytest.mark.spec("Q3")
async def test_a_websocket_of_another_page_carries_no_session() -> None:
    async with world(app=starlette(), trusted_origins=(TRUSTED,)) as here:
        await here.login()

        assert await did_seen(here) == here.did()
        assert await did_seen(here, origin=TRUSTED) == here.did()
        assert await did_seen(here, origin="") == here.did()
        for origin in ("https://evil.example", "null", "http://app.birdsong.dev"):
            assert await did_seen(here, origin=origin) is None


async def test_an_app_may_opt_out_of_that_by_name() -> None:
    async with world(app=starlette(), cross_site_sessions=True) as here:
        await here.login()

        assert await did_seen(here, origin="https://evil.example") == here.did()


@pytest.mark.parametrize("can_respond", [True, False])
@pytest.mark.parametrize("app", [starlette(), fastapi(), raw])
async def test_a_session_that_ends_in_mid_socket_closes_it(
    app: Starlette, can_respond: bool
) -> None:
    async with world(app=app) as here:
        await here.login()
        async with socket(here, "/private", can_respond=can_respond) as end:
            await end.next()
            end.say("1")
            await end.next()
            await here.logout()
            end.say("2")
            assert await end.next() == {
                "type": "websocket.close",
                "code": 1008,
                "reason": "session_revoked",
            }


async def test_a_refresh_in_mid_socket_goes_unnoticed() -> None:
    store = FaultyStore()
    async with world(store=store, app=starlette()) as here:
        await here.login()
        async with socket(here, "/private") as end:
            await end.next()
            for _ in range(3):
                here.network.expire_access_tokens()
                store.allow_refresh()
                end.say("who am I?")
                assert "alice.test" in (await end.next())["text"]

        assert len(here.network.token_requests("refresh_token")) == 3


async def test_an_app_that_takes_everybody_is_left_alone() -> None:
    async with world(app=starlette()) as here, socket(here, "/lenient") as end:
        assert (await end.next())["type"] == "websocket.accept"
        end.say("who am I?")
        assert (await end.next())["text"] == "nobody"
        end.leave()

    assert [message["type"] for message in end.sent] == ["websocket.accept", "websocket.send"]


async def test_an_app_that_goes_on_after_a_session_ended_is_left_alone() -> None:
    async with world(app=starlette()) as here:
        await here.login()
        async with socket(here, "/patient") as end:
            await end.next()
            await here.logout()
            end.say("1")
            assert (await end.next())["text"] == "signed out"
            end.leave()

    assert end.sent[-1]["type"] == "websocket.send"


async def test_a_defect_in_the_app_stays_one() -> None:
    async def broken(websocket: WebSocket) -> None:
        session_from(websocket)
        raise ZeroDivisionError

    app = Starlette(routes=[WebSocketRoute("/broken", broken)])
    async with world(app=app) as here:
        await here.login()
        with pytest.raises(ZeroDivisionError):
            async with socket(here, "/broken"):
                pass


async def test_a_websocket_at_our_paths_is_the_apps() -> None:
    app = Starlette(routes=[WebSocketRoute("/oauth/login", who)])
    async with world(app=app) as here, socket(here, "/oauth/login") as end:
        assert (await end.next())["type"] == "websocket.accept"
        assert BASE_URL == here.origin
