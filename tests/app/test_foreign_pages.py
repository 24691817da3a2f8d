"""Accounts are listed and switched for this site's own pages only, and no cache keeps a list."""

from __future__ import annotations

import json
from typing import cast

import pytest
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from atproto_oauth_asgi import ATProtoOAuth, session_or_none
from tests.app.socket import socket
from tests.app.world import BASE_URL, World, make_app, world

pytestmark = pytest.mark.anyio

SIBLING = "https://evil.birdsong.dev"


def oauth_of(conn: HTTPConnection) -> ATProtoOAuth:
    return cast("ATProtoOAuth", conn.app.state.oauth)


async def seen(conn: HTTPConnection) -> dict[str, object]:
    session = session_or_none(conn)
    listed = [one.did for one in await oauth_of(conn).sessions(conn)]
    return {"session": session.did if session else None, "accounts": listed}


async def look(request: Request) -> Response:
    return JSONResponse(await seen(request))


async def accounts(request: Request) -> Response:
    return JSONResponse([one.did for one in await oauth_of(request).sessions(request)])


async def switch(request: Request) -> Response:
    await oauth_of(request).switch(request, request.query_params["did"])
    return Response(status_code=204)


async def looks(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_json(await seen(websocket))
    await websocket.close()


def an_app() -> Starlette:
    app = make_app()
    app.router.routes += [
        Route("/look", look, methods=["GET", "POST"]),
        Route("/accounts", accounts),
        Route("/switch", switch, methods=["GET", "POST"]),
        WebSocketRoute("/socket", looks),
    ]
    return app


async def told(here: World, origin: str) -> object:
    """Return what a WebSocket is told that a page of an origin opened."""
    async with socket(here, "/socket", {"origin": origin}) as browser:
        assert (await browser.next())["type"] == "websocket.accept"
        return json.loads((await browser.next())["text"])


@pytest.mark.spec("Q8")
async def test_a_page_that_lists_accounts_is_private() -> None:
    app = an_app()
    async with world(app=app) as here:
        app.state.oauth = here.oauth
        for signed_in in (False, True):
            if signed_in:
                await here.login()
            answer = await here.browser.get("/accounts")
            assert len(answer.json()) == signed_in
            assert answer.headers["cache-control"] == "private, no-store"
            assert answer.headers["vary"] == "Cookie"
        did = here.did()
        switched = await here.browser.post(f"/switch?did={did}", headers={"origin": BASE_URL})
        assert switched.headers["cache-control"] == "private, no-store"


@pytest.mark.spec("Q3")
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_foreign_pages_see_no_accounts(site: str) -> None:
    app = an_app()
    async with world(app=app) as here:
        app.state.oauth = here.oauth
        await here.login()
        nobody: dict[str, object] = {"session": None, "accounts": []}
        somebody = {"session": here.did(), "accounts": [here.did()]}
        foreign = {"origin": SIBLING, "sec-fetch-site": site}

        assert await told(here, SIBLING) == nobody
        assert await told(here, BASE_URL) == somebody
        assert (await here.browser.post("/look", headers=foreign)).json() == nobody
        own = {"origin": BASE_URL, "sec-fetch-site": "same-origin"}
        assert (await here.browser.post("/look", headers=own)).json() == somebody


async def test_a_websocket_that_switches_in_vain_is_closed() -> None:
    async def switches(websocket: WebSocket) -> None:
        await websocket.accept()
        await oauth_of(websocket).switch(websocket, "did:plc:nobody")

    app = make_app()
    app.router.routes.append(WebSocketRoute("/socket", switches))
    async with world(app=app) as here:
        app.state.oauth = here.oauth
        await here.login()
        async with socket(here, "/socket") as browser:
            assert (await browser.next())["type"] == "websocket.accept"
            end = await browser.next()
            assert (end["type"], end["code"], end["reason"]) == (
                "websocket.close",
                1008,
                "no_session",
            )


@pytest.mark.spec("Q3")
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_foreign_pages_and_links_switch_nobody(method: str, site: str) -> None:
    app = an_app()
    async with world(app=app) as here:
        app.state.oauth = here.oauth
        await here.login("alice.test")
        await here.login("bob.test", add="1")
        url = f"/switch?did={here.did('alice.test')}"

        refused = await here.browser.request(method, url, headers={"sec-fetch-site": site})
        assert refused.status_code == 403
        assert await here.who() == here.did("bob.test")
        followed = await here.browser.get(url, headers={"sec-fetch-site": "same-origin"})
        assert followed.status_code == 204
        assert await here.who() == here.did("alice.test")
