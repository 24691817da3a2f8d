"""Which hosts and addresses are public.

`ipaddress` does not know: `is_global` is true for multicast, for 6to4 and for NAT64 addresses
that carry a loopback address inside, and its answers changed between Python releases. So the
tables are our own (RFC 6890 and the IANA special-purpose registries).
"""

from __future__ import annotations

import re
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from typing import TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address
IPNetwork: TypeAlias = IPv4Network | IPv6Network

_REFUSED_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
# Everything outside 2000::/3 is special; these parts of it are special too.
_UNICAST_V6 = IPv6Network("2000::/3")
_REFUSED_V6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")

# IANA special-use names that are never on the public internet (RFC 6761, 6762, 7686, 9476).
_SPECIAL_TLDS = frozenset({"alt", "arpa", "internal", "invalid", "local", "localhost", "onion"})
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_MAX_NAME = 253
# What inet_aton and browsers take for a part of an IPv4 address.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def unmapped(address: IPAddress) -> IPAddress:
    """Return the IPv4 address inside an IPv4-mapped IPv6 address, else the address itself."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_public(address: IPAddress) -> bool:
    """Tell whether an address is a unicast address of the public internet.

    IPv4-mapped addresses and those of the well-known NAT64 prefix (RFC 6052 §2.1) are judged by
    the IPv4 address inside.
    """
    address = unmapped(address)
    if isinstance(address, IPv6Address) and address in _NAT64:
        address = IPv4Address(int(address) & 0xFFFF_FFFF)
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _REFUSED_V4)
    if address.scope_id is not None or address not in _UNICAST_V6:
        return False
    return not any(address in network for network in _REFUSED_V6)


def parse_literal(host: str) -> IPAddress | None:
    """Return the address that a URL host spells, `None` when the host is a name.

    Only dotted quads and plain IPv6 (without brackets and zone) are addresses. Short, decimal,
    octal and hexadecimal IPv4 forms, which some resolvers would expand, raise.

    Raises:
        ValueError: The host is an address in a form that is not accepted.
    """
    if ":" in host:
        address = ip_address(host)
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            message = "has a zone"
            raise ValueError(message)
        return address
    if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2].lower()):
        return IPv4Address(host)
    return None


def is_host_name(host: str) -> bool:
    """Tell whether a text is a lower-case ASCII host name without trailing dot (RFC 1123 §2.1)."""
    return len(host) <= _MAX_NAME and all(_LABEL.fullmatch(label) for label in host.split("."))


def is_public_name(host: str) -> bool:
    """Tell whether a host name has the form of one on the public internet.

    Single labels and special-use names (`localhost`, `*.local`, `*.internal`, …) have not.
    """
    labels = host.split(".")
    return is_host_name(host) and len(labels) > 1 and labels[-1] not in _SPECIAL_TLDS
