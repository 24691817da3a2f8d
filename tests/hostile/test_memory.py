"""What a server can make this process hold, however much it sends."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Awaitable, Callable

import pytest

from atproto_oauth_asgi.errors import BadAnswer, FetchError
from atproto_oauth_asgi.net import Net
from tests.hostile.raw_pds import raw_pds
from tests.net_server import Respond, flooding, opened, serving

pytestmark = [pytest.mark.anyio, pytest.mark.spec("P6")]

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
WAVE = b" " * 65_536
GIGABYTE = HEAD + b"Content-Length: 1000000000\r\n\r\n"
FLOODS: dict[str, Respond] = {
    "a gigabyte": flooding(GIGABYTE, WAVE),
    "no end": flooding(HEAD + b"\r\n", WAVE),
    "chunks": flooding(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + WAVE + b"\r\n"),
    "one chunk": flooding(HEAD + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFF\r\n", WAVE),
    "an extension": flooding(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", WAVE),
    "trailers": flooding(
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: " + b"x" * 8000 + b"\r\n"
    ),
    "headers": flooding(b"HTTP/1.1 200 OK\r\n", b"X: " + b"x" * 8000 + b"\r\n"),
    "interim answers": flooding(b"", b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n" * 1000),
    "no HTTP": flooding(b"", WAVE),
    "a bomb": flooding(HEAD + b"Content-Encoding: gzip\r\n\r\n", gzip.compress(bytes(10**7))),
    "a bomb underneath": flooding(
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", gzip.compress(bytes(10**7))
    ),
}
CALLS: dict[str, Callable[[Net, str], Awaitable[object]]] = {
    "metadata": lambda net, url: net.get_json(url),
    "a handle": lambda net, url: net.get_text(url),
    "tokens": lambda net, url: net.post_form(url, {"a": "b"}),
}


async def _peak(call: Awaitable[object]) -> int:
    """Return the most bytes held while a call was made that must fail."""
    tracemalloc.start()
    try:
        with pytest.raises(FetchError):
            await call
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("call", CALLS)
async def test_an_answer_of_a_protocol_call_takes_little_memory(call: str) -> None:
    async with opened() as net:
        for name, flood in FLOODS.items():
            async with serving(flood) as server:
                # The limits are 512 KiB at most; the buffers of sockets and parsers come on top.
                assert await _peak(CALLS[call](net, server.url)) < 4 * 1024 * 1024, name


@pytest.mark.timeout(240)  # reads 32 MiB several times, traced
async def test_an_answer_of_a_pds_takes_what_it_may_and_no_more() -> None:
    async with raw_pds(b"") as pds:
        for name, flood in FLOODS.items():
            pds.server.respond = flood
            peak = await _peak(pds.session.get("/xrpc/a.b.c"))
            # 32 MiB, twice while it grows.
            assert peak < 80 * 1024 * 1024, name


async def test_deep_json_of_a_pds_is_no_object() -> None:
    for body in (b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000):
        head = HEAD + b"Content-Length: %d\r\n\r\n" % len(body)
        async with raw_pds(head + body) as pds:
            with pytest.raises(BadAnswer):
                await pds.session.query("com.atproto.server.getSession")
