"""Every address of a name is judged, and its certificate."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
import trustme

from atproto_oauth_asgi.errors import AddressRefused, ConfigurationError, Unreachable
from atproto_oauth_asgi.net import Net, NetPolicy
from atproto_oauth_asgi.net_dns import Resolver
from atproto_oauth_asgi.net_guard import Guard
from tests.net_names import NAME, Names, tls_for
from tests.net_server import opened, serving

pytestmark = pytest.mark.anyio


@pytest.mark.spec("P3")
@pytest.mark.parametrize(
    "addresses",
    [
        ["10.0.0.1"],
        ["127.0.0.1", "10.0.0.1"],
        ["10.0.0.1", "127.0.0.1"],
        ["127.0.0.1", "fe80::1%1"],
        ["::ffff:10.0.0.1"],
        ["127.0.0.1"] * 65,
        ["not an address"],
    ],
)
async def test_one_bad_address_refuses_the_name(addresses: list[str]) -> None:
    policy = NetPolicy(
        resolve_host=Names(addresses), allow_private_hosts=("127.0.0.0/8",), ports=None
    )
    async with serving() as server, opened(policy) as net:
        with pytest.raises(AddressRefused) as caught:
            await net.get_json(f"https://{NAME}:{server.port}/")

        assert NAME == caught.value.host
        assert server.connections == 0


@pytest.mark.spec("P3")
async def test_the_checked_address_is_dialled_without_a_second_look_up(
    authority: trustme.CA, ca_file: str
) -> None:
    names = Names(["127.0.0.1"], ["10.0.0.1"])
    policy = NetPolicy(
        resolve_host=names,
        allow_private_hosts=("127.0.0.1",),
        ports=None,
        ca_file=ca_file,
    )
    async with serving(tls=tls_for(authority, NAME)) as server, opened(policy) as net:
        assert await net.get_json(f"https://{NAME}:{server.port}/") == {}
        assert names.asked == [NAME]

        # The second answer counts for the next connection, which the other pool makes.
        with pytest.raises(AddressRefused):
            await net.post_form(f"https://{NAME}:{server.port}/", {})
        assert server.connections == 1


async def test_a_named_private_host_may_have_any_address_but_needs_its_certificate(
    authority: trustme.CA, ca_file: str
) -> None:
    names = Names(["127.0.0.1"])
    policy = NetPolicy(
        resolve_host=names, allow_private_hosts=("pds",), ports=None, ca_file=ca_file
    )
    async with serving(tls=tls_for(authority, "pds")) as server, opened(policy) as net:
        assert await net.get_json(f"https://pds:{server.port}/") == {}
        with pytest.raises(AddressRefused):
            await net.get_json(f"https://{NAME}:{server.port}/")
        with pytest.raises(AddressRefused):
            await net.get_json(f"http://pds:{server.port}/")


async def test_private_hosts_keep_the_port_rule() -> None:
    policy = NetPolicy(resolve_host=Names(["127.0.0.1"]), allow_private_hosts=("pds", "127.0.0.1"))
    async with opened(policy) as net:
        for host in ("pds", "127.0.0.1"):
            with pytest.raises(AddressRefused):
                await net.get_json(f"https://{host}:8443/")


@pytest.mark.parametrize(
    "entry", ["", "10.0.0.1/8", "*.example.com", "https://pds", "10.0.0", "X10.0.0.0/8"]
)
def test_a_private_host_that_is_neither_name_nor_network_stops_start_up(entry: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Net(NetPolicy(allow_private_hosts=(entry,)))

    assert str(caught.value) == (
        f"ALLOW_PRIVATE_HOSTS has the entry {entry!r}, which is neither a host name nor a CIDR such"
        " as 10.0.0.0/8 (no bits set after the prefix)."
    )


async def test_a_private_network_is_written_in_any_form_of_its_address() -> None:
    policy = NetPolicy(allow_private_hosts=("[fd00::1]", "10.1.0.0/16", "PDS"))
    guard = Guard(policy, Resolver(policy))

    assert await guard.addresses("fd00::1") == ["fd00::1"]
    assert await guard.addresses("10.1.2.3") == ["10.1.2.3"]
    guard.check_url(guard.parse_url("https://pds/"))
    with pytest.raises(AddressRefused):
        await guard.addresses("fd00::2")


async def test_the_next_address_is_tried_when_one_does_not_answer(
    authority: trustme.CA, ca_file: str
) -> None:
    # 127.0.0.2 is nobody's: the server listens on 127.0.0.1 alone.
    policy = NetPolicy(
        resolve_host=Names(["127.0.0.2", "127.0.0.1"]),
        allow_private_hosts=(NAME,),
        ports=None,
        ca_file=ca_file,
    )
    async with serving(tls=tls_for(authority, NAME)) as server, opened(policy) as net:
        assert await net.get_json(f"https://{NAME}:{server.port}/") == {}


async def test_names_are_looked_up_by_the_system_and_judged(
    authority: trustme.CA, ca_file: str
) -> None:
    # "localhost" is the one name that every machine resolves; here it is a name like others.
    policy = NetPolicy(allow_private_hosts=("localhost",), ports=None, ca_file=ca_file)
    async with serving(tls=tls_for(authority, "localhost")) as server, opened(policy) as net:
        assert await net.get_json(f"https://localhost:{server.port}/") == {}


async def test_a_slow_look_up_ends_with_the_deadline() -> None:
    async def never(host: str) -> Sequence[str]:
        await asyncio.Event().wait()
        raise AssertionError(host)

    async with opened(NetPolicy(resolve_host=never)) as net:
        with pytest.raises(Unreachable) as caught:
            await net.get_json(f"https://{NAME}/", deadline=0.1)

        assert not caught.value.sent


async def test_a_slow_look_up_ends_with_the_time_to_connect() -> None:
    async def never(host: str) -> Sequence[str]:
        await asyncio.Event().wait()
        raise AssertionError(host)

    async with opened(NetPolicy(resolve_host=never)) as net:
        with pytest.raises(Unreachable, match="in time") as caught:
            await net.client.get(f"https://{NAME}/", timeout=0.1)

        assert not caught.value.sent


async def test_a_name_that_does_not_resolve_is_unreachable() -> None:
    async def unknown(host: str) -> Sequence[str]:
        raise OSError(host)

    for policy in (NetPolicy(resolve_host=unknown), NetPolicy(resolve_host=Names([]))):
        async with opened(policy) as net:
            with pytest.raises(Unreachable) as caught:
                await net.get_json(f"https://{NAME}/")

            assert not caught.value.sent


# TLS


@pytest.mark.spec("P2")
async def test_a_certificate_for_another_name_is_refused(
    authority: trustme.CA, ca_file: str
) -> None:
    policy = NetPolicy(
        resolve_host=Names(["127.0.0.1"]), allow_private_hosts=(NAME,), ports=None, ca_file=ca_file
    )
    tls = tls_for(authority, "other.example.com", "127.0.0.1")
    async with serving(tls=tls) as server, opened(policy) as net:
        with pytest.raises(Unreachable, match="certificate") as caught:
            await net.post_form(f"https://{NAME}:{server.port}/", {"code": "c"})

        assert not caught.value.sent
        assert server.requests == []


@pytest.mark.spec("P2")
async def test_an_unknown_authority_is_refused(authority: trustme.CA) -> None:
    policy = NetPolicy(resolve_host=Names(["127.0.0.1"]), allow_private_hosts=(NAME,), ports=None)
    async with serving(tls=tls_for(authority, NAME)) as server, opened(policy) as net:
        with pytest.raises(Unreachable, match="certificate"):
            await net.get_json(f"https://{NAME}:{server.port}/")

        assert server.requests == []


async def test_a_stalled_handshake_ends_with_the_deadline_and_closes_the_socket() -> None:
    closed = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        closed.set()

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    policy = NetPolicy(resolve_host=Names(["127.0.0.1"]), allow_private_hosts=(NAME,), ports=None)
    async with opened(policy) as net:
        with pytest.raises(Unreachable) as caught:
            await net.get_json(f"https://{NAME}:{port}/", deadline=0.2)
        async with asyncio.timeout(5):
            await closed.wait()

    assert not caught.value.sent
    listener.close()
    await listener.wait_closed()


async def test_a_missing_ca_file_says_which_setting(tmp_path: Path) -> None:
    policy = NetPolicy(ca_file=str(tmp_path / "none.pem"), resolve_host=Names(["127.0.0.1"]))
    async with opened(policy) as net:
        with pytest.raises(ConfigurationError, match="CA_FILE"):
            await net.get_json(f"https://{NAME}/")
