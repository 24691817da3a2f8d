"""Origins and endpoint addresses that other servers name, checked before anybody opens them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import NamedTuple
from urllib.parse import urlsplit

_MAX_URL = 2048
_MAX_NAME = 253
_DEFAULT_PORTS = {"https": 443, "http": 80}
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

# `urlsplit` drops tabs and newlines and reads `\` unlike browsers: neither may get that far.
_PLAIN = re.compile(r"[!#-\[\]-~]+")
_NAME = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class Address(NamedTuple):
    """Is a checked URL, taken apart.

    `origin` is canonical: lower case, no default port, no closing slash. `rest` is what follows it.
    """

    scheme: str
    host: str
    port: int
    origin: str
    rest: str


def is_domain_name(text: str) -> bool:
    """Return whether the text is a domain name of two labels or more, in any case.

    This is the syntax of handles too (atproto: Handle Identifier Syntax): at most 253 characters,
    and a last label that starts with a letter, so that no spelling of an IPv4 address fits.
    """
    return len(text) <= _MAX_NAME and text.isascii() and _NAME.fullmatch(text.lower()) is not None


def parse_address(
    url: str, *, allow_insecure: bool = False, plain_hosts: Collection[str] = ()
) -> Address | None:
    """Take an https URL apart; None when it is not one that a server may be reached under.

    Args:
        url: What another server, or a person, gave.
        allow_insecure: Whether `http` and the name `localhost` are welcome for loopback hosts.
        plain_hosts: Host names of one label that are welcome, such as names inside a cluster.
    """
    if len(url) > _MAX_URL or _PLAIN.fullmatch(url) is None:
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    # Also refuses a user name, an empty or padded port, and junk that `urlsplit` skips round `[]`.
    if parts.netloc.lower() not in {shown, f"{shown}:{port}"} or port == 0:
        return None
    local = allow_insecure and host in _LOOPBACK
    plain = _LABEL.fullmatch(host) is not None and host in map(str.lower, plain_hosts)
    if not (local or plain or is_domain_name(host) or _is_ip(host)):
        return None
    if parts.scheme != "https" and not (local and parts.scheme == "http"):
        return None
    default = _DEFAULT_PORTS[parts.scheme]
    origin = f"{parts.scheme}://{shown}" + (f":{port}" if port and port != default else "")
    rest = url[len(parts.scheme) + 3 + len(parts.netloc) :]
    return Address(parts.scheme, host, port or default, origin, rest)


def parse_origin(
    url: str, *, allow_insecure: bool = False, plain_hosts: Collection[str] = ()
) -> str | None:
    """Return the canonical origin of a URL that has no path but `/`, or None."""
    address = parse_address(url, allow_insecure=allow_insecure, plain_hosts=plain_hosts)
    return address.origin if address is not None and address.rest in {"", "/"} else None


def _is_ip(host: str) -> bool:
    try:
        return "%" not in host and str(ipaddress.ip_address(host)) == host
    except ValueError:
        return False
