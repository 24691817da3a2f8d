"""How often logins may be begun: what keeps this server from being used to bother others.

A login makes requests to servers that a stranger names, and a row in the store. Nobody's password
can be guessed here, so the limit is about floods, and it must never lock out who it protects.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from starlette.requests import HTTPConnection

from atproto_oauth_asgi.addresses import unmapped
from atproto_oauth_asgi.errors import TooManyLogins

LimitLogins = Callable[[HTTPConnection, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Rate:
    """So many at once, and one more each so many seconds."""

    burst: int
    seconds: float


#: Where proxies and networks behind one address live (RFC 1918, 4193, 6598 and local ones).
_LOCAL = tuple(
    ip_network(text)
    for text in (
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    )
)
#: One account from one address: typing it again a few times is normal.
IDENTIFIER = Rate(10, 20.0)
#: One public address, which may be a school's or a mobile network's.
ADDRESS = Rate(60, 1.0)
#: An address that many share for certain, such as a proxy's, or the /48 of a whole IPv6 site.
SHARED = Rate(600, 0.1)


class LoginLimit:
    """Limits the logins that one address may begin, in this process.

    The address is `conn.client`, as the ASGI server tells it: its own proxy settings decide whose
    that is (uvicorn: `--proxy-headers --forwarded-allow-ips`), `X-Forwarded-For` is not looked at
    here. A peer that is not on the public internet is a proxy, so everybody comes from there: it
    gets a bound that only a flood reaches. An account is only ever counted together with a public
    address: trying somebody's handle often does not keep them out.

    Args:
        size: Addresses and accounts kept in mind; the one seen longest ago is forgotten first.
        clock: A monotonic clock in seconds.
    """

    def __init__(self, *, size: int = 20_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._clock = clock
        self._lock = threading.Lock()
        # When each would be idle again if nothing more came: the generic cell rate algorithm.
        self._idle_at: OrderedDict[Hashable, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._idle_at)

    async def __call__(self, conn: HTTPConnection, identifier: str) -> None:
        """Count one login.

        Raises:
            TooManyLogins: one of the limits is reached; nothing was counted.
        """
        host = conn.client.host if conn.client else ""
        limits = _limits(host, identifier.strip().lower())
        with self._lock:
            wait = self._count(limits)
        if wait > 0:
            msg = f"Too many logins were begun from {host[:50]!r}; try again in {wait} seconds."
            raise TooManyLogins(msg, retry_after=wait)

    def _count(self, limits: list[tuple[Hashable, Rate]]) -> int:
        """Return how many seconds too early this is; count it if it is not."""
        now = self._clock()
        wait = max(self._wait(key, rate, now) for key, rate in limits)
        if wait > 0:
            return math.ceil(wait)
        for key, rate in limits:
            self._idle_at[key] = max(now, self._idle_at.get(key, now)) + rate.seconds
            self._idle_at.move_to_end(key)
        while len(self._idle_at) > self._size:
            self._idle_at.popitem(last=False)
        return 0

    def _wait(self, key: Hashable, rate: Rate, now: float) -> float:
        backlog = self._idle_at.get(key, now) - now
        return backlog - (rate.burst - 1) * rate.seconds


def _limits(host: str, identifier: str) -> list[tuple[Hashable, Rate]]:
    try:
        address = unmapped(ip_address(host.partition("%")[0]))
    except ValueError:
        # A UNIX socket, or a test: whoever is there stands for everybody.
        return [("", SHARED)]
    if any(address in network for network in _LOCAL):
        return [(address, SHARED)]
    if isinstance(address, IPv4Address):
        return [(address, ADDRESS), ((address, hash(identifier)), IDENTIFIER)]
    # One household or machine has a /64 to itself; one customer often a /48.
    home, site = _prefix(address, 64), _prefix(address, 48)
    return [(home, ADDRESS), (site, SHARED), ((home, hash(identifier)), IDENTIFIER)]


def _prefix(address: IPv6Address, length: int) -> tuple[int, int]:
    return length, int(address) >> (128 - length)
