"""Is only checked by the type checkers: what an app may write, and the types it gets."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, assert_type

import httpx
import httpx2
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient as FastAPIClient
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from atproto_oauth_asgi import (
    ATProtoOAuth,
    ATProtoOAuthError,
    ATProtoOAuthMiddleware,
    ClientKeys,
    Login,
    LoginRefused,
    OAuthSession,
    Store,
    covers,
    error_response,
    requires_scope,
    session_from,
    session_or_none,
)
from atproto_oauth_asgi.errors import InsufficientScope, SessionRevoked, XRPCError
from atproto_oauth_asgi.identifiers import Did, Handle
from atproto_oauth_asgi.net_policy import NetPolicy
from atproto_oauth_asgi.sessions import Account
from atproto_oauth_asgi.testing import Account as NetworkAccount
from atproto_oauth_asgi.testing import (
    Attachment,
    LoginFailed,
    Network,
    deny,
    login,
    sign_out,
    signed_in,
)


async def on_login(login: Login) -> Response | None:
    assert_type(login.did, Did)
    assert_type(login.handle, Handle | None)
    assert_type(login.session, OAuthSession)
    assert_type(login.request, Request)
    assert_type(login.data, Mapping[str, object] | None)
    assert_type(login.next, str)
    if login.handle is None:
        raise LoginRefused("A handle is needed here.")
    return None


def configured(store: Store, keys: ClientKeys) -> list[ATProtoOAuth]:
    return [
        ATProtoOAuth("https://app.birdsong.dev"),
        ATProtoOAuth(
            "https://app.birdsong.dev",
            store=store,
            on_login=on_login,
            client_keys=keys,
            scope="atproto",
            trusted_origins=("https://www.birdsong.dev",),
            refresh="on_use",
        ),
        ATProtoOAuth.from_env(on_login=on_login),
        ATProtoOAuth.from_env({"ATPROTO_OAUTH_BASE_URL": "x"}, scope="atproto"),
    ]


def apps(oauth: ATProtoOAuth) -> None:
    app = Starlette(
        routes=[*oauth.routes],
        middleware=[Middleware(ATProtoOAuthMiddleware, oauth=oauth)],
        exception_handlers={ATProtoOAuthError: error_response},
    )
    app.add_middleware(ATProtoOAuthMiddleware, oauth=oauth)
    ATProtoOAuthMiddleware(app, oauth=oauth)
    assert_type(oauth.routes, list[Route])
    assert_type(oauth.login_url(next="/x", add=True), str)


def fastapi(app: FastAPI, oauth: ATProtoOAuth) -> None:
    app.add_middleware(ATProtoOAuthMiddleware, oauth=oauth)
    app.add_exception_handler(ATProtoOAuthError, error_response)

    def who(session: Annotated[OAuthSession, Depends(session_from)]) -> str:
        return session.did

    def maybe(session: Annotated[OAuthSession | None, Depends(session_or_none)]) -> str | None:
        return session.did if session else None

    def may(session: Annotated[OAuthSession, Depends(requires_scope("repo:*"))]) -> str:
        return session.did

    app.get("/who")(who)
    app.get("/maybe")(maybe)
    app.get("/may")(may)


def accessors(request: Request, websocket: WebSocket, conn: HTTPConnection) -> None:
    assert_type(session_from(request), OAuthSession)
    assert_type(session_or_none(websocket), OAuthSession | None)
    assert_type(requires_scope("repo:*", "blob:*/*")(conn), OAuthSession)
    assert_type(error_response(conn, ATProtoOAuthError()), Response)


async def calls(session: OAuthSession) -> None:
    assert_type(session.did, Did)
    assert_type(session.handle, Handle | None)
    assert_type(session.scopes, frozenset[str])
    assert_type(session.access_expires_at, datetime)
    assert_type(covers(session.scopes, "repo:app.bsky.feed.post"), bool)
    assert_type(await session.get("/xrpc/a.b.c", params={"x": ["a", "b"]}), httpx.Response)
    assert_type(await session.post("/xrpc/a.b.c", json={"x": 1}), httpx.Response)
    assert_type(await session.query("a.b.c", {"limit": 3, "flag": True}), dict[str, object])
    assert_type(await session.procedure("a.b.c", b"x", content_type="image/png"), dict[str, object])
    async with session.stream("GET", "/xrpc/a.b.c") as response:
        assert_type(response, httpx.Response)
    async with httpx.AsyncClient(auth=session.auth) as client:
        await client.get(f"{session.pds}/xrpc/a.b.c")
    await session.logout()


async def errors(session: OAuthSession) -> None:
    try:
        await session.query("a.b.c")
    except XRPCError as exc:
        assert_type(exc.http_status, int)
        assert_type(exc.error, str)
    except SessionRevoked as exc:
        assert_type(exc.reason, str)
        assert_type(exc.login_url, str | None)
    except InsufficientScope as exc:
        assert_type(exc.missing, tuple[str, ...])
    except ATProtoOAuthError as exc:
        assert_type(exc.code, str)
        assert_type(exc.retryable, bool)


async def app_wide(oauth: ATProtoOAuth, request: Request) -> None:
    assert_type(
        await oauth.authorize_redirect(
            request, "alice.test", next="/x", scope="atproto", prompt="login", data={"a": [1]}
        ),
        Response,
    )
    assert_type(await oauth.sessions(request), list[Account])
    await oauth.switch(request, "did:plc:x")
    async with oauth, oauth.session_for("did:plc:x", scopes="repo:*") as session:
        assert_type(session, OAuthSession)


def kit(atproto_network: Network, app: FastAPI, oauth: ATProtoOAuth) -> None:
    assert_type(atproto_network.attach(oauth), Attachment)
    with atproto_network.attach(oauth, keep_store=True), atproto_network.outage():
        pass
    with oauth.override(net_policy=NetPolicy()):
        pass
    for client in (TestClient(app), FastAPIClient(app)):
        assert_type(login(client, "alice.test"), NetworkAccount)
        login(client, "https://pds.example", account="bob.test", scope="atproto", add=True)
        login(client, "alice.test", granted="atproto", oauth=oauth)
        assert_type(deny(client, "alice.test").status_code, int)
        assert_type(sign_out(client), None)
        assert_type(signed_in(client, did="did:plc:x", scopes=["repo:*"]), None)
    with httpx.Client(base_url="http://127.0.0.1:8000") as served:
        assert_type(login(served, "alice.test", oauth=oauth).did, str)
    try:
        login(TestClient(app), "bob.test")
    except LoginFailed as exc:
        assert_type(exc.code, str | None)
        assert_type(exc.response.status_code, int)


async def kit_awaited(client: httpx.AsyncClient, newer: httpx2.AsyncClient) -> None:
    assert_type(await login(client, "alice.test"), NetworkAccount)
    assert_type(await login(newer, "alice.test"), NetworkAccount)
    assert_type((await deny(newer, "alice.test")).text, str)
    await sign_out(client)
    await signed_in(newer, did="did:plc:x")
