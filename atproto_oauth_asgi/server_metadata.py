"""What an authorization server says about itself (RFC 8414; atproto OAuth: Server Metadata)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, cast

from atproto_oauth_asgi.errors import NotOAuthCapable
from atproto_oauth_asgi.net_dns import Resolver
from atproto_oauth_asgi.net_guard import Guard
from atproto_oauth_asgi.net_policy import NetPolicy
from atproto_oauth_asgi.origins import parse_address

#: Field, and values of which none may be missing from its list.
_MUST_LIST: Final[tuple[tuple[str, frozenset[str]], ...]] = (
    ("response_types_supported", frozenset({"code"})),
    ("grant_types_supported", frozenset({"authorization_code", "refresh_token"})),
    ("code_challenge_methods_supported", frozenset({"S256"})),
    ("token_endpoint_auth_methods_supported", frozenset({"none", "private_key_jwt"})),
    ("token_endpoint_auth_signing_alg_values_supported", frozenset({"ES256"})),
    ("scopes_supported", frozenset({"atproto"})),
    ("dpop_signing_alg_values_supported", frozenset({"ES256"})),
)
_LONGEST_ORIGIN = len("https://") + 253 + len(":65535")
_MUST_BE_TRUE: Final = (
    "authorization_response_iss_parameter_supported",
    "require_pushed_authorization_requests",
    "client_id_metadata_document_supported",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerMetadata:
    """Is the checked metadata of one authorization server.

    `revocation_endpoint` is None when the server has none. `protected_resources` is None when the
    server does not list the origins it answers for (RFC 9728 §4).
    """

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    pushed_authorization_request_endpoint: str
    revocation_endpoint: str | None
    protected_resources: frozenset[str] | None = None


def read_server_metadata(
    issuer: str, document: Mapping[str, object], *, policy: NetPolicy
) -> ServerMetadata:
    """Check a metadata document against everything the atproto profile asks of a server.

    Args:
        issuer: The issuer that was asked; the document must name the very same string.
        document: The JSON object that came back.
        policy: Says which addresses are welcome as endpoints.

    Raises:
        NotOAuthCapable: Something is missing or wrong; the message names it.
        AddressRefused: An endpoint lies on a port or at an address that may not be opened.
    """
    if document.get("issuer") != issuer:
        raise incapable(issuer, "`issuer` is another server's")
    for field, needed in _MUST_LIST:
        missing = needed - (_strings(document, field) or frozenset())
        if missing:
            raise incapable(issuer, f"`{field}` lacks {', '.join(sorted(missing))}")
    if "none" in (_strings(document, "token_endpoint_auth_signing_alg_values_supported") or ()):
        raise incapable(issuer, "it accepts client assertions without a signature")
    for field in _MUST_BE_TRUE:
        if document.get(field) is not True:
            raise incapable(issuer, f"`{field}` is not true")
    if document.get("require_request_uri_registration", True) is not True:
        raise incapable(issuer, "`require_request_uri_registration` is not true")
    revocation: str | None = None
    if document.get("revocation_endpoint") is not None:
        revocation = _endpoint(issuer, document, "revocation_endpoint", policy)
    resources = _strings(document, "protected_resources")
    if resources is None and document.get("protected_resources") is not None:
        raise incapable(issuer, "`protected_resources` is not a list of strings")
    return ServerMetadata(
        issuer=issuer,
        authorization_endpoint=_endpoint(issuer, document, "authorization_endpoint", policy),
        token_endpoint=_endpoint(issuer, document, "token_endpoint", policy),
        pushed_authorization_request_endpoint=_endpoint(
            issuer, document, "pushed_authorization_request_endpoint", policy
        ),
        revocation_endpoint=revocation,
        # Longer ones are no origins (RFC 1035 §2.3.4).
        protected_resources=None
        if resources is None
        else frozenset(entry for entry in resources if len(entry) <= _LONGEST_ORIGIN),
    )


def _strings(document: Mapping[str, object], field: str) -> frozenset[str] | None:
    values = document.get(field)
    if not isinstance(values, list):
        return None
    entries = cast("Collection[object]", values)
    strings = frozenset(entry for entry in entries if isinstance(entry, str))
    return strings if all(isinstance(entry, str) for entry in entries) else None


def _endpoint(issuer: str, document: Mapping[str, object], field: str, policy: NetPolicy) -> str:
    url = document.get(field)
    address = (
        parse_address(
            url,
            allow_insecure=policy.allow_insecure_loopback,
            plain_hosts=policy.allow_private_hosts,
        )
        if isinstance(url, str)
        else None
    )
    # An endpoint must not carry a fragment (RFC 6749 §3.1, §3.2).
    if not isinstance(url, str) or address is None or "#" in url:
        raise incapable(issuer, f"`{field}` is not an https URL")
    if address.origin not in policy.apps:
        # The browser opens one of these, not we; a server that names a private one is no less odd.
        guard = Guard(policy, Resolver(policy))
        guard.check_url(guard.parse_url(url))
    return url


def incapable(server: str, why: str) -> NotOAuthCapable:
    """Return the error for a server that does not meet the profile."""
    return NotOAuthCapable(
        f"{server} does not meet the atproto profile of OAuth: {why}. Its operator must mend it.",
        identifier=server,
    )
