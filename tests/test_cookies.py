from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atproto_oauth_asgi.cookies import LOGIN_AGE, Cookies, new_secret
from atproto_oauth_asgi.settings import Settings

SECURE = Cookies(Settings(base_url="https://app.birdsong.dev", store_url="memory://"))
VALUE = "A" * 43


def header(text: str) -> list[tuple[bytes, bytes]]:
    return [(b"cookie", text.encode("latin-1"))]


@pytest.mark.spec("Q1", "Q2", "Q6")
def test_over_https_cookies_belong_to_this_host_alone() -> None:
    assert SECURE.set_session(VALUE, max_age=60) == (
        f"__Host-atproto-oauth={VALUE}; Path=/; HttpOnly; SameSite=Lax; Max-Age=60; Secure"
    )
    assert SECURE.set_login(VALUE) == (
        f"__Host-atproto-oauth-login={VALUE}; Path=/; HttpOnly; SameSite=Lax;"
        f" Max-Age={LOGIN_AGE}; Secure"
    )
    assert "Domain" not in SECURE.set_session(VALUE, max_age=60)


@pytest.mark.spec("Q6")
@pytest.mark.parametrize(
    ("host", "port", "number"),
    [
        ("127.0.0.1", ":8000", 8000),
        ("127.0.0.1", ":5173", 5173),
        ("127.0.0.1", "", 80),
        ("[::1]", ":8000", 8000),
    ],
)
def test_in_loopback_development_they_are_named_after_the_port(
    host: str, port: str, number: int
) -> None:
    cookies = Cookies(Settings(base_url=f"http://{host}{port}", store_url="memory://"))

    assert cookies.session == f"atproto-oauth-{number}"
    assert cookies.login == f"atproto-oauth-login-{number}"
    assert "Secure" not in cookies.set_session(VALUE, max_age=60)
    assert "HttpOnly" in cookies.set_session(VALUE, max_age=60)


def test_a_cookie_is_cleared_with_the_attributes_it_was_set_with() -> None:
    made, cleared = SECURE.set_session(VALUE, max_age=60), SECURE.clear_session()

    assert cleared == made.replace(VALUE, "").replace("Max-Age=60", "Max-Age=0")


@pytest.mark.spec("Q4")
def test_secrets_are_long_and_never_the_same() -> None:
    secrets = {new_secret() for _ in range(100)}

    assert len(secrets) == 100
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", secret) for secret in secrets)
    assert SECURE.read_session(header(f"__Host-atproto-oauth={secrets.pop()}")) is not None


@pytest.mark.parametrize(
    "text",
    [
        f"__Host-atproto-oauth={VALUE}",
        f"a=b; __Host-atproto-oauth={VALUE}; c=d",
        f"a=b;__Host-atproto-oauth={VALUE}",
        f"x__Host-atproto-oauth=no;  __Host-atproto-oauth={VALUE}  ",
        f"a=__Host-atproto-oauth=no; __Host-atproto-oauth={VALUE}",
    ],
)
def test_the_cookie_is_found_among_others(text: str) -> None:
    assert SECURE.read_session(header(text)) == VALUE


def test_several_cookie_headers_are_read() -> None:
    headers = [(b"cookie", b"a=b"), (b"accept", b"x"), *header(f"__Host-atproto-oauth={VALUE}")]

    assert SECURE.read_session(headers) == VALUE
    assert SECURE.read_login(headers) is None
    assert SECURE.read_session([(b"x-note", headers[-1][1])]) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "__Host-atproto-oauth",
        "__Host-atproto-oauth=",
        f"__host-atproto-oauth={VALUE}",
        f"__Host-atproto-oauth-login={VALUE}",
        f"__Host-atproto-oauth2={VALUE}",
        f"__Host-atproto-oauth={VALUE}A",
        f"__Host-atproto-oauth={VALUE[1:]}",
        f'__Host-atproto-oauth="{VALUE}"',
        f"__Host-atproto-oauth={VALUE[1:]}\xe9",
        f"__Host-atproto-oauth={VALUE[1:]}\u00b2",
        f"atproto-oauth={VALUE}",
        f"atproto-oauth-8000={VALUE}",
    ],
)
def test_what_is_not_our_cookie_is_not_read(text: str) -> None:
    assert SECURE.read_session(header(text)) is None


@given(st.binary(max_size=300))
def test_no_header_breaks_the_reading(value: bytes) -> None:
    for prefix in (b"", b"__Host-atproto-oauth=", b"__Host-atproto-oauth=" + VALUE.encode()):
        found = SECURE.read_session([(b"cookie", prefix + value)])
        assert found is None or len(found) == 43


def test_apps_on_one_host_can_have_names_of_their_own() -> None:
    other = Cookies(
        Settings(base_url="https://app.birdsong.dev", store_url="memory://", cookie_name="birds")
    )

    assert (other.session, other.login) == ("__Host-birds", "__Host-birds-login")
    assert other.read_session(header(SECURE.set_session(VALUE, max_age=1))) is None
