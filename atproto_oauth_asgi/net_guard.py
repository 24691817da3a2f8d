"""The guard against server-side request forgery (`atproto OAuth: Security Concerns`).

A URL is judged by its spelling before anything is looked up, its host by *every* address it
resolves to, and the address that was judged is the one that is dialled: a second look-up, which
might give another answer, never happens.
"""

from __future__ import annotations

import asyncio
import math
import re
import ssl
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from ipaddress import ip_address, ip_network
from itertools import chain, zip_longest
from typing import cast

import httpcore
import httpx

from atproto_oauth_asgi.addresses import (
    IPAddress,
    IPNetwork,
    is_host_name,
    is_public,
    is_public_name,
    parse_literal,
    unmapped,
)
from atproto_oauth_asgi.errors import AddressRefused, ConfigurationError, Unreachable
from atproto_oauth_asgi.net_dns import Resolver
from atproto_oauth_asgi.net_policy import NetPolicy

LOOPBACK_HOSTS = {
    "127.0.0.1": ("127.0.0.1",),
    "::1": ("::1",),
    "localhost": ("127.0.0.1", "::1"),
}
# Seconds for one look-up, and for one address while there are others to try.
_RESOLVE_SECONDS = 5.0
_ATTEMPT_SECONDS = 1.0
_MAX_URL = 2048
# A name with more addresses than this is no web server; only the first few are dialled.
_MAX_ADDRESSES = 64
_MAX_ATTEMPTS = 4
# Printable ASCII without space, quotes, angle brackets, backslash, caret, backtick, braces, bar.
_URL = re.compile(
    r"[a-z]+://(?:\[[0-9a-f:.]+\]|[^/?#@\[\]:]+)(?::[0-9]*)?(?:[/?#].*)?", re.IGNORECASE
)
_ODD = re.compile(r"[^!#-;=?-\[\]_a-z~]", re.IGNORECASE)


class Guard:
    """Judges URLs, host names and addresses by a `NetPolicy`."""

    def __init__(self, policy: NetPolicy, resolver: Resolver) -> None:
        self._policy = policy
        self._resolver = resolver
        self._names, self._networks = _parse_private_hosts(policy.allow_private_hosts)

    def parse_url(self, text: str) -> httpx.URL:
        """Return a URL that came from a stranger, if it is spelled without tricks.

        Raises:
            AddressRefused: It is not plain ASCII, is overlong or carries user information.
        """
        if len(text) > _MAX_URL or _ODD.search(text) or not _URL.fullmatch(text):
            message = "This URL is not one that may be opened: write it as https://host/path."
            raise AddressRefused(message)
        try:
            url = httpx.URL(text)
            # httpx decodes an internationalised name wherever it needs the host, and raises there.
            _ = url.host
            return url
        except (httpx.InvalidURL, UnicodeError) as exc:
            message = "This URL cannot be read: write it as https://host/path."
            raise AddressRefused(message) from exc

    def is_loopback_peer(self, host: str) -> bool:
        """Tell whether a host may be spoken to without TLS, on any port, by the policy."""
        return self._policy.allow_insecure_loopback and host in LOOPBACK_HOSTS

    def check_url(self, url: httpx.URL) -> None:
        """Refuse a URL by scheme, user information, port or host spelling, before any look-up.

        Raises:
            AddressRefused: It breaks one of these rules.
        """
        host = url.raw_host.decode()
        if url.userinfo:
            raise _refused(host, "carries user information, which no server here needs")
        if self.is_loopback_peer(host) and url.scheme in ("http", "https"):
            return
        if url.scheme != "https":
            raise _refused(host, f"is to be opened with {url.scheme!r}, but only https is allowed")
        ports = self._policy.ports
        port = 443 if url.port is None else url.port
        if port == 0 or (ports is not None and port not in ports):
            raise _refused(host, f"is asked on port {port}, which this site may not open")
        literal = self._literal(host)
        if literal is not None:
            self._judge(host, [literal])

    async def addresses(self, host: str) -> list[str]:
        """Return the literals to dial for a host, all of them judged, in the order to try.

        Raises:
            AddressRefused: The host is badly spelled, or any address of it is not allowed.
            Unreachable: The name does not resolve.
        """
        if self.is_loopback_peer(host):
            return list(LOOPBACK_HOSTS[host])
        literal = self._literal(host)
        if literal is not None:
            found: Sequence[IPAddress] = [literal]
        else:
            texts = await self._resolver.addresses(host, deadline=_RESOLVE_SECONDS)
            if len(texts) > _MAX_ADDRESSES:
                raise _refused(host, "has more addresses than any server needs")
            try:
                found = [ip_address(text) for text in texts]
            except ValueError as exc:
                raise _refused(host, "resolves to something that is not an address") from exc
        self._judge(host, found)
        return _in_turns([unmapped(address) for address in found])

    async def check_tunnel(self, host: str) -> None:
        """Judge a host that a proxy is about to dial for us, as far as that can be done here.

        A name that does not resolve here passes: behind a proxy there may be no DNS at all.

        Raises:
            AddressRefused: The host is badly spelled, or any address seen here is not allowed.
        """
        try:
            await self.addresses(host)
        except Unreachable:
            return

    def _literal(self, host: str) -> IPAddress | None:
        try:
            literal = parse_literal(host)
        except ValueError as exc:
            raise _refused(host, "is an address in a form that is not accepted") from exc
        if literal is None and not (
            is_public_name(host) or (host in self._names and is_host_name(host))
        ):
            raise _refused(host, "is not the name of a server on the public internet")
        return literal

    def _judge(self, host: str, addresses: Sequence[IPAddress]) -> None:
        if host in self._names:
            return
        for address in map(unmapped, addresses):
            if not is_public(address) and not any(address in net for net in self._networks):
                raise _refused(
                    host, "has an address that is not public (ALLOW_PRIVATE_HOSTS can name it)"
                )


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Dials only the literals that `addresses` gives for a host, one after another.

    Each address but the last gets one second, so that a dead IPv6 route costs little.
    """

    def __init__(self, addresses: Callable[[str], Awaitable[Sequence[str]]]) -> None:
        self._addresses = addresses
        self._inner = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,  # noqa: ARG002 - the interface is httpcore's
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> httpcore.AsyncNetworkStream:
        """Connect to a host by name or literal; `timeout` seconds cover the look-up too."""
        timer = asyncio.timeout(timeout)
        try:
            async with timer:
                *others, last = (await self._addresses(host))[:_MAX_ATTEMPTS]
                for address in others:
                    try:
                        return await self._dial(address, port, _ATTEMPT_SECONDS)
                    except (httpcore.ConnectError, httpcore.ConnectTimeout):
                        continue
                return await self._dial(last, port, None)
        except TimeoutError as exc:
            raise httpcore.ConnectTimeout from exc

    async def _dial(
        self, address: str, port: int, seconds: float | None
    ) -> httpcore.AsyncNetworkStream:
        return ClosingStream(await self._inner.connect_tcp(address, port, timeout=seconds))


class Allowance:
    """Is how many bytes a request may still read before its answer's headers are complete."""

    _current: ContextVar[Allowance | None] = ContextVar("allowance", default=None)

    def __init__(self) -> None:
        self.left = math.inf

    @contextmanager
    def in_force(self) -> Generator[None]:
        """Count what this task reads from streams of `GuardedBackend`."""
        token = self._current.set(self)
        try:
            yield
        finally:
            self._current.reset(token)

    @classmethod
    def spend(cls, size: int) -> None:
        """Count some bytes.

        Raises:
            httpcore.RemoteProtocolError: There were too many.
        """
        allowance = cls._current.get()
        if allowance is not None:
            allowance.left -= size
            if allowance.left < 0:
                message = "headers without end"
                raise httpcore.RemoteProtocolError(message)


class ClosingStream(httpcore.AsyncNetworkStream):
    """Closes its socket when a TLS handshake is cancelled, which httpcore alone does not."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read some bytes, `b""` at the end."""
        data = await self._inner.read(max_bytes, timeout)
        Allowance.spend(len(data))
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all the bytes."""
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        """Close the socket."""
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Return the same connection under TLS, verified for `server_hostname`."""
        try:
            inner = await self._inner.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:
            await self._inner.aclose()
            raise
        return ClosingStream(inner)

    def get_extra_info(self, info: str) -> object:
        """Return what httpcore asks about the connection."""
        return self._inner.get_extra_info(info)


def _refused(host: str, why: str) -> AddressRefused:
    return AddressRefused(f"The host {host[:253]!r} {why}.", host=host[:253])


def _in_turns(addresses: Sequence[IPAddress]) -> list[str]:
    # The second try goes to the other family: both seldom fail together (RFC 8305 §4).
    first = type(addresses[0])
    groups = (
        [str(address) for address in addresses if isinstance(address, first)],
        [str(address) for address in addresses if not isinstance(address, first)],
    )
    return [text for text in chain(*zip_longest(*groups)) if text is not None]


def _parse_private_hosts(entries: Iterable[str]) -> tuple[frozenset[str], list[IPNetwork]]:
    names: set[str] = set()
    networks: list[IPNetwork] = []
    for entry in entries:
        try:
            networks.append(ip_network(entry.strip("[]")))
        except ValueError as exc:
            name = entry.lower()
            if not is_host_name(name) or name.rpartition(".")[2].isdigit():
                message = (
                    f"ALLOW_PRIVATE_HOSTS has the entry {entry!r}, which is neither a host name "
                    "nor a CIDR such as 10.0.0.0/8 (no bits set after the prefix)."
                )
                raise ConfigurationError(message) from exc
            names.add(name)
    return frozenset(names), networks
