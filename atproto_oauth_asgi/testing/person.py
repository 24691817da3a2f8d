"""A person at an authorization server, without a browser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from urllib.parse import parse_qs, urlsplit

from atproto_oauth_asgi.testing.authorization_requests import (
    AuthorizationRequest,
    Denied,
    Redirection,
    Unanswerable,
)
from atproto_oauth_asgi.testing.host import Host


def decide(
    hosts: Sequence[Host],
    authorize_url: str,
    decision: Callable[[Host, AuthorizationRequest], Redirection],
) -> str:
    """Open an authorization URL, decide, and return the callback URL.

    Raises:
        ValueError: A browser would show an error page.
    """
    parts = urlsplit(authorize_url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    asked = f"{parts.scheme}://{parts.netloc}{parts.path}"
    servers = [each for each in hosts if each.entryway is None]
    host = next((each for each in servers if asked == f"{each.origin}/oauth/authorize"), None)
    if host is None:
        raise ValueError("This is not an authorization URL of this network.")
    try:
        request = host.authorization_server.requests.open(
            query.get("request_uri"), query.get("client_id")
        )
    except Unanswerable as exc:
        raise ValueError(f"The server shows a page: {exc.message}.") from exc
    except Denied as exc:
        return exc.redirection.url
    return decision(host, request).url
