"""Servers that lie about where they are, or say more than anybody needs."""

from __future__ import annotations

import gc
import json
import tracemalloc

import httpx
import pytest
from starlette.responses import Response

from atproto_oauth_asgi.discovery import Discovery
from atproto_oauth_asgi.net import Net, NetPolicy
from atproto_oauth_asgi.testing.web import Answer
from tests.app.world import SCRIPT, world
from tests.discovery_documents import RESOURCE_PATH, SERVER_PATH, Web, resource, server
from tests.hostile.lies import unlimited

pytestmark = pytest.mark.anyio

ENDPOINTS = [
    "authorization_endpoint",
    "token_endpoint",
    "pushed_authorization_request_endpoint",
    "revocation_endpoint",
]
ADDRESSES = [
    "javascript:alert(document.domain)",
    "data:text/html,<script>alert(1)</script>",
    "file:///etc/passwd",
    "ftp://pds.example/x",
    "http://pds.example/oauth",
    "//evil.example/oauth",
    "/oauth/token",
    "",
    "https://",
    "https:///oauth",
    "https://user:password@pds.example/oauth",
    "https://pds.example:8443/oauth",
    "https://pds.example:0/oauth",
    "https://pds.example/oauth#fragment",
    "https://pds.example/oauth\r\nX-Injected: 1",
    "https://pds.example\\@evil.example/oauth",
    "https://169.254.169.254/latest/meta-data/",
    "https://[::ffff:169.254.169.254]/",
    "https://[64:ff9b::a9fe:a9fe]/",
    "https://[2002:a9fe:a9fe::]/",
    "https://[fd00:ec2::254]/",
    "https://2852039166/",
    "https://0xa9fea9fe/",
    "https://0251.0376.0251.0376/",
    "https://169.254.43518/",
    "https://127.0.0.1.:443/",
    "https://metadata.google.internal/",
    "https://pds.example/" + "a" * 3000,
    7,
    ["https://pds.example/oauth"],
    {"href": "https://pds.example/oauth"},
]


@pytest.mark.spec("B8", "B9", "P1", "P2")
@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_an_endpoint_elsewhere_than_on_the_public_web_ends_the_login(endpoint: str) -> None:
    async with world(limit_logins=unlimited) as here:
        for address in ADDRESSES:

            def lie(answer: Answer, address: object = address) -> Answer:
                return answer.with_json(**{endpoint: address})

            with here.network.alter(SERVER_PATH, lie):
                begun = await here.browser.post(
                    "/oauth/login",
                    data={"identifier": "alice.test"},
                    headers={"origin": here.origin, **SCRIPT},
                )

            assert begun.json()["error"] in {"not_oauth_capable", "address_refused"}, address
            assert "location" not in begun.headers
        assert not here.network.log.of("par")


@pytest.mark.spec("F1")
async def test_the_authorization_endpoint_keeps_its_query_and_cannot_set_our_parameters() -> None:
    async with world() as here:
        endpoint = f"{here.network.host.origin}/oauth/authorize"
        evil = "?a=b&client_id=evil&%63lient_id=e=vil&request_uri=evil&a=c%26client_id%3Dx"
        with here.network.alter(
            SERVER_PATH, lambda answer: answer.with_json(authorization_endpoint=endpoint + evil)
        ):
            begun = await here.begin()

        query = httpx.URL(begun.headers["location"]).params
        assert query.get_list("a") == ["b", "c&client_id=x"]
        assert query.get_list("client_id") == [here.oauth.core.client.client_id]
        assert len(query.get_list("request_uri")) == 1
        assert query["request_uri"].startswith("urn:ietf:params:oauth:request_uri:")


@pytest.mark.spec("P6", "B12")
async def test_metadata_as_large_as_allowed_does_not_fill_the_memory() -> None:
    """Whoever has a name of their own can have any number of servers below it."""
    many = [f"https://p{number}.example.com" for number in range(12_000)]
    origins = [f"https://as{number}.example.com" for number in range(12)]
    web = Web()
    for origin in origins:
        document = server(
            origin,
            protected_resources=[origin, *many],
            prompt_values_supported=[f"{number}" for number in range(1000)],
        )
        named = resource(resource=origin, authorization_servers=[origin])
        for path, body in ((SERVER_PATH, document), (RESOURCE_PATH, named)):
            web.pages[origin + path] = Response(
                json.dumps(body, separators=(",", ":")), media_type="application/json"
            )

    async def no_host(_: str) -> list[str]:
        return []

    apps = {origin: web.app(origin) for origin in origins}
    net = Net(NetPolicy(apps=apps, resolve_host=no_host))
    discovery = Discovery(lambda: net)
    await discovery.for_pds(origins[0])
    tracemalloc.start()
    try:
        for origin in origins[1:]:
            assert (await discovery.for_pds(origin)).issuer == origin
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        await net.aclose()

    assert kept < 100_000 * len(origins)
