from __future__ import annotations

import json

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from atproto_oauth_asgi import ATProtoOAuth, ATProtoOAuthMiddleware
from atproto_oauth_asgi.keys import ClientKeys, generate_client_keys
from atproto_oauth_asgi.testing import Network
from tests.app.world import BASE_URL, PAGE, live_of, world

pytestmark = pytest.mark.anyio

METADATA = "/oauth-client-metadata.json"
JWKS = "/oauth/jwks.json"


@pytest.mark.spec("C1", "C2", "C3", "C5", "C25")
async def test_the_client_metadata_is_public_and_exactly_where_the_client_id_says() -> None:
    async with world(scope="atproto", optional_scope="blob:image/*", client_name="Birds") as here:
        answer = await here.browser.get(METADATA)
        document = answer.json()

        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "public, max-age=600"
        assert answer.headers["access-control-allow-origin"] == "*"
        assert not {"set-cookie", "vary"} & set(answer.headers)
        assert document["client_id"] == f"{BASE_URL}{METADATA}"
        assert document["scope"] == "atproto blob:image/*"
        assert document["client_name"] == "Birds"
        assert document["token_endpoint_auth_method"] == "none"


@pytest.mark.spec("C6")
@pytest.mark.parametrize("header", ["host", "x-forwarded-host", "forwarded"])
async def test_no_header_changes_what_the_app_says_of_itself(header: str) -> None:
    async with world() as here:
        expected = (await here.browser.get(METADATA)).json()
        answer = await here.browser.get(METADATA, headers={header: "evil.example"})
        begun = await here.browser.post(
            "/oauth/login",
            data={"identifier": "alice.test"},
            headers={header: "evil.example", "origin": BASE_URL},
        )

        assert answer.json() == expected
        pushed = here.pushed(begun.headers["location"]).parameters
        assert pushed["redirect_uri"] == f"{BASE_URL}/oauth/callback"


@pytest.mark.spec("C14", "C15")
async def test_the_published_keys_are_public_ones() -> None:
    async with world(client_keys=ClientKeys(generate_client_keys())) as here:
        answer = await here.browser.get(JWKS)
        (key,) = answer.json()["keys"]

        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "public, max-age=600"
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "d" not in key
        assert key["kid"]
        document = (await here.browser.get(METADATA)).json()
        assert document["jwks_uri"] == f"{BASE_URL}{JWKS}"
        assert (await here.login()).status_code == 303


async def test_a_public_client_has_no_keys() -> None:
    async with world() as here:
        assert (await here.browser.get(JWKS)).json() == {"keys": []}


async def test_the_session_route_says_who_is_signed_in_and_never_a_token() -> None:
    network = Network()
    async with world(network) as here:
        nobody = await here.browser.get("/oauth/session")
        await here.login()
        answer = await here.browser.get("/oauth/session")
        async with here.oauth.session_for(here.did()) as session:
            tokens = live_of(session).tokens

        assert nobody.json() == {
            "authenticated": False,
            "did": None,
            "handle": None,
            "scopes": [],
            "accounts": [],
        }
        assert answer.json() == {
            "authenticated": True,
            "did": here.did(),
            "handle": "alice.test",
            "scopes": ["atproto"],
            "accounts": [
                {"did": here.did(), "handle": "alice.test", "active": True, "reason": None}
            ],
        }
        assert answer.headers["cache-control"] == "private, no-store"
        assert answer.headers["vary"] == "Cookie"
        assert tokens.access_token not in answer.text
        assert str(tokens.refresh_token) not in answer.text


@pytest.mark.spec("Q8")
async def test_our_pages_are_locked_down() -> None:
    async with world() as here:
        for answer in (
            await here.browser.get("/oauth/login", headers=PAGE),
            await here.begin("nobody.test"),
            await here.begin(interstitial="1"),
        ):
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "base-uri 'none'" in policy
            assert "unsafe-inline" not in policy
            assert answer.headers["referrer-policy"] == "same-origin"
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-frame-options"] == "DENY"
            assert "<script" not in answer.text


@pytest.mark.spec("F4")
@pytest.mark.parametrize(
    ("base_url", "targets"),
    [(BASE_URL, "'self' https:;"), ("http://127.0.0.1:8000", "'self' https: http:;")],
)
async def test_the_forms_policy_allows_the_redirect_to_the_server(
    base_url: str, targets: str
) -> None:
    async with world(base_url=base_url) as here:
        answer = await here.browser.get("/oauth/login")

        assert f"form-action {targets}" in answer.headers["content-security-policy"]


@pytest.mark.spec("C1")
@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", METADATA, "GET, HEAD"),
        ("DELETE", JWKS, "GET, HEAD"),
        ("PUT", "/oauth/login", "GET, HEAD, POST"),
        ("GET", "/oauth/logout", "POST"),
        ("HEAD", "/oauth/callback", "GET"),
        ("POST", "/oauth/session", "GET, HEAD"),
    ],
)
async def test_other_methods_are_refused(method: str, path: str, allow: str) -> None:
    async with world() as here:
        answer = await here.browser.request(method, path)

        assert (answer.status_code, answer.headers["allow"]) == (405, allow)


@pytest.mark.parametrize(
    "path",
    ["/oauth", "/oauth/", "/oauth/login/", "/oauth/other", "/OAUTH/login", "/oauth/jwks.json/x"],
)
async def test_only_exact_paths_are_ours(path: str) -> None:
    async def mine(request: Request) -> Response:
        return PlainTextResponse(f"mine: {request.url.path}")

    app = Starlette(routes=[Route("/{path:path}", mine)])
    async with world(app=app) as here:
        assert (await here.browser.get(path)).text == f"mine: {path}"


async def test_the_prefix_can_be_changed() -> None:
    async with world(prefix="/auth") as here:
        begun = await here.browser.post(
            "/auth/login", data={"identifier": "alice.test"}, headers={"origin": BASE_URL}
        )
        back = await here.browser.get(here.network.approve(begun.headers["location"], "alice.test"))

        assert back.status_code == 303
        assert back.request.url.path == "/auth/callback"
        assert (await here.browser.get("/oauth/login")).status_code == 404


async def test_the_routes_can_be_named_in_the_app_and_are_answered_once() -> None:
    network = Network()
    oauth = ATProtoOAuth(
        BASE_URL, store="memory://", secret_keys=(b"k" * 32,), net_policy=network.policy()
    )

    async def links(request: Request) -> Response:
        names = ["login", "callback", "logout", "session", "client_metadata", "jwks"]
        return JSONResponse([str(request.url_for(f"atproto_oauth:{name}")) for name in names])

    app = Starlette(routes=[Route("/links", links), *oauth.routes])
    app.add_middleware(ATProtoOAuthMiddleware, oauth=oauth)
    network.register_client_app(BASE_URL, app)
    async with (
        oauth,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE_URL) as browser,
    ):
        assert json.loads((await browser.get("/links")).text) == [
            f"{BASE_URL}/oauth/login",
            f"{BASE_URL}/oauth/callback",
            f"{BASE_URL}/oauth/logout",
            f"{BASE_URL}/oauth/session",
            f"{BASE_URL}{METADATA}",
            f"{BASE_URL}{JWKS}",
        ]
        begun = await browser.post(
            "/oauth/login", data={"identifier": "alice.test"}, headers={"origin": BASE_URL}
        )
        back = await browser.get(network.approve(begun.headers["location"], "alice.test"))
        assert back.status_code == 303


async def test_the_routes_alone_answer_in_an_app_without_the_middleware() -> None:
    network = Network()
    oauth = ATProtoOAuth(
        BASE_URL, store="memory://", secret_keys=(b"k" * 32,), net_policy=network.policy()
    )
    app = Starlette(routes=[*oauth.routes])
    network.register_client_app(BASE_URL, app)
    async with (
        oauth,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE_URL) as browser,
    ):
        begun = await browser.post(
            "/oauth/login", data={"identifier": "alice.test"}, headers={"origin": BASE_URL}
        )
        await browser.get(network.approve(begun.headers["location"], "alice.test"))

        assert (await browser.get("/oauth/session")).json()["handle"] == "alice.test"
        assert (await browser.head("/oauth/callback?state=x")).status_code == 405


def test_login_urls_for_templates_are_absolute_and_escaped() -> None:
    oauth = ATProtoOAuth(BASE_URL, store="memory://")

    assert oauth.login_url() == f"{BASE_URL}/oauth/login"
    assert (
        oauth.login_url(next="/a?b=c&d", identifier="alice.test", scope="atproto", add=True)
        == f"{BASE_URL}/oauth/login?identifier=alice.test&next=%2Fa%3Fb%3Dc%26d&scope=atproto&add=1"
    )
