"""Targets that read one text: a header, a cookie, an address, a name, a scope."""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx
from starlette.requests import Request

from atproto_oauth_asgi.addresses import is_public
from atproto_oauth_asgi.callback import CallbackFailed, _parameters  # pyright: ignore[reportPrivateUsage]
from atproto_oauth_asgi.clock_skew import MOST, Clocks
from atproto_oauth_asgi.cookies import Cookies
from atproto_oauth_asgi.dpop import DPoPKey, Nonces, challenges, dpop_error, target_uri
from atproto_oauth_asgi.errors import (
    AddressRefused,
    InvalidIdentifier,
    SealBroken,
    UnsupportedDID,
)
from atproto_oauth_asgi.handles import _plausible  # pyright: ignore[reportPrivateUsage]
from atproto_oauth_asgi.identifiers import (
    DidInput,
    HandleInput,
    parse_did,
    parse_handle,
    parse_identifier,
)
from atproto_oauth_asgi.instrumentation import Events
from atproto_oauth_asgi.net_dns import Resolver
from atproto_oauth_asgi.net_guard import Guard
from atproto_oauth_asgi.net_policy import NetPolicy
from atproto_oauth_asgi.next_url import safe_next
from atproto_oauth_asgi.origins import parse_address, parse_origin
from atproto_oauth_asgi.permissions import UnknownScope, parse_scope
from atproto_oauth_asgi.scopes import canonical, covers, tokens
from atproto_oauth_asgi.sealing import KeyRing, SealContext
from atproto_oauth_asgi.settings import Settings
from atproto_oauth_asgi.words import error_code, harmless
from tests.fuzz.target import target

_POLICY = NetPolicy()
_GUARD = Guard(_POLICY, Resolver(_POLICY))
_SETTINGS = Settings(
    base_url="https://app.birdsong.dev/app",
    store_url="memory://",
    trusted_origins=("https://www.birdsong.dev",),
)
_COOKIES = Cookies(_SETTINGS)
_KEY = DPoPKey.generate()
_RING = KeyRing([b"k" * 32])
_PLACE = SealContext(table="t", column="c", row_id="r", did="d", issuer="i", client_id="c")
_SEALED = _RING.seal(b"secret", _PLACE)
_VISIBLE = re.compile(r"[\x21-\x7e]*")


def spelled(found: list[tuple[str, dict[str, str]]]) -> str:
    """Write challenges as a header, every value quoted (RFC 9110 §11.6.1)."""
    return ", ".join(
        " ".join([scheme, ", ".join(f"{name}={_quoted(value)}" for name, value in pairs.items())])
        for scheme, pairs in found
    )


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@target(
    'DPoP algs="ES256", error="use_dpop_nonce"',
    'Bearer realm="x, DPoP error=\\"y\\"", DPoP error="invalid_token"',
    "Negotiate a/b+c==, Basic, dpop error=invalid_token",
)
def www_authenticate(data: bytes) -> None:
    headers = httpx.Headers([(b"WWW-Authenticate", data)])
    found = [(one.scheme, one.parameters) for one in challenges(headers)]
    if headers.encoding == "ascii":
        again = challenges(httpx.Headers([("WWW-Authenticate", spelled(found))]))
        assert [(one.scheme, one.parameters) for one in again] == found
    error = dpop_error(headers)
    assert error is None or ("dpop" in [scheme for scheme, _ in found])


@target("Wed, 21 Oct 2026 07:28:00 GMT", "Wednesday, 21-Oct-26 07:28:00 GMT", "21 Oct 2026 -9999")
def http_date(data: bytes) -> None:
    clocks = Clocks(Events(None))
    learnt = clocks.learn("https://a.dev", httpx.Headers([(b"Date", data)]))
    assert abs(clocks.offset("https://a.dev")) <= MOST
    assert learnt == (clocks.offset("https://a.dev") != 0)


@target("nonce-1", "a" * 1024, 'q"', "a,b")
def dpop_nonce(data: bytes) -> None:
    nonces = Nonces(elder := Nonces())
    headers = httpx.Headers([(b"DPoP-Nonce", data)])
    nonce = nonces.learn("https://a.example", headers)
    assert nonces.get("https://a.example") == elder.get("https://a.example") == nonce
    assert nonces.get("https://b.example") is None
    if nonce is not None:
        assert nonce.encode() == data
        assert re.fullmatch(r"[!#-\[\]-~]{1,1024}", nonce)


@target("https://pds.example.com", "https://[2001:db8::1]:8443/", "http://127.0.0.1", "//a@b")
def address(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    found = parse_address(text)
    if found is None:
        return
    # Three readers agree on where it leads.
    httpx_url, split = httpx.URL(text), urlsplit(text)
    assert found.scheme == "https" == httpx_url.scheme == split.scheme
    assert found.host == httpx_url.raw_host.decode().lower() == split.hostname
    assert found.port == (httpx_url.port or 443) == (split.port or 443)
    assert not httpx_url.userinfo
    assert found.origin.isascii()
    assert parse_origin(found.origin) == found.origin
    assert parse_address(found.origin + found.rest) == found


@target(
    "https://pds.example.com/a?b#c", "https://0x7f.1/", "https://[::ffff:127.0.0.1]/",
    "https://169.254.169.254/", "https://a.b%2ec/", "https://xn--a.com/", "https://[64:ff9b::7f00:1]/",
)  # fmt: skip
def guarded_url(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        url = _GUARD.parse_url(text)
        _GUARD.check_url(url)
    except AddressRefused as exc:
        assert len(str(exc)) < 500
        return
    host = url.raw_host.decode()
    assert url.scheme == "https"
    assert url.port in {None, 443}
    assert urlsplit(text).hostname == host.lower()
    try:
        literal = ip_address(host)
    except ValueError:
        assert re.fullmatch(r"[a-z0-9.-]+\.[a-z0-9-]*[a-z-][a-z0-9-]*", host)
        assert not host.endswith((".localhost", ".local", ".internal"))
    else:
        assert is_public(literal)
    # What goes onto the wire is one line of plain text.
    assert _VISIBLE.fullmatch(url.raw_path.decode())
    assert _VISIBLE.fullmatch(target_uri(url))


@target("/app/a?b=c#d", "//evil.example", "/app/../x", "https://www.birdsong.dev/x", "/app/%2e%2e/")
def next_url(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    url = safe_next(text, _SETTINGS)
    assert safe_next(url, _SETTINGS) == url
    url = url[:5].lower() + url[5:]
    assert url.startswith(("https://app.birdsong.dev/app", "https://www.birdsong.dev"))
    assert _VISIBLE.fullmatch(url)
    rest = url.removeprefix("https://app.birdsong.dev/app").removeprefix("https://www.birdsong.dev")
    assert rest == "" or rest[0] in "/?#"
    assert str(httpx.URL(url).host) in {"app.birdsong.dev", "www.birdsong.dev"}


@target(
    f"__Host-atproto-oauth={'a' * 43}", f"x=1; __Host-atproto-oauth={'b' * 43}; y", "a=b;;=",
    f"__Host-atproto-oauth-login={'c' * 43}",
)  # fmt: skip
def cookies(data: bytes) -> None:
    headers = [(b"cookie", data), (b"x", data)]
    for name, value in (
        (_COOKIES.session, _COOKIES.read_session(headers)),
        (_COOKIES.login, _COOKIES.read_login(headers)),
    ):
        if value is not None:
            assert re.fullmatch(r"[A-Za-z0-9_-]{43}", value)
            assert f"{name}={value}".encode() in data


@target(
    "@Alice.Example.COM ", "at://did:plc:" + "a" * 24, "https://bsky.app/profile/a.b", "\ufeffa.b"
)
def identifier(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        found = parse_identifier(text, allow_test=True)
    except (InvalidIdentifier, UnsupportedDID) as exc:
        assert exc.sentence
        assert text not in str(exc) or len(text) < 20
        return
    if isinstance(found, HandleInput):
        assert parse_handle(found.handle, allow_test=True) == found.handle
        again: str = found.handle
    elif isinstance(found, DidInput):
        assert parse_did(found.did, allow_test=True) == found.did
        again = found.did
    else:
        assert parse_origin(found.origin) == found.origin
        again = found.origin
    assert parse_identifier(again, allow_test=True) == found
    assert again.isascii()


@target("did:plc:" + "a" * 24, "did:web:a.example", " \ndid:plc:" + "b" * 24 + "\n<html>")
def well_known_handle(data: bytes) -> None:
    found = _plausible(data.decode("utf-8", "replace").strip().partition("\n")[0].rstrip())
    assert found is None or re.fullmatch(r"did:[a-z]+:[a-zA-Z0-9._:%-]+", found)


@target(
    "atproto repo:app.bsky.feed.post?action=create", "rpc:a.b.c?aud=did:web:x.dev%23y",
    "blob:*/* blob?accept=image/png&accept=video/*", "include:a.b.c?aud=*",
    "account:email?action=read", "identity:*",
)  # fmt: skip
def scope(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    spelling = canonical(text)
    assert canonical(spelling) == spelling
    assert covers(text, text)
    assert covers(spelling, text)
    assert covers(text, spelling)
    for token in tokens(text):
        parsed = parse_scope(token)
        again = parse_scope(str(parsed))
        assert isinstance(again, UnknownScope) == isinstance(parsed, UnknownScope)
        if not isinstance(parsed, UnknownScope):
            assert again == parsed


@target("state=a&code=b&iss=c", "state=a&state=b", "error=x&state=%ff", "response=x&state=y")
def callback_query(data: bytes) -> None:
    request = Request({"type": "http", "method": "GET", "headers": [], "query_string": data})
    try:
        found = _parameters(request)
    except CallbackFailed as exc:
        assert exc.error.code == "invalid_callback"
        return
    assert found["state"]
    for name in ("state", "iss", "code", "error"):
        assert len(request.query_params.getlist(name)) <= 1


@target(_SEALED, _SEALED[:20], b"\x01" * 60)
def sealed_column(data: bytes) -> None:
    try:
        plain = _RING.open(data, _PLACE)
    except SealBroken as exc:
        assert "secret" not in str(exc)
        return
    # Nobody without the key makes another envelope that opens.
    assert plain == b"secret"


@target("Invalid code cod-0123456789abcdef", "a\r\nb\x1b[31m", "\u202eabc")
def words_of_a_server(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    secret = text[:40]
    said = harmless(text, (secret,))
    assert len(said) <= 300
    assert said.isprintable()
    assert len(secret) < 16 or secret not in said
    code = error_code(text, (secret,))
    assert code is None or (code == text and len(code) < 16)


@target("GET", "https://pds.example.com/x?y", 'n"once')
def proof(data: bytes) -> None:
    """A nonce, a method and an address never break out of the proof they stand in."""
    import json
    from base64 import urlsafe_b64decode

    text = data.decode("utf-8", "replace")
    made = _KEY.proof(text, text, nonce=text, ath="a")
    claims = json.loads(urlsafe_b64decode(made.split(".")[1] + "=="))
    assert set(claims) == {"jti", "htm", "htu", "iat", "nonce", "ath"}
    assert claims["htm"] == claims["htu"] == claims["nonce"] == text
