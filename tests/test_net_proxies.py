"""Requests go through the proxy that the settings name, and through no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trustme

from atproto_oauth_asgi.errors import AddressRefused, ConfigurationError, Unreachable
from atproto_oauth_asgi.net import NetPolicy
from tests.net_names import NAME, Names, tls_for
from tests.net_server import Server, opened, serving

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def proxy_to(server: Server) -> AsyncGenerator[Server, None]:
    """Run a CONNECT proxy that ends every tunnel at `server`."""
    pipes: set[asyncio.Task[None]] = set()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
        finally:
            writer.close()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        proxy.connections += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()
            return
        proxy.requests.append((proxy.connections, head))
        there = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        both = (
            asyncio.create_task(pipe(reader, there[1])),
            asyncio.create_task(pipe(there[0], writer)),
        )
        pipes.update(both)

    proxy = Server(b"")
    listener = await asyncio.start_server(tunnel, "127.0.0.1", 0)
    proxy.port = listener.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listener.close()
        await listener.wait_closed()
        for task in pipes:
            task.cancel()
        await asyncio.gather(*pipes, return_exceptions=True)


@pytest.mark.spec("P3")
async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as server, serving() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
            monkeypatch.setenv(name.lower(), proxy.url)
        async with opened(NetPolicy(allow_insecure_loopback=True)) as net:
            await net.get_json(server.url)
            await net.client.get(server.url)

        assert server.connections == 2
        assert proxy.connections == 0


async def test_the_egress_proxy_carries_everything_but_loopback(
    authority: trustme.CA, ca_file: str
) -> None:
    tls = tls_for(authority, NAME)
    called = 0

    async def before_send() -> None:
        nonlocal called
        called += 1
        assert len(proxy.requests) == called
        assert server.requests == []

    async with serving(tls=tls) as server, serving() as local, proxy_to(server) as proxy:
        policy = NetPolicy(
            egress_proxy=f"http://me:secret@127.0.0.1:{proxy.port}",
            resolve_host=Names(["93.184.215.14"]),
            ca_file=ca_file,
            allow_insecure_loopback=True,
        )
        async with opened(policy) as net:
            await net.post_form(f"https://{NAME}/", {"a": "b"}, before_send=before_send)
            await net.get_json(f"https://{NAME}/")
            await net.get_json(local.url)

    assert called == 1
    assert [head.split(b"\r\n")[0] for _, head in proxy.requests] == [
        b"CONNECT pds.example.com:443 HTTP/1.1"
    ] * 2
    assert all(b"Proxy-Authorization: Basic bWU6c2VjcmV0" in head for _, head in proxy.requests)
    assert b"Proxy" not in server.requests[0][1]
    assert local.connections == 1
    assert "secret" not in repr(policy)


@pytest.mark.spec("P3")
async def test_a_private_target_is_refused_before_the_tunnel() -> None:
    async with serving() as server, proxy_to(server) as proxy:
        policy = NetPolicy(
            egress_proxy=f"http://127.0.0.1:{proxy.port}",
            resolve_host=Names(["10.0.0.1"]),
        )
        async with opened(policy) as net:
            for url in (f"https://{NAME}/", "https://10.0.0.1/", "https://localhost/"):
                with pytest.raises(AddressRefused):
                    await net.get_json(url)

    assert proxy.requests == []


async def test_a_target_without_local_dns_is_left_to_the_proxy(
    authority: trustme.CA, ca_file: str
) -> None:
    async with serving(tls=tls_for(authority, NAME)) as server, proxy_to(server) as proxy:
        policy = NetPolicy(
            egress_proxy=f"http://127.0.0.1:{proxy.port}", resolve_host=Names([]), ca_file=ca_file
        )
        async with opened(policy) as net:
            assert await net.get_json(f"https://{NAME}/") == {}


async def test_a_proxy_that_refuses_leaves_the_request_unsent() -> None:
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    async with serving(refusal) as proxy:
        policy = NetPolicy(egress_proxy=proxy.url, resolve_host=Names([]))
        async with opened(policy) as net:
            with pytest.raises(Unreachable, match="EGRESS_PROXY") as caught:
                await net.post_form(f"https://{NAME}/", {})

    assert not caught.value.sent


@pytest.mark.parametrize(
    "url", ["", "proxy:3128", "socks5://proxy", "http://proxy:x", "http://", "ftp://proxy"]
)
async def test_a_proxy_that_is_no_http_url_says_which_setting(url: str) -> None:
    async with opened(NetPolicy(egress_proxy=url)) as net:
        with pytest.raises(ConfigurationError, match="EGRESS_PROXY"):
            await net.get_json(f"https://{NAME}/")
