from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import cast

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from atproto_oauth_asgi.errors import Unreachable
from atproto_oauth_asgi.net import NetPolicy
from atproto_oauth_asgi.net_dns import Resolver
from tests.net_server import opened

pytestmark = pytest.mark.anyio


class NameServer(asyncio.DatagramProtocol):
    """Answers TXT questions from a table of record texts, or with an error code, or not at all."""

    records: dict[str, list[str] | dns.rcode.Rcode | None]

    def __init__(self) -> None:
        self.records = {}
        self.asked: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        query = dns.message.from_wire(data)
        name = query.question[0].name.to_text()
        self.asked.append(name)
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        found = self.records.get(name, dns.rcode.NXDOMAIN)
        if found is None:
            return
        if isinstance(found, dns.rcode.Rcode):
            answer.set_rcode(found)
        elif found:
            answer.answer.append(dns.rrset.from_text_list(name, 60, "IN", "TXT", found))
        self.transport.sendto(answer.to_wire(), addr)


@asynccontextmanager
async def name_server() -> AsyncGenerator[tuple[NameServer, Resolver], None]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    dnspython = dns.asyncresolver.Resolver(configure=False)
    dnspython.nameservers = ["127.0.0.1"]
    dnspython.port = transport.get_extra_info("sockname")[1]
    resolver = Resolver(NetPolicy())
    resolver._dns = dnspython  # pyright: ignore[reportPrivateUsage]
    try:
        yield server, resolver
    finally:
        await resolver.aclose()
        transport.close()


@pytest.mark.spec("A5")
async def test_txt_records_are_read_and_their_strings_joined() -> None:
    async with name_server() as (server, resolver):
        server.records["_atproto.example.com."] = ['"did=did:plc:" "abc"', '"v=spf1"']

        found = await resolver.txt("_atproto.example.com", deadline=5)

        assert [b"did=did:plc:abc", b"v=spf1"] == sorted(found)
        assert server.asked == ["_atproto.example.com."]


async def test_no_such_name_and_no_such_record_are_both_nothing() -> None:
    async with name_server() as (server, resolver):
        server.records["none.example.com."] = []

        assert await resolver.txt("none.example.com", deadline=5) == []
        assert await resolver.txt("missing.example.com", deadline=5) == []


async def test_a_failing_or_silent_name_server_is_unreachable() -> None:
    async with name_server() as (server, resolver):
        server.records["broken.example.com."] = dns.rcode.SERVFAIL
        server.records["silent.example.com."] = None

        for name in ("broken.example.com", "silent.example.com"):
            with pytest.raises(Unreachable) as caught:
                await resolver.txt(name, deadline=0.3)
            assert name == caught.value.host


@pytest.mark.parametrize("name", ["a..b", "a" * 64 + ".com", ".".join(["a" * 60] * 5)])
async def test_what_is_no_name_is_unreachable(name: str) -> None:
    async with name_server() as (server, resolver):
        with pytest.raises(Unreachable):
            await resolver.txt(name, deadline=0.3)

        assert server.asked == []


async def test_a_policy_can_replace_the_look_up() -> None:
    async def look_up(name: str) -> Sequence[bytes]:
        if name == "slow":
            await asyncio.Event().wait()
        return (name.encode(),)

    async with opened(NetPolicy(resolve_txt=look_up)) as net:
        assert await net.txt("_atproto.a.test") == [b"_atproto.a.test"]
        with pytest.raises(Unreachable):
            await net.txt("slow", deadline=0.05)
