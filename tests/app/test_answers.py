"""What an app's visitors get when a session is missing, gone, or may not do something."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from atproto_oauth_asgi import (
    ATProtoOAuth,
    ATProtoOAuthError,
    ATProtoOAuthMiddleware,
    OAuthSession,
    error_response,
    requires_scope,
    session_from,
    session_or_none,
)
from atproto_oauth_asgi.errors import ConfigurationError
from atproto_oauth_asgi.testing import Network
from tests.app.faulty_store import FaultyStore
from tests.app.world import BASE_URL, PAGE, QUICK, SCRIPT, World

pytestmark = pytest.mark.anyio

POST = "repo:app.bsky.feed.post"
needs_post = requires_scope(f"{POST}?action=create")


async def private(request: Request) -> Response:
    return JSONResponse({"did": session_from(request).did})


async def posting(request: Request) -> Response:
    return JSONResponse({"did": needs_post(request).did})


async def calling(request: Request) -> Response:
    return JSONResponse(await session_from(request).query("com.atproto.server.getSession"))


ROUTES = [
    Route("/private", private, methods=["GET", "POST"]),
    Route("/posting", posting),
    Route("/calling", calling),
]


def wrapped_starlette(oauth: ATProtoOAuth) -> ASGIApp:
    return ATProtoOAuthMiddleware(Starlette(routes=ROUTES), oauth=oauth)


def added_to_starlette(oauth: ATProtoOAuth) -> ASGIApp:
    app = Starlette(routes=ROUTES)
    app.add_middleware(ATProtoOAuthMiddleware, oauth=oauth)
    return app


def starlette_with_handler(oauth: ATProtoOAuth) -> ASGIApp:
    app = Starlette(routes=ROUTES, exception_handlers={ATProtoOAuthError: error_response})
    app.add_middleware(ATProtoOAuthMiddleware, oauth=oauth)
    return app


def raw_asgi(oauth: ATProtoOAuth) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = {route.path: route.endpoint for route in ROUTES}[scope["path"]]
        response = await endpoint(Request(scope, receive))
        await response(scope, receive, send)

    return ATProtoOAuthMiddleware(app, oauth=oauth)


def fastapi(oauth: ATProtoOAuth) -> FastAPI:
    app = FastAPI()

    @app.get("/private")
    @app.post("/private")
    def fast_private(session: Annotated[OAuthSession, Depends(session_from)]) -> dict[str, str]:
        return {"did": session.did}

    @app.get("/posting")
    def fast_posting(session: Annotated[OAuthSession, Depends(needs_post)]) -> dict[str, str]:
        return {"did": session.did}

    @app.get("/calling")
    async def fast_calling(
        session: Annotated[OAuthSession, Depends(session_from)],
    ) -> dict[str, object]:
        return await session.query("com.atproto.server.getSession")

    @app.get("/optional")
    def fast_optional(
        session: Annotated[OAuthSession | None, Depends(session_or_none)],
    ) -> dict[str, str | None]:
        return {"did": session.did if session else None}

    app.add_middleware(ATProtoOAuthMiddleware, oauth=oauth)
    return app


def fastapi_with_handler(oauth: ATProtoOAuth) -> ASGIApp:
    app = fastapi(oauth)
    app.add_exception_handler(ATProtoOAuthError, error_response)
    return app


def fastapi_wrapped(oauth: ATProtoOAuth) -> ASGIApp:
    inner = fastapi(oauth)
    inner.user_middleware.clear()
    return ATProtoOAuthMiddleware(inner, oauth=oauth)


Make = Callable[[ATProtoOAuth], ASGIApp]
MAKERS: list[Make] = [
    wrapped_starlette,
    added_to_starlette,
    starlette_with_handler,
    raw_asgi,
    fastapi,
    fastapi_with_handler,
    fastapi_wrapped,
]
each_placement = pytest.mark.parametrize("make", MAKERS)


@asynccontextmanager
async def placed(make: Make, store: FaultyStore | None = None) -> AsyncGenerator[World]:
    network = Network()
    oauth = ATProtoOAuth(
        BASE_URL,
        store=store or FaultyStore(),
        secret_keys=(b"k" * 32,),
        net_policy=network.policy(),
        timing=QUICK,
        optional_scope=f"{POST} blob:image/*",
    )
    app = make(oauth)
    network.register_client_app(BASE_URL, app)
    async with (
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE_URL) as browser,
        oauth,
    ):
        yield World(network, oauth, app, browser)


def body(answer: httpx.Response) -> dict[str, object]:
    """Return the members of an answer; FastAPI nests them in `detail` without our handler."""
    document: dict[str, Any] = answer.json()
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, object] = document.get("detail", document)
    return found


def login_query(url: str) -> dict[str, list[str]]:
    assert url.partition("?")[0] == f"{BASE_URL}/oauth/login"
    return parse_qs(urlsplit(url).query)


@each_placement
async def test_a_page_that_needs_a_session_leads_to_login_and_back(make: Make) -> None:
    async with placed(make) as here:
        for headers in (PAGE, {"accept": "text/html,*/*"}):
            answer = await here.browser.get("/private?a=b&c=%2F", headers=headers)

            assert answer.status_code == 303
            assert login_query(answer.headers["location"]) == {"next": ["/private?a=b&c=%2F"]}
            assert answer.headers["cache-control"] == "no-store"


@each_placement
async def test_a_script_that_needs_a_session_is_told_where_to_log_in(make: Make) -> None:
    async with placed(make) as here:
        for answer in (
            await here.browser.get("/private", headers=SCRIPT),
            await here.browser.get("/private"),
            await here.browser.post(
                "/private", headers={"accept": "text/html", "origin": BASE_URL}
            ),
            await here.browser.get("/private", headers={"hx-request": "1", "accept": "text/html"}),
        ):
            assert answer.status_code == 401
            assert body(answer) == {
                "error": "not_authenticated",
                "message": "Please sign in.",
                "login_url": f"{BASE_URL}/oauth/login",
            }
            assert answer.headers["cache-control"] == "no-store"


@each_placement
async def test_a_missing_permission_leads_to_login_for_more(make: Make) -> None:
    async with placed(make) as here:
        assert (await here.login(scope="atproto blob:image/*")).status_code == 303
        page = await here.browser.get("/posting", headers=PAGE)
        script = await here.browser.get("/posting", headers=SCRIPT)

        assert page.status_code == 303
        query = login_query(page.headers["location"])
        assert query["next"] == ["/posting"]
        assert query["identifier"] == [here.did()]
        assert set(query["scope"][0].split()) == {"atproto", POST, "blob:image/*"}
        assert script.status_code == 403
        assert body(script)["error"] == "insufficient_scope"
        begun = await here.begin(here.did(), scope=query["scope"][0])
        await here.browser.get(here.network.approve(begun.headers["location"], "alice.test"))
        assert (await here.browser.get("/posting", headers=PAGE)).status_code == 200


@each_placement
async def test_a_store_that_does_not_answer_is_503_and_nobody_is_signed_out(make: Make) -> None:
    store = FaultyStore()
    async with placed(make, store) as here:
        await here.login()
        store.failing = frozenset({"load"})
        for answer in (
            await here.browser.get("/private", headers=PAGE),
            await here.browser.post("/private", headers={"origin": BASE_URL}),
        ):
            assert answer.status_code == 503
            assert body(answer)["error"] == "store_unavailable"
            assert answer.headers["retry-after"] == "5"
            assert "set-cookie" not in answer.headers
        store.failing = frozenset()
        assert (await here.browser.get("/private", headers=PAGE)).status_code == 200


@each_placement
async def test_a_grant_that_was_taken_back_leads_to_login(make: Make) -> None:
    store = FaultyStore()
    async with placed(make, store) as here:
        await here.login()
        store.allow_refresh()
        here.network.revoke_sessions()
        page = await here.browser.get("/calling", headers=PAGE)
        anonymous = await here.browser.get("/private", headers=SCRIPT)

        assert page.status_code == 303
        assert login_query(page.headers["location"]) == {"next": ["/calling"]}
        assert anonymous.status_code == 401


@each_placement
async def test_a_refresh_that_cannot_be_had_now_is_503(make: Make) -> None:
    store = FaultyStore()
    async with placed(make, store) as here:
        await here.login()
        store.allow_refresh()
        here.network.expire_access_tokens()
        here.network.faults.fail(503, grant="refresh_token", retry_after=60)
        answer = await here.browser.get("/calling", headers=PAGE)

        assert answer.status_code == 503
        assert body(answer)["error"] == "refresh_failed"
        assert answer.headers["retry-after"] == "5"
        assert (await here.browser.get("/private", headers=PAGE)).status_code == 200


async def test_fastapi_gives_none_to_who_asks_without_need() -> None:
    async with placed(fastapi) as here:
        assert (await here.browser.get("/optional")).json() == {"did": None}
        await here.login()
        assert (await here.browser.get("/optional")).json() == {"did": here.did()}


async def test_an_unhandled_error_of_the_pds_is_answered_by_our_handler() -> None:
    async def wrong(request: Request) -> Response:
        return JSONResponse(await session_from(request).query("com.atproto.no.such"))

    app = Starlette(
        routes=[Route("/wrong", wrong)], exception_handlers={ATProtoOAuthError: error_response}
    )

    def make(oauth: ATProtoOAuth) -> ASGIApp:
        return ATProtoOAuthMiddleware(app, oauth=oauth)

    async with placed(make) as here:
        await here.login()
        answer = await here.browser.get("/wrong", headers=PAGE)

        assert (answer.status_code, answer.json()["error"]) == (502, "xrpc_error")


async def test_the_accessors_say_when_the_middleware_is_missing() -> None:
    request = Request({"type": "http", "headers": [], "method": "GET", "path": "/"})

    with pytest.raises(ConfigurationError, match="Add ATProtoOAuthMiddleware"):
        session_from(request)


def test_the_handler_leaves_other_errors_alone() -> None:
    request = Request({"type": "http", "headers": [], "method": "GET", "path": "/"})

    with pytest.raises(ZeroDivisionError):
        error_response(request, ZeroDivisionError())


async def test_raw_asgi_finds_the_session_in_the_state_and_shares_nothing() -> None:
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["state"]["atproto_oauth"])
        scope["state"]["mine"] = True
        await JSONResponse({})(scope, receive, send)

    def make(oauth: ATProtoOAuth) -> ASGIApp:
        return ATProtoOAuthMiddleware(app, oauth=oauth)

    async with placed(make) as here:
        state: dict[str, object] = {"shared": 1}
        scope: Scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "headers": [],
            "query_string": b"",
            "state": state,
        }
        await here.browser.get("/")
        await here.login()
        await here.browser.get("/")

        async def receive() -> dict[str, object]:
            return {"type": "http.disconnect"}

        async def send(_: object) -> None:
            return

        await here.app(scope, receive, send)

        assert seen[0] is None
        assert isinstance(seen[1], OAuthSession)
        assert seen[2] is None
        assert state == {"shared": 1}
        assert "atproto_oauth_asgi.place" not in scope
