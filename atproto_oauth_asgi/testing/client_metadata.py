"""What a client says of itself, judged as the reference server judges it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast
from urllib.parse import parse_qsl, urlsplit

from atproto_oauth_asgi.testing.web import OAuthRefusal

_LOOPBACK_HOSTS = ("127.0.0.1", "::1")
_LOCAL_TLDS = ("test", "local", "localhost", "invalid", "example")
_LOOPBACK_REDIRECT = re.compile(r"http://(127\.0\.0\.1|\[::1\])(:\d{1,5})?(/[^?#]*)?(\?[^#]*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientMetadata:
    """Is a client that passed every check."""

    client_id: str
    redirect_uris: tuple[str, ...]
    scopes: tuple[str, ...]
    grant_types: tuple[str, ...]
    auth_method: Literal["none", "private_key_jwt"]
    #: Usable public keys of `jwks`, when the document holds them itself.
    keys: tuple[Mapping[str, object], ...] = ()
    jwks_uri: str | None = None
    #: Whether the client is the development client `http://localhost`.
    loopback: bool = False
    #: What the client calls itself; nobody has checked it.
    name: str | None = None
    tos_uri: str | None = None
    policy_uri: str | None = None

    def redirect_uri_for(self, wanted: str) -> str | None:
        """Return the redirect URI if it is registered.

        The port of a loopback address is free where the registered one names none.
        """
        return wanted if any(_matches(known, wanted) for known in self.redirect_uris) else None


def parse_loopback_client_id(client_id: str) -> ClientMetadata | None:
    """Return the virtual metadata of a loopback client id, or `None` if it is not one.

    atproto OAuth: Localhost Client Development.

    Raises:
        OAuthRefusal: It is one without the `atproto` scope.
    """
    rest = client_id.removeprefix("http://localhost")
    if rest == client_id or "#" in rest:
        return None
    rest = rest.removeprefix("/")
    if rest and not rest.startswith("?"):
        return None
    try:
        pairs = parse_qsl(rest[1:], keep_blank_values=True, strict_parsing=bool(rest[1:]))
    except ValueError:
        return None
    scopes = [value for name, value in pairs if name == "scope"]
    redirects = [value for name, value in pairs if name == "redirect_uri"]
    if len(scopes) > 1 or len(scopes) + len(redirects) != len(pairs):
        return None
    scope = scopes[0].split(" ") if scopes else ["atproto"]
    if "" in scope:
        return None
    if not all(_LOOPBACK_REDIRECT.fullmatch(uri) for uri in redirects):
        return None
    if "atproto" not in scope:
        raise _refused(
            f'Invalid loopback client id "{client_id}": '
            'ATProto Loopback ClientID must include "atproto" scope'
        )
    return ClientMetadata(
        client_id=client_id,
        redirect_uris=tuple(redirects) or ("http://127.0.0.1/", "http://[::1]/"),
        scopes=tuple(scope),
        grant_types=("authorization_code", "refresh_token"),
        auth_method="none",
        loopback=True,
    )


def check_client_id(client_id: str) -> None:
    """Refuse a client id under which no metadata can be published.

    Raises:
        OAuthRefusal: `invalid_client_metadata`, or `invalid_client_id` for a local name.
    """
    parts = urlsplit(client_id)
    host = parts.hostname or ""
    if not parts.scheme or not parts.netloc:
        raise _refused(f'Unable to obtain client metadata for "{client_id}": Invalid URL')
    if (
        parts.scheme != "https"
        or parts.path in {"", "/"}
        or parts.path.endswith("/")
        or parts.fragment
        or parts.username is not None
        or any(segment in {".", ".."} for segment in parts.path.split("/"))
        or "." not in host
        or _is_ip(host)
    ):
        raise _refused(f'Invalid client ID "{client_id}"')
    if host.rpartition(".")[2] in _LOCAL_TLDS:
        raise OAuthRefusal("invalid_client_id", "The client_id's TLD must not be a local hostname")


def parse_client_metadata(client_id: str, document: Mapping[str, object]) -> ClientMetadata:
    """Check a client metadata document (atproto OAuth: Client ID Metadata Document).

    Raises:
        OAuthRefusal: `invalid_client_metadata` or `invalid_redirect_uri`.
    """
    if document.get("jwks") is not None and document.get("jwks_uri") is not None:
        raise _refused("jwks_uri and jwks are mutually exclusive")
    if document.get("client_id") != client_id:
        raise _refused("client_id does not match")
    scopes = _scopes(document)
    grants = _grants(document)
    method = _auth_method(document)
    keys = public_keys(document.get("jwks"))
    if method == "private_key_jwt" and document.get("jwks_uri") is None and not keys:
        raise _refused("private_key_jwt auth method requires at least one key in jwks")
    if document.get("dpop_bound_access_tokens") is not True:
        raise _refused('"dpop_bound_access_tokens" must be true')
    application_type = document.get("application_type", "web")
    if application_type == "native" and method != "none":
        raise _refused('Native clients must authenticate using "none" method')
    _check_client_uri(client_id, document.get("client_uri"))
    redirects = strings(document.get("redirect_uris"))
    if not redirects:
        raise _refused("At least one redirect_uri is required")
    for uri in redirects:
        _check_redirect_uri(client_id, uri, native=application_type == "native")
    jwks_uri = document.get("jwks_uri")
    return ClientMetadata(
        client_id=client_id,
        redirect_uris=redirects,
        scopes=scopes,
        grant_types=grants,
        auth_method=method,
        keys=keys,
        jwks_uri=jwks_uri if isinstance(jwks_uri, str) else None,
        name=_text(document.get("client_name")),
        tos_uri=_web_uri(document.get("tos_uri")),
        policy_uri=_web_uri(document.get("policy_uri")),
    )


def public_keys(jwks: object) -> tuple[Mapping[str, object], ...]:
    """Return the keys of a JWKS that a signature may be checked with; others are left out."""
    if not isinstance(jwks, dict):
        return ()
    found = cast("dict[str, object]", jwks).get("keys")
    if not isinstance(found, list):
        return ()
    usable: list[Mapping[str, object]] = []
    for item in cast("list[object]", found):
        if not isinstance(item, dict):
            continue
        key = cast("dict[str, object]", item)
        operations = strings(key.get("key_ops"))
        private = key.keys() & {"d", "k", "p", "q"}
        if key.get("kid") and not private and "sign" not in operations:
            usable.append(key)
    return tuple(usable)


def strings(value: object) -> tuple[str, ...]:
    """Return the strings of a JSON array; nothing if it is not one."""
    if not isinstance(value, list):
        return ()
    return tuple(item for item in cast("list[object]", value) if isinstance(item, str))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _web_uri(value: object) -> str | None:
    uri = _text(value)
    return uri if uri is not None and uri.startswith(("https://", "http://")) else None


def _scopes(document: Mapping[str, object]) -> tuple[str, ...]:
    scope = document.get("scope")
    scopes = tuple(scope.split(" ")) if isinstance(scope, str) else ()
    if "atproto" not in scopes:
        raise _refused('Missing "atproto" scope')
    for name in scopes:
        if scopes.count(name) > 1:
            raise _refused(f'Duplicate scope "{name}"')
    return scopes


def _grants(document: Mapping[str, object]) -> tuple[str, ...]:
    grants = strings(document.get("grant_types", ["authorization_code"]))
    for grant in grants:
        if grant == "implicit":
            raise _refused('Grant type "implicit" is not allowed')
        if grant not in {"authorization_code", "refresh_token"}:
            raise _refused(f'Grant type "{grant}" is not supported')
        if grants.count(grant) > 1:
            raise _refused(f'Duplicate grant type "{grant}"')
    if "authorization_code" not in grants:
        raise _refused('"authorization_code" must be one of the grant_types')
    if "code" not in strings(document.get("response_types", ["code"])):
        raise _refused('response_types must include "code"')
    return grants


def _auth_method(document: Mapping[str, object]) -> Literal["none", "private_key_jwt"]:
    method = document.get("token_endpoint_auth_method", "client_secret_basic")
    algorithm = document.get("token_endpoint_auth_signing_alg")
    if method == "none":
        if algorithm is not None:
            raise _refused(
                'token_endpoint_auth_method "none" must not have token_endpoint_auth_signing_alg'
            )
        return "none"
    if method == "private_key_jwt":
        if document.get("jwks") is None and document.get("jwks_uri") is None:
            raise _refused("private_key_jwt auth method requires jwks or jwks_uri")
        if algorithm is None:
            raise _refused("Missing token_endpoint_auth_signing_alg client metadata")
        return "private_key_jwt"
    raise _refused(
        f'Unsupported client authentication method "{method}". Make sure '
        '"token_endpoint_auth_method" is set to one of: "none", "private_key_jwt"'
    )


def _check_client_uri(client_id: str, uri: object) -> None:
    if uri is None:
        return
    own, given = urlsplit(client_id), urlsplit(str(uri))
    if (own.scheme, own.netloc) != (given.scheme, given.netloc):
        raise _refused("client_uri must have the same origin as the client_id")
    folder = given.path if given.path.endswith("/") else given.path + "/"
    if not own.path.startswith(folder):
        raise _refused("client_uri must be a parent URL of the client_id")


def _check_redirect_uri(client_id: str, uri: str, *, native: bool) -> None:
    parts = urlsplit(uri)
    host = parts.hostname or ""
    if parts.scheme == "https":
        if host.rpartition(".")[2] in _LOCAL_TLDS or "." not in host or _is_ip(host):
            raise _bad_redirect(f"Redirect URI {uri} must not use a local hostname")
    elif parts.scheme == "http":
        if host not in _LOOPBACK_HOSTS:
            raise _bad_redirect(f"Invalid redirect_uri {uri}")
        if not native:
            raise _bad_redirect("Loopback redirect URIs are only allowed for native apps")
    else:
        reversed_host = ".".join(reversed((urlsplit(client_id).hostname or "").split(".")))
        if not native or parts.scheme != reversed_host or parts.netloc:
            raise _bad_redirect(
                "Private-Use URI Scheme redirect URI must be the fully qualified domain name "
                "(FQDN) of the client_id, in reverse order"
            )


def _matches(known: str, wanted: str) -> bool:
    if known == wanted:
        return True
    registered, given = urlsplit(known), urlsplit(wanted)
    try:
        free_port = registered.port is None and given.port is not None
    except ValueError:
        return False
    return (
        free_port
        and registered.scheme == given.scheme == "http"
        and registered.hostname in _LOOPBACK_HOSTS
        and given.netloc == f"{registered.netloc}:{given.port}"
        and (registered.path or "/", registered.query) == (given.path or "/", given.query)
        and not given.fragment
    )


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _refused(description: str) -> OAuthRefusal:
    return OAuthRefusal("invalid_client_metadata", description)


def _bad_redirect(description: str) -> OAuthRefusal:
    return OAuthRefusal("invalid_redirect_uri", description)


def unknown_scopes(wanted: Sequence[str], declared: Sequence[str]) -> list[str]:
    """Return the scopes that the client's metadata do not declare, compared as strings."""
    return [scope for scope in wanted if scope not in declared]
