"""A target that reads whole HTTP answers, byte by byte as a server wrote them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import cast
from unittest.mock import patch

import httpcore
import httpx

from atproto_oauth_asgi import net_transport
from atproto_oauth_asgi.errors import BadAnswer, FetchError, Unreachable
from atproto_oauth_asgi.net import Net, NetPolicy
from tests.fuzz.target import target

_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Bytes(httpcore.AsyncNetworkBackend):
    """Stands in for sockets: every connection says the same, in pieces, then ends."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        middle = len(self._data) // 2
        pieces = [self._data[:middle], self._data[middle:]]
        return cast(
            "httpcore.AsyncNetworkStream",
            httpcore.AsyncMockStream([piece for piece in pieces if piece]),
        )


async def _ask(data: bytes) -> None:
    net = Net(NetPolicy(allow_insecure_loopback=True))

    def connect(_: object) -> Bytes:
        return Bytes(data)

    with patch.object(net_transport, "GuardedBackend", connect):
        try:
            await _calls(net)
        finally:
            await net.aclose()


async def _calls(net: Net) -> None:
    url = "http://127.0.0.1/"
    try:
        assert isinstance(await net.get_json(url, limit=1000), dict)
    except (BadAnswer, Unreachable) as exc:
        assert len(str(exc)) < 300
    try:
        assert len((await net.get_text(url, limit=1000)).encode()) <= 1000
    except FetchError as exc:
        assert len(str(exc)) < 600
    try:
        answer = await net.post_form(url, {"a": "b"}, limit=1000)
        assert len(answer.body) <= 1000
    except (BadAnswer, Unreachable) as exc:
        assert len(str(exc)) < 300
    try:
        async with net.client.stream("GET", url) as response:
            async for _ in response.aiter_raw():
                pass
    except (BadAnswer, Unreachable, httpx.StreamError) as exc:
        assert len(str(exc)) < 300


@target(
    _OK, b"HTTP/1.1 302 Found\r\nLocation: https://10.0.0.1/\r\n\r\n", b"<html>",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + _OK, b"HTTP/1.1 101 X\r\nUpgrade: x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.0 204 No\r\n\r\n", b"HTTP/1.1 307 X\r\nlocation: //\xe4\r\n\r\n",
)  # fmt: skip
def http_answer(data: bytes) -> None:
    asyncio.run(_ask(data))
