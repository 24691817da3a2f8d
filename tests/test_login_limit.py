"""Floods are bounded, and nobody is locked out by somebody elsewhere."""

from __future__ import annotations

import pytest
from starlette.requests import HTTPConnection

from atproto_oauth_asgi.errors import TooManyLogins
from atproto_oauth_asgi.login_limit import ADDRESS, IDENTIFIER, SHARED, LoginLimit

pytestmark = [pytest.mark.anyio, pytest.mark.spec("P9")]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def conn(host: str | None, *headers: tuple[bytes, bytes]) -> HTTPConnection:
    client = None if host is None else (host, 4711)
    return HTTPConnection({"type": "http", "client": client, "headers": list(headers)})


async def begun(
    limit: LoginLimit, host: str | None, identifiers: list[str], *headers: tuple[bytes, bytes]
) -> int:
    """Begin logins until one is refused; return how many were not."""
    for count, identifier in enumerate(identifiers):
        try:
            await limit(conn(host, *headers), identifier)
        except TooManyLogins:
            return count
    return len(identifiers)


def people(count: int) -> list[str]:
    return [f"person{number}.test" for number in range(count)]


async def test_one_account_from_one_address() -> None:
    clock = Clock()
    limit = LoginLimit(clock=clock)
    assert await begun(limit, "203.0.113.7", ["alice.test"] * 100) == IDENTIFIER.burst

    with pytest.raises(TooManyLogins) as caught:
        await limit(conn("203.0.113.7"), " Alice.test")
    # What it says is true: a second earlier is too early.
    clock.now += caught.value.retry_after - 1
    assert await begun(limit, "203.0.113.7", ["alice.test"]) == 0
    clock.now += 1
    assert await begun(limit, "203.0.113.7", ["alice.test"] * 9) == 1


async def test_a_stranger_elsewhere_cannot_keep_somebody_out() -> None:
    limit = LoginLimit(clock=Clock())
    for number in range(200):
        await begun(limit, f"198.51.100.{number}", ["alice.test"] * 100)
        await begun(limit, f"2001:db8:{number:x}::1", ["alice.test"] * 100)

    assert await begun(limit, "203.0.113.7", ["alice.test"] * 5) == 5
    # Nor does the flood of one account keep its own network from others.
    assert await begun(limit, "198.51.100.1", ["bob.test"]) == 1


async def test_one_address_with_many_accounts() -> None:
    clock = Clock()
    limit = LoginLimit(clock=clock)
    assert await begun(limit, "203.0.113.7", people(1000)) == ADDRESS.burst
    clock.now += ADDRESS.seconds * 5
    assert await begun(limit, "203.0.113.7", people(1000)) == 5
    # An IPv4 address is the same one inside IPv6.
    assert await begun(limit, "::ffff:203.0.113.7", people(10)) == 0
    assert await begun(limit, "203.0.113.8", people(10)) == 10


async def test_an_ipv6_household_counts_as_one_and_a_whole_site_has_a_bound_too() -> None:
    limit = LoginLimit(clock=Clock())
    one = [await begun(limit, f"2001:db8:0:1::{number:x}", ["a.test"]) for number in range(100)]
    assert sum(one) == IDENTIFIER.burst
    total = 0
    for number in range(200):
        total += await begun(limit, f"2001:db8:5:{number:x}::1", people(100))
    assert total == SHARED.burst


@pytest.mark.parametrize("proxy", ["127.0.0.1", "10.0.0.2", "::1", "fd00::1", "100.64.0.9", None])
async def test_nobody_is_locked_out_behind_a_proxy_that_hides_who_comes(proxy: str | None) -> None:
    clock = Clock()
    limit = LoginLimit(clock=clock)
    # Somebody there tries the same account again and again, another one many accounts.
    await begun(limit, proxy, ["alice.test"] * 250)
    await begun(limit, proxy, people(250))

    assert await begun(limit, proxy, ["alice.test"]) == 1
    assert await begun(limit, proxy, ["carla.test"]) == 1
    # A flood is bounded all the same.
    assert await begun(limit, proxy, people(10_000)) < SHARED.burst
    clock.now += 1
    assert await begun(limit, proxy, people(10_000)) == round(1 / SHARED.seconds)


async def test_a_header_that_anybody_can_send_changes_nothing() -> None:
    limit = LoginLimit(clock=Clock())
    total = 0
    for number in range(300):
        spoofed = f"192.0.2.{number % 250}".encode()
        total += await begun(
            limit,
            "203.0.113.7",
            people(1),
            (b"x-forwarded-for", spoofed),
            (b"forwarded", b"for=" + spoofed),
            (b"x-real-ip", spoofed),
        )
    assert total == IDENTIFIER.burst


async def test_memory_has_a_bound() -> None:
    limit = LoginLimit(size=100, clock=Clock())
    for number in range(5000):
        identifier = f"{number}" * 500
        await limit(conn(f"203.{number % 250}.{number // 250}.7"), identifier)
    assert len(limit) == 100


async def test_nothing_is_counted_of_what_is_refused() -> None:
    clock = Clock()
    limit = LoginLimit(clock=clock)
    await begun(limit, "203.0.113.7", people(1000))
    for _ in range(1000):
        await begun(limit, "203.0.113.7", ["late.test"])
    clock.now += ADDRESS.seconds
    assert await begun(limit, "203.0.113.7", ["late.test"]) == 1


@pytest.mark.parametrize("host", ["", "testclient", "unix:", "1.2.3", "fe80::1%eth0", "\x00"])
async def test_no_peer_breaks_it(host: str) -> None:
    assert await begun(LoginLimit(clock=Clock()), host, people(30)) == 30
