"""Apps of app authors, made at import with whatever settings."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from atproto_oauth_asgi import (
    ATProtoOAuth,
    ATProtoOAuthMiddleware,
    Login,
    LoginRefused,
    session_from,
    session_or_none,
)

POST = "repo:app.bsky.feed.post"


async def me(request: Request) -> Response:
    return JSONResponse(await session_from(request).query("com.atproto.server.getSession"))


async def who(request: Request) -> Response:
    session = session_or_none(request)
    return JSONResponse({"did": session.did if session else None})


async def socket(websocket: WebSocket) -> None:
    session = session_from(websocket)
    await websocket.accept()
    await websocket.send_text(session.did)
    await websocket.close()


async def on_login(login: Login) -> None:
    if login.handle == "bob.test":
        raise LoginRefused("Bob may not come in.")


ROUTES: list[BaseRoute] = [Route("/me", me), Route("/who", who), WebSocketRoute("/socket", socket)]


def make(base_url: str = "https://app.birdsong.dev", **settings: object) -> ATProtoOAuth:
    given: dict[str, object] = {
        "secret_keys": (b"k" * 32,),
        "scope": f"atproto {POST}",
        "optional_scope": "blob:image/*",
        **settings,
    }
    return ATProtoOAuth(base_url, **given)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # tests name the settings


def starlette_app(oauth: ATProtoOAuth) -> Starlette:
    app = Starlette(routes=ROUTES)
    app.add_middleware(ATProtoOAuthMiddleware, oauth=oauth)
    return app


def fastapi_app(oauth: ATProtoOAuth) -> FastAPI:
    app = FastAPI(routes=ROUTES)
    app.add_middleware(ATProtoOAuthMiddleware, oauth=oauth)
    return app


def wrapped_app(oauth: ATProtoOAuth) -> ATProtoOAuthMiddleware:
    return ATProtoOAuthMiddleware(Starlette(routes=ROUTES), oauth=oauth)


def without_middleware() -> Starlette:
    return Starlette(routes=[Route("/", PlainTextResponse("hello"))])
