"""What strangers put into client metadata, hints and fields never becomes part of a page."""

from __future__ import annotations

import json

import httpx
import pytest
from starlette.responses import Response

from atproto_oauth_asgi.testing import Network
from tests.network.visitor import PageShown, Visitor
from tests.network.walker import Clock, Walker

pytestmark = pytest.mark.anyio

ORIGIN = "https://app.birdsong.dev"
CLIENT_ID = f"{ORIGIN}/client.json"
REDIRECT_URI = f"{ORIGIN}/callback"
MARKUP = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
HOSTILE_NAMES = {
    "markup": (MARKUP, '"><script>alert(1)</script><img src=x onerror=alert(2)'),
    "right-to-left override": ("Bird\u202egnos\u202c \u2066x\u2069", "Birdgnos x"),
    "ten kilobytes": ("Ω" * 10_240, "Ω" * 59 + "…"),
    "lines": ("Bird\r\n\u2028\u0000song", "Bird song"),
    "half a character": ("Bird\ud800song", "Birdsong"),
    "invisible": ("\u200b\u200d\ufeff", ""),
}


def client(network: Network, **metadata: object) -> None:
    document = {
        "client_id": CLIENT_ID,
        "redirect_uris": [REDIRECT_URI],
        "scope": "atproto transition:generic",
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
        "dpop_bound_access_tokens": True,
        **metadata,
    }

    # Not JSONResponse, which refuses half a character.
    answer = Response(json.dumps(document), media_type="application/json")
    network.register_client_app(ORIGIN, answer)


async def asked(network: Network, http: httpx.AsyncClient, clock: Clock) -> Visitor:
    walker = Walker(network, http, clock=clock, client_id=CLIENT_ID, redirect_uri=REDIRECT_URI)
    visitor = Visitor(http)
    await visitor.open(await walker.authorize_url())
    await visitor.sign_in("alice.test")
    return visitor


@pytest.mark.parametrize("kind", HOSTILE_NAMES)
async def test_the_name_that_an_app_gives_itself(
    kind: str, network: Network, http: httpx.AsyncClient, clock: Clock
) -> None:
    name, shown = HOSTILE_NAMES[kind]
    client(network, client_name=name, logo_uri="https://evil.example/track.png")
    visitor = await asked(network, http, clock)
    body = visitor.answer.text.partition("</style>")[2]

    assert f"app.birdsong.dev asks for access to alice.test. It calls itself “{shown}" in (
        visitor.page.text
    )
    assert "<script" not in body
    assert "<img" not in body
    assert "evil.example" not in body
    assert len(visitor.answer.content) < 12_000


async def test_links_of_an_app_are_addresses_of_the_web(
    network: Network, http: httpx.AsyncClient, clock: Clock
) -> None:
    client(
        network,
        tos_uri="javascript:alert(1)",
        policy_uri=f"{ORIGIN}/privacy?{MARKUP}",
    )
    visitor = await asked(network, http, clock)
    links = [each for each in visitor.page.controls if "href" in each.attributes]

    assert [(each.name, each.attributes["href"]) for each in links] == [
        ("privacy policy", f"{ORIGIN}/privacy?{MARKUP}")
    ]
    assert "noopener" in (links[0].attributes["rel"] or "")


async def test_markup_that_is_typed_stays_text(walker: Walker, http: httpx.AsyncClient) -> None:
    visitor = Visitor(http)
    await visitor.open(await walker.authorize_url())
    await visitor.sign_in(MARKUP, "wrong")
    signed_in = visitor.answer.text
    await visitor.follow("Create a new account")
    await visitor.press("Next", handle=MARKUP)
    named = visitor.answer.text
    await visitor.press("Next", handle="carol")
    await visitor.press("Create the account", email=MARKUP, password="long enough")

    for text in (signed_in, named, visitor.answer.text):
        assert "<script>alert" not in text
        assert MARKUP in PageShown(text).forms[0].values.values()


async def test_pages_are_locked_down(walker: Walker, http: httpx.AsyncClient) -> None:
    visitor = Visitor(http)
    pages = [await visitor.open(await walker.authorize_url())]
    cookie = pages[0].headers["set-cookie"]
    pages.append(await visitor.follow("Create a new account"))
    pages.append(await visitor.open(await walker.authorize_url()))
    pages.append(await visitor.sign_in("alice.test"))
    pages.append(await visitor.open(walker.url("/oauth/authorize")))

    for page in pages:
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["referrer-policy"] == "same-origin"
        assert page.headers["x-content-type-options"] == "nosniff"
        for form in PageShown(page.text).forms:
            assert len(form.values["csrf"]) == 64
    assert all(word in cookie for word in ("HttpOnly", "SameSite=Lax", "Secure", "Path=/oauth/"))


async def test_a_native_app_is_reached_through_its_own_scheme(
    network: Network, http: httpx.AsyncClient, clock: Clock
) -> None:
    back = "dev.birdsong.app:/callback"
    client(network, application_type="native", redirect_uris=[back])
    walker = Walker(network, http, clock=clock, client_id=CLIENT_ID, redirect_uri=back)
    visitor = Visitor(http)
    shown = await visitor.open(await walker.authorize_url())

    assert (
        "form-action 'self' https: http: dev.birdsong.app:;"
        in (shown.headers["content-security-policy"])
    )
