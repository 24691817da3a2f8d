from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atproto_oauth_asgi.next_url import safe_next
from atproto_oauth_asgi.settings import Settings

pytestmark = pytest.mark.spec("F5")

TRUSTED = "https://www.birdsong.dev"


def settings(base_url: str) -> Settings:
    return Settings(base_url=base_url, store_url="memory://", trusted_origins=(TRUSTED,))


ROOT = settings("https://app.birdsong.dev")
UNDER = settings("https://app.birdsong.dev/app")
LOCAL = settings("http://127.0.0.1:8000")


@pytest.mark.parametrize(
    ("target", "url"),
    [
        ("/", "https://app.birdsong.dev/"),
        ("/a/b?c=d&e=%2F#f", "https://app.birdsong.dev/a/b?c=d&e=%2F#f"),
        ("/a?next=https://evil.example", "https://app.birdsong.dev/a?next=https://evil.example"),
        ("/a//b", "https://app.birdsong.dev/a//b"),
        ("https://app.birdsong.dev/a", "https://app.birdsong.dev/a"),
        ("https://app.birdsong.dev", "https://app.birdsong.dev"),
        (f"{TRUSTED}/x?y#z", f"{TRUSTED}/x?y#z"),
        (TRUSTED, TRUSTED),
    ],
)
def test_our_own_and_trusted_addresses_are_kept(target: str, url: str) -> None:
    assert safe_next(target, ROOT) == url


STRANGERS = [
    None,
    "",
    " ",
    "a",
    "a/b",
    "?x",
    "#x",
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\/evil.example",
    "\\\\evil.example",
    "/\t/evil.example",
    "\t//evil.example",
    " //evil.example",
    " /a",
    "/a b",
    "/\n/evil.example",
    "/a\r\nSet-Cookie: x=y",
    "/\u0000",
    "/\u2028/evil.example",
    "/\uff0fevil.example",
    "\uff0f\uff0fevil.example",
    "https:evil.example",
    "https:/evil.example",
    "https:///evil.example",
    "https://evil.example",
    "https://evil.example/https://app.birdsong.dev",
    "https://app.birdsong.dev.evil.example",
    "https://app.birdsong.dev@evil.example",
    "https://app.birdsong.dev:443@evil.example",
    "https://app.birdsong.dev:8443/",
    "https://app.birdsong.dev:443/",
    "https://app.birdsong.dev\\@evil.example",
    "https://user@app.birdsong.dev/",
    "https://evil.example#@app.birdsong.dev",
    "https://evil.example?@app.birdsong.dev",
    "http://app.birdsong.dev/",
    "//app.birdsong.dev/",
    "HTTPS://APP.BIRDSONG.DEV/a",
    "javascript:alert(1)",
    "javascript://app.birdsong.dev/%0aalert(1)",
    "data:text/html,x",
    "https://[bad",
    "https://birdsong.dev",
    "http://www.birdsong.dev",
    "/" + "a" * 3000,
]


@pytest.mark.parametrize("target", STRANGERS)
def test_everything_else_leads_home(target: str | None) -> None:
    assert safe_next(target, ROOT) == "https://app.birdsong.dev"


@pytest.mark.parametrize(
    "target", ["/app", "/app/", "/app/x?y", "/app/x/z", "/app/..x", "/app/x..", "/app?x"]
)
def test_under_a_base_path_what_lies_under_it_is_kept(target: str) -> None:
    url = f"https://app.birdsong.dev{target}"

    assert safe_next(target, UNDER) == url
    assert safe_next(url, UNDER) == url


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/application",
        "/app/../x",
        "/app/..",
        "/app/./../x",
        "/app/%2e%2e/x",
        "/app/.%2E/x",
        "/app/%2E./x",
        "/other",
        "https://app.birdsong.dev",
        "https://app.birdsong.dev/other/app",
    ],
)
def test_under_a_base_path_the_neighbours_are_strangers(target: str) -> None:
    assert safe_next(target, UNDER) == "https://app.birdsong.dev/app"


def test_in_loopback_development_the_port_counts() -> None:
    assert safe_next("/x", LOCAL) == "http://127.0.0.1:8000/x"
    for target in ("http://127.0.0.1:9000/", "http://localhost:8000/", "http://127.0.0.1/"):
        assert safe_next(target, LOCAL) == "http://127.0.0.1:8000"


@given(st.text(max_size=60) | st.text("/\\.:@?#%a ehtpsx", max_size=40))
def test_nothing_leads_to_a_stranger(target: str) -> None:
    for configured in (ROOT, UNDER, LOCAL):
        parts = urlsplit(safe_next(target, configured))
        assert f"{parts.scheme}://{parts.netloc}" in {configured.origin, TRUSTED}
