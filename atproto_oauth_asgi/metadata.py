"""What this client says of itself: its id, its redirect URI and its metadata document.

`atproto OAuth: Client ID Metadata Document`, `atproto OAuth: Localhost Client Development`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple, NotRequired, TypedDict
from urllib.parse import parse_qsl, urlencode, urlsplit

from atproto_oauth_asgi.errors import ConfigurationError
from atproto_oauth_asgi.origins import Address, parse_address
from atproto_oauth_asgi.permissions import is_scope_string

METADATA_PATH = "/oauth-client-metadata.json"

_LOOPBACK_ID = "http://localhost"
_LOOPBACK_IPS = frozenset({"127.0.0.1", "::1"})
_LOOPBACK_REDIRECTS = ("http://127.0.0.1/", "http://[::1]/")
_LOCAL_TLDS = frozenset({"local", "localhost", "test", "invalid", "example"})
_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~-]+)*")
_HTTP_PORT = 80
_HTTPS_PORT = 443


class ClientMetadataDocument(TypedDict):
    """Is the client metadata as other servers read it (RFC 7591 §2)."""

    client_id: str
    application_type: Literal["web", "native"]
    client_name: NotRequired[str]
    client_uri: NotRequired[str]
    logo_uri: NotRequired[str]
    tos_uri: NotRequired[str]
    policy_uri: NotRequired[str]
    dpop_bound_access_tokens: Literal[True]
    grant_types: list[str]
    response_types: list[str]
    redirect_uris: list[str]
    scope: str
    token_endpoint_auth_method: Literal["none", "private_key_jwt"]
    token_endpoint_auth_signing_alg: NotRequired[Literal["ES256"]]
    jwks_uri: NotRequired[str]


class BaseURL(NamedTuple):
    """Is a checked BASE_URL: `url` is `origin` and `path` without a closing slash."""

    url: str
    origin: str
    path: str
    port: int
    loopback: bool


class LoopbackClient(NamedTuple):
    """Is what a loopback client id says."""

    scope: str
    redirect_uris: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientMetadata:
    """Describes this client to authorization servers; made by `Settings.client_metadata`.

    The id is immutable in practice: servers forget every session of a client whose id changes.
    """

    base: BaseURL
    #: Path under BASE_URL of our routes, such as `/oauth`.
    prefix: str
    #: Everything that a login may ask for, canonical.
    scope: str
    confidential: bool
    client_name: str | None = None
    client_uri: str | None = None
    logo_uri: str | None = None
    tos_uri: str | None = None
    policy_uri: str | None = None

    @property
    def client_id(self) -> str:
        """The URL of the document, or the loopback development client's `http://localhost?…`.

        The latter names the redirect URI without a port, which servers then let vary, so a
        development server on a new port keeps its sessions.
        """
        if not self.base.loopback:
            return self.base.url + METADATA_PATH
        return build_loopback_client_id(self.scope, self._portless_redirect_uri)

    @property
    def _portless_redirect_uri(self) -> str:
        host = "[::1]" if "[" in self.base.origin else "127.0.0.1"
        return f"http://{host}{self.base.path}{self.prefix}/callback"

    @property
    def redirect_uri(self) -> str:
        """The callback, exactly as every request of a login writes it."""
        return f"{self.base.url}{self.prefix}/callback"

    @property
    def jwks_uri(self) -> str | None:
        """Where the public keys are served; `None` for a public client."""
        return f"{self.base.url}{self.prefix}/jwks.json" if self.confidential else None

    def document(self) -> ClientMetadataDocument:
        """Return the document to serve; in loopback the one that servers make up themselves."""
        if self.base.loopback:
            client = LoopbackClient(self.scope, (self._portless_redirect_uri,))
            return loopback_document(self.client_id, client)
        document: ClientMetadataDocument = {
            "client_id": self.client_id,
            "application_type": "web",
            "client_uri": self.client_uri or self.base.url,
            "dpop_bound_access_tokens": True,
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "redirect_uris": [self.redirect_uri],
            "scope": self.scope,
            "token_endpoint_auth_method": "private_key_jwt" if self.confidential else "none",
        }
        if self.client_name:
            document["client_name"] = self.client_name
        if self.logo_uri:
            document["logo_uri"] = self.logo_uri
        if self.tos_uri:
            document["tos_uri"] = self.tos_uri
        if self.policy_uri:
            document["policy_uri"] = self.policy_uri
        if self.jwks_uri:
            document["token_endpoint_auth_signing_alg"] = "ES256"
            document["jwks_uri"] = self.jwks_uri
        return document


# --- The loopback development client -----------------------------------------------------------


def build_loopback_client_id(scope: str, redirect_uri: str) -> str:
    """Write the id of a loopback development client."""
    return f"{_LOOPBACK_ID}?{urlencode({'scope': scope, 'redirect_uri': redirect_uri})}"


def parse_loopback_client_id(client_id: str) -> LoopbackClient | None:
    """Read the id of a loopback development client; `None` when it is not a valid one."""
    if not client_id.startswith(_LOOPBACK_ID) or "#" in client_id:
        return None
    rest = client_id.removeprefix(_LOOPBACK_ID).removeprefix("/")
    if rest and not rest.startswith("?"):
        return None
    scope: str | None = None
    redirect_uris: list[str] = []
    for name, value in parse_qsl(rest[1:], keep_blank_values=True):
        if name == "scope" and scope is None and is_scope_string(value):
            scope = value
        elif name == "redirect_uri" and _loopback_redirect(value):
            redirect_uris.append(value)
        else:
            return None
    scope = "atproto" if scope is None else scope
    if "atproto" not in scope.split(" "):
        return None
    return LoopbackClient(scope, tuple(redirect_uris) or _LOOPBACK_REDIRECTS)


def loopback_document(client_id: str, client: LoopbackClient) -> ClientMetadataDocument:
    """Return the metadata that a server imagines for a loopback client id."""
    return {
        "client_id": client_id,
        "application_type": "native",
        "dpop_bound_access_tokens": True,
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "redirect_uris": [*client.redirect_uris],
        "scope": client.scope,
        "token_endpoint_auth_method": "none",
    }


def redirect_uri_matches(registered: str, requested: str) -> bool:
    """Tell whether a registered redirect URI allows a requested one.

    They must be the same, but a loopback address registered without a port allows any (RFC 8252
    §7.3 as the reference server reads it).
    """
    if registered == requested:
        return True
    mine, theirs = _loopback_redirect(registered), _loopback_redirect(requested)
    if mine is None or theirs is None:
        return False
    return (
        mine.port in {_HTTP_PORT, theirs.port}
        and mine.host == theirs.host
        and (mine.rest or "/") == (theirs.rest or "/")
    )


def _loopback_redirect(uri: str) -> Address | None:
    address = parse_address(uri, allow_insecure=True) if uri.startswith("http://") else None
    if address is None or address.host not in _LOOPBACK_IPS or "#" in uri:
        return None
    return address


# --- Checks of the settings --------------------------------------------------------------------


def check_base_url(text: str, *, any_client_id: bool = False) -> BaseURL:
    """Check and normalise BASE_URL (`atproto OAuth: Clients`).

    Args:
        text: The setting.
        any_client_id: Whether https with a port or a private name will do, for tests.

    Raises:
        ConfigurationError: No server would take a client with this address.
    """
    text = text.strip()
    if not text:
        raise ConfigurationError(
            "BASE_URL is missing; set it (ATPROTO_OAUTH_BASE_URL in the environment) to the address"
            " people open, such as https://app.example.com, or http://127.0.0.1:8000 for"
            " development."
        )
    _refuse_odd_spelling(text)
    host = _host_of(text)
    address = parse_address(text, allow_insecure=True, plain_hosts={host})
    if address is None:
        raise ConfigurationError(_why_not(text, host))
    if host == "localhost" and not (any_client_id and address.scheme == "https"):
        raise ConfigurationError(
            "BASE_URL may not name localhost, because servers send the browser back to an IP"
            f" address; write http://127.0.0.1{_port_of(address)} and open the app there."
        )
    if address.scheme == "https" and not any_client_id:
        _refuse_private_name(address)
    path = address.rest.rstrip("/")
    if not _PATH.fullmatch(path):
        raise ConfigurationError(
            "BASE_URL has a path that servers would spell otherwise; use letters, digits, “-”,"
            " “.”, “_” and “~” between single slashes."
        )
    return BaseURL(
        url=address.origin + path,
        origin=address.origin,
        path=path,
        port=address.port,
        loopback=address.scheme == "http",
    )


def _refuse_odd_spelling(text: str) -> None:
    if "@" in text:
        raise ConfigurationError(
            "BASE_URL holds a user name or an “@”, which no server accepts in a client id; remove"
            " it."
        )
    if "?" in text or "#" in text:
        raise ConfigurationError(
            "BASE_URL has a query or a fragment, but our paths are put behind it; end it before"
            " the “?” or “#”."
        )
    if not text.isascii():
        raise ConfigurationError(
            "BASE_URL has letters outside ASCII; write the host name in its xn-- form."
        )


def _host_of(text: str) -> str:
    try:
        return urlsplit(text).hostname or ""
    except ValueError:
        return ""


def _port_of(address: Address) -> str:
    return "" if address.port in {_HTTP_PORT, _HTTPS_PORT} else f":{address.port}"


def _why_not(text: str, host: str) -> str:
    if text.lower().startswith("http://") and host:
        if host.startswith("127.") or host in {"0.0.0.0", "::"}:  # noqa: S104  # refused, not bound
            return (
                f"BASE_URL is on {host}, but development clients live on 127.0.0.1 and [::1]"
                " only; write http://127.0.0.1 with your port."
            )
        return (
            "BASE_URL is http, but servers read a client's metadata over https only; write"
            f" https://{host}, or http://127.0.0.1 with your port for development."
        )
    return (
        "BASE_URL is not a web address; write it whole, such as https://app.example.com, or"
        " http://127.0.0.1:8000 for development."
    )


def _refuse_private_name(address: Address) -> None:
    labels = address.host.split(".")
    if ":" in address.host or labels[-1].isdigit():
        raise ConfigurationError(
            f"BASE_URL is on the IP address {address.host}, but a client id needs a host name;"
            " give the server a name, or use http://127.0.0.1 with your port for development."
        )
    if len(labels) == 1 or labels[-1] in _LOCAL_TLDS:
        raise ConfigurationError(
            f"BASE_URL is on “{address.host}”, a name that other servers cannot reach; use a"
            " public host name, or http://127.0.0.1 with your port for development."
        )
    if address.port != _HTTPS_PORT:
        raise ConfigurationError(
            f"BASE_URL has the port {address.port}, but servers fetch client metadata from port"
            f" 443 only; serve the app at https://{address.host}, through a proxy if need be."
        )


def check_prefix(text: str) -> str:
    """Check PREFIX and return it without a closing slash.

    Raises:
        ConfigurationError: It is empty or not a plain path.
    """
    prefix = text.rstrip("/")
    if not prefix or not _PATH.fullmatch(prefix):
        raise ConfigurationError(
            "PREFIX must be a path of letters, digits, “-”, “.”, “_” and “~” that starts with a"
            " slash; write it like /oauth."
        )
    return prefix


def check_link(text: str, name: str) -> str:
    """Check a link that people are shown: LOGO_URI, TOS_URI, POLICY_URI (https only).

    Raises:
        ConfigurationError: It is not a whole https URL.
    """
    if parse_address(text) is None:
        raise ConfigurationError(
            f"{name} is not an https URL, and servers refuse anything else; write it whole, such"
            " as https://app.example.com/about."
        )
    return text


def check_client_uri(text: str, base: BaseURL) -> str:
    """Check CLIENT_URI: an https URL of the same origin at or above the client id's path.

    Raises:
        ConfigurationError: Servers would refuse the client because of it.
    """
    address = parse_address(check_link(text, "CLIENT_URI"))
    path = re.split(r"[?#]", address.rest)[0].rstrip("/") if address else ""
    if (
        address is None
        or address.origin != base.origin
        or not (base.path + "/").startswith(path + "/")
    ):
        raise ConfigurationError(
            "CLIENT_URI must have the origin of BASE_URL and a path at or above it, because"
            f" servers refuse the client otherwise; write {base.url} or leave it out."
        )
    return text
