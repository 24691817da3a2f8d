"""Configuration, checked whole before anything starts."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Unpack

import httpx

from atproto_oauth_asgi.addresses import is_host_name
from atproto_oauth_asgi.environment import SETTINGS, SettingsOverrides, read_environment
from atproto_oauth_asgi.errors import ConfigurationError
from atproto_oauth_asgi.keys import ClientKeys
from atproto_oauth_asgi.metadata import (
    BaseURL,
    ClientMetadata,
    check_base_url,
    check_client_uri,
    check_link,
    check_prefix,
)
from atproto_oauth_asgi.net_policy import NetPolicy
from atproto_oauth_asgi.origins import parse_origin
from atproto_oauth_asgi.scopes import canonical, check_scopes
from atproto_oauth_asgi.sealing import KeyRing
from atproto_oauth_asgi.tokens import MAX_SCOPE

DEFAULT_STORE_URL = "sqlite:///atproto-oauth.db"

_DAY = 86_400
_PUBLIC_DAYS = 14
_CONFIDENTIAL_DAYS = 90
# Browsers keep no cookie longer than this (RFC 6265bis §5.5).
_MAX_DAYS = 400
_MIN_AGE = 60
_MAX_NAME = 200
_MAX_PORT = 65_535
_COOKIE_NAME = re.compile(r"(?!__(?:host|secure|http)-)[a-z0-9_-]{1,64}", re.IGNORECASE)
_STORE_URL = re.compile(r"([a-z][a-z0-9]*)(?:\+[a-z0-9]+)?:.*", re.IGNORECASE | re.DOTALL)
# No “//” or “\\” in front: browsers read both as another host.
_PAGE = re.compile(r"/(?!/)[!$-\[\]-~]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Is the whole configuration; whatever could be wrong with it is said at construction.

    Values are normalised: what a field holds afterwards is what is used.

    Raises:
        ConfigurationError: One sentence that says which setting, why, and how to mend it.
    """

    #: Public address of the app, the only source of client id, redirect URI and cookie security.
    #: Required: without it construction says how to set it.
    base_url: str = ""
    client_name: str | None = None
    #: Page about the app; BASE_URL where it is left out.
    client_uri: str | None = None
    logo_uri: str | None = None
    tos_uri: str | None = None
    policy_uri: str | None = None
    #: What every login asks for.
    scope: str = "atproto"
    #: What a login may ask for in addition.
    optional_scope: str = ""
    store_url: str = field(default=DEFAULT_STORE_URL, repr=False)
    #: Keys of 32 bytes that seal what the store keeps; the first seals.
    secret_keys: tuple[bytes, ...] = field(default=(), repr=False)
    client_keys: ClientKeys | None = None
    #: Refresh sessions that nobody uses before servers forget them; for confidential clients.
    keep_alive: bool = False
    #: Path under BASE_URL of our routes.
    prefix: str = "/oauth"
    #: Other origins whose pages may post to our routes and be returned to.
    trusted_origins: tuple[str, ...] = ()
    #: Seconds from login to the end of a session; 0 is 14 days for a public client, else 90.
    session_max_age: int = 0
    #: Name of the browser's cookie, before any prefix or port.
    cookie_name: str = "atproto-oauth"
    #: Path of the app's own login page, as the browser sees it.
    login_page: str | None = None
    plc_url: str = "https://plc.directory"
    #: XRPC service that resolves handles, instead of DNS and HTTPS.
    handle_resolver_url: str | None = None
    egress_proxy: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    #: Host names and CIDRs that may be private.
    allow_private_hosts: tuple[str, ...] = ()
    allow_insecure_loopback: bool = False
    #: Replaces everything about the network, for tests. Has no form in the environment.
    net_policy: NetPolicy | None = field(default=None, repr=False)
    _base: BaseURL = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        any_client_id = self.net_policy is not None and self.net_policy.any_client_id
        base = check_base_url(self.base_url, any_client_id=any_client_id)
        scope, optional_scope = check_scopes(self.scope, self.optional_scope)
        if len(scope) + len(optional_scope) >= MAX_SCOPE:
            raise ConfigurationError(
                f"SCOPE and OPTIONAL_SCOPE are longer than {MAX_SCOPE} characters together, and no"
                " login could be finished; ask for less, or for permission sets (`include:`)."
            )
        prefix = check_prefix(self.prefix)
        self._set("_base", base)
        self._set("base_url", base.url)
        self._set("scope", scope)
        self._set("optional_scope", optional_scope)
        self._set("prefix", prefix)
        self._set("trusted_origins", _origins(self.trusted_origins))
        self._set("session_max_age", _age(self.session_max_age, self.client_keys))
        self._set("allow_private_hosts", _private_hosts(self.allow_private_hosts))
        self._check_client()
        self._check_store()
        self._check_cookie_and_page()
        self._check_way_out()

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check_client(self) -> None:
        if self.client_name is not None and not (
            0 < len(self.client_name) <= _MAX_NAME and self.client_name.isprintable()
        ):
            raise ConfigurationError(
                f"CLIENT_NAME must be one line of at most {_MAX_NAME} characters; shorten it, or"
                " leave it out."
            )
        if self.client_uri is not None and not self.loopback:
            check_client_uri(self.client_uri, self._base)
        for name in ("logo_uri", "tos_uri", "policy_uri"):
            link: str | None = getattr(self, name)
            if link is not None:
                check_link(link, name.upper())
        if self.client_keys is not None and self.loopback:
            raise ConfigurationError(
                "CLIENT_KEYS is set, but the loopback development client is public on every"
                " server; unset it, or set BASE_URL to the app's https address."
            )
        if self.keep_alive and self.client_keys is None:
            raise ConfigurationError(
                "KEEP_ALIVE is set without CLIENT_KEYS, but a public client's sessions end after"
                " 14 days whatever is done; set CLIENT_KEYS, or unset it."
            )

    def _check_store(self) -> None:
        found = _STORE_URL.fullmatch(self.store_url)
        if found is None:
            raise ConfigurationError(
                f"STORE_URL is not a URL; write it like {DEFAULT_STORE_URL}, with the scheme of a"
                " store in front."
            )
        scheme = found[1].lower()
        if self.secret_keys:
            KeyRing(self.secret_keys)
        elif scheme != "memory" and not (scheme == "sqlite" and self.loopback):
            raise ConfigurationError(
                "SECRET_KEYS is missing, and without it nothing can be kept in the store; make a"
                " key with `atproto-oauth-asgi secrets generate` and keep it for good."
            )

    def _check_cookie_and_page(self) -> None:
        if not _COOKIE_NAME.fullmatch(self.cookie_name):
            raise ConfigurationError(
                "COOKIE_NAME must be at most 64 letters, digits, “-” and “_”, without the"
                " “__Host-” that is put in front where it is due; write it like atproto-oauth."
            )
        if self.login_page is None:
            return
        if not _PAGE.fullmatch(self.login_page):
            raise ConfigurationError(
                "LOGIN_PAGE must be a path of this site, because people are sent there after a"
                " failed login; write it like /sign-in."
            )
        if self.login_page.partition("?")[0].startswith(f"{self.base_path}{self.prefix}/"):
            raise ConfigurationError(
                "LOGIN_PAGE lies under PREFIX, where our own routes would send people round in"
                " circles; use a path outside it, such as /sign-in."
            )

    def _check_way_out(self) -> None:
        if self.allow_insecure_loopback and not self.loopback:
            raise ConfigurationError(
                "ALLOW_INSECURE_LOOPBACK is set although BASE_URL is https; unset it, because it"
                " is for development on this machine only."
            )
        self._set("plc_url", self._service(self.plc_url, "PLC_URL"))
        if self.handle_resolver_url is not None:
            url = self._service(self.handle_resolver_url, "HANDLE_RESOLVER_URL")
            self._set("handle_resolver_url", url)
        if self.egress_proxy is not None:
            _check_proxy(self.egress_proxy)
        if self.ca_file is not None:
            _check_ca_file(self.ca_file)

    def _service(self, url: str, name: str) -> str:
        origin = parse_origin(
            url,
            allow_insecure=self.allow_insecure_loopback,
            plain_hosts=self.allow_private_hosts,
        )
        if origin is None:
            raise ConfigurationError(
                f"{name} is not the https address of a server; write it without a path, like"
                " https://plc.directory (http on this machine needs ALLOW_INSECURE_LOOPBACK=1)."
            )
        return origin

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str], **overrides: Unpack[SettingsOverrides]
    ) -> Settings:
        """Read `ATPROTO_OAUTH_…` variables, see `read_environment`; keywords win over them.

        Raises:
            ConfigurationError: A variable or a keyword is wrong.
        """
        values = read_environment(environ, names=SETTINGS - overrides.keys())
        values.update(overrides)
        return cls(**values)

    @property
    def base(self) -> BaseURL:
        """BASE_URL, taken apart."""
        return self._base

    @property
    def origin(self) -> str:
        """Origin of BASE_URL, as a browser writes it into `Origin`."""
        return self._base.origin

    @property
    def base_path(self) -> str:
        """Path of BASE_URL without a closing slash; empty at the root."""
        return self._base.path

    @property
    def loopback(self) -> bool:
        """Whether this is the loopback development client."""
        return self._base.loopback

    @property
    def client_metadata(self) -> ClientMetadata:
        """What this client says of itself."""
        return ClientMetadata(
            base=self._base,
            prefix=self.prefix,
            scope=canonical([self.scope, self.optional_scope]),
            confidential=self.client_keys is not None,
            client_name=self.client_name,
            client_uri=self.client_uri,
            logo_uri=self.logo_uri,
            tos_uri=self.tos_uri,
            policy_uri=self.policy_uri,
        )

    def policy(self) -> NetPolicy:
        """Return what the way out may do."""
        return self.net_policy or NetPolicy(
            allow_insecure_loopback=self.allow_insecure_loopback,
            allow_private_hosts=self.allow_private_hosts,
            ca_file=self.ca_file,
            egress_proxy=self.egress_proxy,
            plc_url=self.plc_url,
            handle_resolver_url=self.handle_resolver_url,
        )


def _items(value: Sequence[str], name: str) -> tuple[str, ...]:
    if isinstance(value, str):
        raise ConfigurationError(
            f"{name} must be a tuple of texts, not one text; put it into parentheses with a comma"
            " behind it."
        )
    return tuple(value)


def _origins(given: Sequence[str]) -> tuple[str, ...]:
    origins: list[str] = []
    for text in _items(given, "TRUSTED_ORIGINS"):
        origin = parse_origin(text, allow_insecure=True)
        if origin is None:
            raise ConfigurationError(
                f"TRUSTED_ORIGINS has “{text}”, which is not one origin; name each on its own,"
                " like https://www.example.com, without a path or “*”."
            )
        origins.append(origin)
    return tuple(dict.fromkeys(origins))


def _age(seconds: int, keys: ClientKeys | None) -> int:
    if seconds == 0:
        return (_PUBLIC_DAYS if keys is None else _CONFIDENTIAL_DAYS) * _DAY
    if not _MIN_AGE <= seconds <= _MAX_DAYS * _DAY:
        raise ConfigurationError(
            f"SESSION_MAX_AGE is {seconds} seconds, but browsers and servers keep a session"
            f" between a minute and {_MAX_DAYS} days; choose between {_MIN_AGE} and"
            f" {_MAX_DAYS * _DAY}."
        )
    return seconds


def _private_hosts(given: Sequence[str]) -> tuple[str, ...]:
    hosts: list[str] = []
    for text in _items(given, "ALLOW_PRIVATE_HOSTS"):
        try:
            network = ip_network(text.strip("[]"))
        except ValueError:
            name = text.lower()
            if not is_host_name(name) or name.rpartition(".")[2].isdigit():
                raise ConfigurationError(
                    f"ALLOW_PRIVATE_HOSTS has “{text}”, which is neither a host name nor a"
                    " network; write it like pds.internal or 10.1.0.0/16, with no bits set after"
                    " the prefix."
                ) from None
            hosts.append(name)
        else:
            if network.prefixlen == 0:
                raise ConfigurationError(
                    f"ALLOW_PRIVATE_HOSTS has “{text}”, which is every address and would switch"
                    " the guard off; name the hosts or networks that you mean."
                )
            hosts.append(str(network))
    return tuple(dict.fromkeys(hosts))


def _check_proxy(text: str) -> None:
    # Nothing of the value may be echoed: it may hold a password.
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in {"http", "https"} or not url.raw_host or (url.port or 0) > _MAX_PORT:
        raise ConfigurationError(
            "EGRESS_PROXY is not the URL of an HTTP proxy; write it like http://proxy.internal:3128."
        )


def _check_ca_file(path: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as exc:
        raise ConfigurationError(
            f"CA_FILE names {path}, which is not a readable file of certificates (PEM); correct"
            " the path, or unset it."
        ) from exc
