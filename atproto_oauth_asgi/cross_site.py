"""Which requests come from our own pages: CSRF, WebSocket hijacking, and foreign Host names."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from atproto_oauth_asgi.errors import CrossSiteRefused, WrongHost
from atproto_oauth_asgi.settings import Settings

_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})


def refuse_cross_site(conn: HTTPConnection, settings: Settings) -> None:
    """Refuse a state-changing request that did not come from our pages or trusted ones.

    Raises:
        CrossSiteRefused: it came from elsewhere, or does not say where from.
    """
    origin, site = conn.headers.get("origin"), conn.headers.get("sec-fetch-site")
    if origin is not None and _is_ours(origin, settings):
        return
    if site == "same-origin":
        return
    # No form and no link can send JSON; a page elsewhere needs our consent for it (CORS).
    kind = conn.headers.get("content-type", "").partition(";")[0].strip().lower()
    if origin is None and site is None and kind == "application/json":
        return
    msg = "This request came from another site; send it from BASE_URL or a TRUSTED_ORIGINS page."
    raise CrossSiteRefused(msg)


def may_attach(headers: dict[bytes, bytes], method: str | None, settings: Settings) -> bool:
    """Say whether a request may carry the browser's session.

    Args:
        headers: The request's headers, names in lower case.
        method: Its method; None for a WebSocket.
        settings: The configuration.
    """
    origin = headers.get(b"origin")
    if origin is not None and _is_ours(origin.decode("latin-1"), settings):
        return True
    if method is None:
        # Every browser names the page that opens a WebSocket; other programs are no danger.
        return origin is None
    if method in _SAFE:
        return True
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site in {b"same-origin", b"none"}
    return origin is None


def refuse_wrong_host(conn: HTTPConnection, settings: Settings) -> None:
    """Refuse names of this machine that only an attacker's DNS has, in development.

    Raises:
        WrongHost: with ALLOW_INSECURE_LOOPBACK: the Host is not this machine's; in loopback
            development: a form was posted under another host than BASE_URL's.
    """
    host = host_of(conn)
    if settings.allow_insecure_loopback and _name(host) not in _LOOPBACK:
        msg = f"In development this app answers as 127.0.0.1 only; open {settings.base_url}."
        raise WrongHost(msg)
    expected = settings.origin.partition("://")[2]
    if settings.loopback and conn.scope.get("method") == "POST" and host != expected:
        msg = f"This form was opened under another address; open {settings.base_url} and try again."
        raise WrongHost(msg)


def host_of(conn: HTTPConnection) -> str:
    """Return the Host of a request as origins spell it: lower case, without a default port."""
    host = conn.headers.get("host", "").lower()
    return host.removesuffix(":443").removesuffix(":80")


def _is_ours(origin: str, settings: Settings) -> bool:
    return origin == settings.origin or origin in settings.trusted_origins


def _name(host: str) -> str:
    return host if host.endswith("]") else host.rpartition(":")[0] or host
