"""Addresses are dialled in turn, and sockets read so much and no more."""

from __future__ import annotations

import ssl

import httpcore
import pytest

from atproto_oauth_asgi.net import NetPolicy
from atproto_oauth_asgi.net_dns import Resolver
from atproto_oauth_asgi.net_guard import Allowance, ClosingStream, Guard, GuardedBackend
from tests.net_names import NAME, Names

pytestmark = pytest.mark.anyio


class Inner(httpcore.AsyncNetworkStream):
    """Notes how long it may take, and reads ten bytes at a time."""

    def __init__(self) -> None:
        self.seconds: list[float | None] = []
        self.closed = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self.seconds.append(timeout)
        return b"x" * min(max_bytes, 10)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.seconds.append(timeout)

    async def aclose(self) -> None:
        self.closed = True

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        assert server_hostname == NAME
        self.seconds.append(timeout)
        return self

    def get_extra_info(self, info: str) -> object:
        return info


async def test_a_socket_keeps_the_time_it_is_given() -> None:
    inner = Inner()
    stream = ClosingStream(inner)
    await stream.write(b"x", 1.0)
    await stream.read(10, 2.0)
    secured = await stream.start_tls(ssl.create_default_context(), NAME, 3.0)
    await secured.read(10, 4.0)

    assert inner.seconds == [1.0, 2.0, 3.0, 4.0]
    assert stream.get_extra_info("ssl_object") == "ssl_object"
    await secured.aclose()
    assert inner.closed


@pytest.mark.spec("P4")
async def test_what_may_be_read_may_be_read_to_the_last_byte() -> None:
    stream, allowance = ClosingStream(Inner()), Allowance()
    with allowance.in_force():
        assert await stream.read(10)
        allowance.left = 20
        assert len(await stream.read(10) + await stream.read(10)) == 20
        with pytest.raises(httpcore.RemoteProtocolError, match=r"^headers without end$"):
            await stream.read(1)
    assert await stream.read(10)


async def test_an_address_that_is_silent_gets_a_moment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dialled: list[tuple[str, float | None]] = []

    async def connect(
        _self: object, host: str, port: int, timeout: float | None = None, **_more: object
    ) -> httpcore.AsyncNetworkStream:
        dialled.append((host, timeout))
        if len(dialled) < 3:
            raise httpcore.ConnectTimeout
        return Inner()

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect)

    async def addresses(_host: str) -> list[str]:
        return ["2001:db8::1", "192.0.2.1", "2001:db8::2"]

    await GuardedBackend(addresses).connect_tcp(NAME, 443, timeout=5.0)

    # The last one may take all the time that is left.
    assert dialled == [("2001:db8::1", 1.0), ("192.0.2.1", 1.0), ("2001:db8::2", None)]


async def test_the_families_of_addresses_take_turns() -> None:
    six = ["2606:4700::1", "2606:4700::2", "2606:4700::3"]
    policy = NetPolicy(resolve_host=Names([*six, "1.1.1.1", "8.8.8.8"]))
    guard = Guard(policy, Resolver(policy))

    assert await guard.addresses(NAME) == [six[0], "1.1.1.1", six[1], "8.8.8.8", six[2]]
