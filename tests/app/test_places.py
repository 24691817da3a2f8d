"""Where an app is put: under Mount, root_path, a BASE_URL with a path, and behind proxies."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from atproto_oauth_asgi import ATProtoOAuth, ATProtoOAuthMiddleware, session_from
from atproto_oauth_asgi.testing import Network
from tests.app.world import PAGE, QUICK

pytestmark = pytest.mark.anyio

ORIGIN = "https://app.birdsong.dev"


async def private(request: Request) -> Response:
    return JSONResponse({"did": session_from(request).did})


def new_oauth(network: Network, base_url: str) -> ATProtoOAuth:
    return ATProtoOAuth(
        base_url,
        store="memory://",
        secret_keys=(b"k" * 32,),
        net_policy=network.policy(),
        timing=QUICK,
    )


def stripping(app: ASGIApp, prefix: str, *, say_so: bool) -> ASGIApp:
    """Play a proxy that takes a prefix off, and a server that says so in root_path or not."""

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            assert scope["path"].startswith(prefix)
            path = scope["path"][len(prefix) :]
            if say_so:
                # uvicorn --root-path puts it back in front of `path`, as ASGI 3 wants.
                scope = {**scope, "root_path": prefix}
            else:
                scope = {**scope, "path": path, "raw_path": path.encode()}
        await app(scope, receive, send)

    return proxy


def old_server(app: ASGIApp, prefix: str) -> ASGIApp:
    """Play a server that gives root_path but leaves it out of `path`."""

    async def server(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "root_path": prefix, "path": scope["path"][len(prefix) :]}
        await app(scope, receive, send)

    return server


@asynccontextmanager
async def placed(app: ASGIApp, network: Network) -> AsyncGenerator[httpx.AsyncClient]:
    network.register_client_app(ORIGIN, app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN) as browser:
        yield browser


async def whole_visit(browser: httpx.AsyncClient, network: Network, base: str) -> None:
    """Walk from a page that needs a session through the login back to it, and out."""
    first = await browser.get(f"{base}/private?x=1", headers=PAGE)
    assert first.status_code == 303, first.text
    location = urlsplit(first.headers["location"])
    assert location.path == f"{base}/oauth/login"
    (target,) = parse_qs(location.query)["next"]
    assert target == f"{base}/private?x=1"
    page = await browser.get(first.headers["location"], headers=PAGE)
    assert f'action="{ORIGIN}{base}/oauth/login"' in page.text
    begun = await browser.post(
        f"{base}/oauth/login",
        data={"identifier": "alice.test", "next": target},
        headers={"origin": ORIGIN, **PAGE},
    )
    assert begun.status_code == 303, begun.text
    back = await browser.get(network.approve(begun.headers["location"], "alice.test"))
    assert back.headers["location"] == f"{ORIGIN}{base}/private?x=1"
    there = await browser.get(back.headers["location"], headers=PAGE)
    assert there.json()["did"] == network.account("alice.test").did
    metadata = (await browser.get(f"{base}/oauth-client-metadata.json")).json()
    assert metadata["client_id"] == f"{ORIGIN}{base}/oauth-client-metadata.json"
    assert metadata["redirect_uris"] == [f"{ORIGIN}{base}/oauth/callback"]
    out = await browser.post(f"{base}/oauth/logout", headers={"origin": ORIGIN, **PAGE})
    assert out.headers["location"] == ORIGIN + base
    assert not network.sessions()


def inner(oauth: ATProtoOAuth) -> Starlette:
    return Starlette(
        routes=[Route("/private", private)],
        middleware=[Middleware(ATProtoOAuthMiddleware, oauth=oauth)],
    )


@pytest.mark.spec("C1", "C6")
async def test_under_a_mount() -> None:
    network = Network()
    oauth = new_oauth(network, f"{ORIGIN}/birds")
    app = Starlette(routes=[Mount("/birds", app=inner(oauth))])
    async with oauth, placed(app, network) as browser:
        await whole_visit(browser, network, "/birds")


@pytest.mark.spec("C1", "C6")
async def test_under_two_mounts() -> None:
    network = Network()
    oauth = new_oauth(network, f"{ORIGIN}/a/birds")
    app = Starlette(routes=[Mount("/a", routes=[Mount("/birds", app=inner(oauth))])])
    async with oauth, placed(app, network) as browser:
        await whole_visit(browser, network, "/a/birds")


@pytest.mark.spec("C1", "C6")
async def test_round_an_app_with_mounts() -> None:
    network = Network()
    oauth = new_oauth(network, ORIGIN)
    app = ATProtoOAuthMiddleware(
        Starlette(routes=[Mount("/sub", routes=[Route("/private", private)])]), oauth=oauth
    )
    async with oauth, placed(app, network) as browser:
        answer = await browser.get("/sub/private", headers=PAGE)
        assert parse_qs(urlsplit(answer.headers["location"]).query)["next"] == ["/sub/private"]


@pytest.mark.spec("C1", "C6")
@pytest.mark.parametrize("kind", ["passes", "strips and says so", "strips silently", "old server"])
async def test_behind_a_proxy(kind: str) -> None:
    network = Network()
    oauth = new_oauth(network, f"{ORIGIN}/birds")
    app: ASGIApp
    if kind == "passes":
        app = ATProtoOAuthMiddleware(
            Starlette(routes=[Route("/birds/private", private)]), oauth=oauth
        )
    elif kind == "old server":
        app = old_server(inner(oauth), "/birds")
    else:
        app = stripping(inner(oauth), "/birds", say_so=kind == "strips and says so")
    async with oauth, placed(app, network) as browser:
        await whole_visit(browser, network, "/birds")


@pytest.mark.parametrize("path", ["/birds/oauth/login", "/oauth/login"])
async def test_a_path_that_only_looks_like_the_base_is_not_taken_off_twice(path: str) -> None:
    network = Network()
    oauth = new_oauth(network, f"{ORIGIN}/birds")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse({"path": scope["path"]})(scope, receive, send)

    async with oauth, placed(ATProtoOAuthMiddleware(app, oauth=oauth), network) as browser:
        assert "Sign in to" in (await browser.get(path)).text
        fell_through = await browser.get(f"/birds{path}x")
        assert fell_through.json() == {"path": f"/birds{path}x"}


@pytest.mark.parametrize("path", ["/birds", "/birds/3", "/birdsong", "/", "/x"])
async def test_a_page_whose_path_begins_like_the_base_is_come_back_to(path: str) -> None:
    network = Network()
    oauth = new_oauth(network, f"{ORIGIN}/birds")
    inner = ATProtoOAuthMiddleware(Starlette(routes=[Route("/{path:path}", private)]), oauth=oauth)

    async def proxied(scope: Scope, receive: Receive, send: Send) -> None:
        whole = {"path": f"/birds{scope['path']}", "root_path": "/birds"}
        await inner({**scope, **whole}, receive, send)

    async with oauth, placed(proxied, network) as browser:
        answer = await browser.get(path, headers=PAGE)
        (target,) = parse_qs(urlsplit(answer.headers["location"]).query)["next"]
        assert target == f"/birds{path}"


async def test_the_address_to_come_back_to_survives_odd_characters() -> None:
    network = Network()
    oauth = new_oauth(network, ORIGIN)
    app = ATProtoOAuthMiddleware(Starlette(routes=[Route("/{path:path}", private)]), oauth=oauth)
    async with oauth, placed(app, network) as browser:
        path = "/a%20b/%C3%BC/x%2526y?q=%26&r=a+b"
        first = await browser.get(path, headers=PAGE)
        (target,) = parse_qs(urlsplit(first.headers["location"]).query)["next"]
        begun = await browser.post(
            "/oauth/login",
            data={"identifier": "alice.test", "next": target},
            headers={"origin": ORIGIN},
        )
        back = await browser.get(network.approve(begun.headers["location"], "alice.test"))
        there = await browser.get(back.headers["location"], headers=PAGE)

        assert there.status_code == 200
        assert there.request.url.path == "/a b/\u00fc/x%26y"
        assert there.request.url.query == b"q=%26&r=a+b"


@pytest.mark.parametrize("path", ["//evil.example/x", "/%2F%2Fevil.example", "/\\evil.example"])
async def test_a_path_that_looks_like_a_host_is_never_come_back_to(path: str) -> None:
    network = Network()
    oauth = new_oauth(network, ORIGIN)
    app = ATProtoOAuthMiddleware(Starlette(routes=[Route("/{path:path}", private)]), oauth=oauth)
    async with oauth, placed(app, network) as browser:
        first = await browser.get(ORIGIN + path, headers=PAGE)
        (target,) = parse_qs(urlsplit(first.headers["location"]).query)["next"]
        begun = await browser.post(
            "/oauth/login",
            data={"identifier": "alice.test", "next": target},
            headers={"origin": ORIGIN},
        )
        back = await browser.get(network.approve(begun.headers["location"], "alice.test"))

        assert urlsplit(back.headers["location"]).netloc == "app.birdsong.dev"
