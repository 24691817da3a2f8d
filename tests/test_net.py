from __future__ import annotations

import asyncio
import gzip

import pytest

from atproto_oauth_asgi.errors import AddressRefused, BadAnswer, Unreachable
from tests.net_server import dripping, flooding, opened, serving

pytestmark = pytest.mark.anyio


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def json_answer(body: bytes, status: str = "200 OK") -> bytes:
    return answer(body, status, "Content-Type: application/json")


# get_json


@pytest.mark.spec("B1", "B6", "P5", "P7")
@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (json_answer(b"{}", "201 Created"), 201),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        (json_answer(b"{}", "404 Not Found"), 404),
        (json_answer(b"{}", "500 Oops"), 500),
        *(
            (answer(b"{}", f"{code} Moved", "Location: /", "Content-Type: application/json"), code)
            for code in (301, 302, 303, 307, 308)
        ),
        (answer(b"{}"), 200),
        (answer(b"{}", "200 OK", "Content-Type: text/html"), 200),
        (answer(b"{}", "200 OK", "Content-Type: application/jsonx"), 200),
        (answer(b"{}", "200 OK", *["Content-Type: application/json"] * 2), 200),
        (json_answer(b"[]"), 200),
        (json_answer(b'"{}"'), 200),
        (json_answer(b"null"), 200),
        (json_answer(b""), 200),
        (json_answer(b"{} {}"), 200),
        (json_answer(b'{"a": NaN}'), 200),
        (json_answer(b'{"a": -Infinity}'), 200),
        (json_answer(b'{"a": 1e999}'), 200),
        (json_answer(b'{"a": %s}' % (b"9" * 5000)), 200),
        (json_answer(b'{"a": "\\ud800"}'), 200),
        (json_answer(b'{"a": "\xff"}'), 200),
        (json_answer('{"a": 1}'.encode("utf-16")), 200),
        (json_answer(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"), 200),
    ],
)
async def test_get_json_wants_exactly_a_json_object(raw: bytes, status: int) -> None:
    async with serving(raw) as server, opened() as net:
        with pytest.raises(BadAnswer) as caught:
            await net.get_json(server.url)

        assert status == caught.value.http_status
        assert caught.value.host == "127.0.0.1"
        assert len(server.requests) == 1


async def test_get_json_takes_the_types_it_is_told() -> None:
    raw = answer(
        b'{"a": "\\u00e9", "b": 1.5}', "200 OK", "content-type: Application/DID+ld+JSON; a=b"
    )
    types = ("application/did+ld+json", "application/json")
    async with serving(raw) as server, opened() as net:
        assert await net.get_json(server.url, content_types=types) == {"a": "é", "b": 1.5}

        request = server.requests[0][1]
        assert b"\r\nAccept: application/did+ld+json, application/json\r\n" in request
        assert b"\r\nAccept-Encoding: identity\r\n" in request
        assert b"\r\nUser-Agent: atproto-oauth-asgi/0.1.0\r\n" in request


@pytest.mark.spec("P6")
async def test_a_compressed_answer_is_refused_unread() -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    raw = answer(bomb, "200 OK", "Content-Type: application/json", "Content-Encoding: gzip")
    async with serving(raw) as server, opened() as net:
        for call in (net.get_json, net.get_text, net.client.get):
            with pytest.raises(BadAnswer, match="compressed") as caught:
                await call(server.url)
            assert caught.value.http_status == 200
        with pytest.raises(BadAnswer, match="compressed"):
            await net.post_form(server.url, {})


async def test_a_pds_call_may_ask_for_compression_by_itself() -> None:
    raw = answer(gzip.compress(b"hello"), "200 OK", "Content-Encoding: gzip")
    async with serving(raw) as server, opened() as net:
        response = await net.client.get(server.url, headers={"Accept-Encoding": "gzip"})

        assert response.text == "hello"


@pytest.mark.spec("P6")
@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 1000000000\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"Connection: close\r\n\r\n",
    ],
)
async def test_a_huge_body_is_cut_off(head: bytes) -> None:
    start = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + head
    flood = flooding(start, b"1000\r\n" + b" " * 4096 + b"\r\n")
    async with serving(flood) as server, opened() as net:
        with pytest.raises(BadAnswer, match="larger") as caught:
            await net.get_json(server.url)
        assert caught.value.http_status == 200
        async with asyncio.timeout(5):
            await server.closed.wait()


@pytest.mark.spec("P6")
async def test_a_body_in_crumbs_is_cut_off() -> None:
    start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    raw = start + b"1\r\nx\r\n" * 4000 + b"0\r\n\r\n"
    async with serving(raw) as server, opened() as net:
        with pytest.raises(BadAnswer, match="crumbled"):
            await net.get_text(server.url)


async def test_a_body_of_just_the_limit_is_read() -> None:
    async with serving(answer(b"x" * 100)) as server, opened() as net:
        assert await net.get_text(server.url, limit=100) == "x" * 100
        with pytest.raises(BadAnswer):
            await net.get_text(server.url, limit=99)


@pytest.mark.spec("P6")
@pytest.mark.parametrize(
    ("head", "wave"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-Header: value\r\n" * 100),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 1000),
        (b"", b"x" * 1000),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x" * 1000),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 100),
    ],
)
async def test_endless_headers_are_cut_off(head: bytes, wave: bytes) -> None:
    async with serving(flooding(head, wave)) as server, opened() as net:
        with pytest.raises(BadAnswer):
            await net.get_json(server.url)
        async with asyncio.timeout(5):
            await server.closed.wait()


@pytest.mark.spec("P6")
@pytest.mark.parametrize(
    ("head", "drop"),
    [
        (b"", b""),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b" "),
    ],
)
async def test_a_slow_answer_ends_with_the_deadline(head: bytes, drop: bytes) -> None:
    async with serving(dripping(head, drop)) as server, opened() as net:
        for call in (net.get_json, net.get_text):
            with pytest.raises(Unreachable, match="within") as caught:
                await call(server.url, deadline=0.2)
            # Connecting is part of the deadline, and may take all of it.
            assert caught.value.sent or not server.asked.is_set()
            server.asked.clear()


async def test_headers_that_drip_do_not_hold_a_pds_call() -> None:
    hints = dripping(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n")
    async with serving(hints) as server, opened() as net:
        with pytest.raises(Unreachable) as caught:
            await net.client.get(server.url, timeout=0.2)

        assert caught.value.sent or not server.asked.is_set()


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"", Unreachable),
        (b"HTTP/1.1 200", Unreachable),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", Unreachable),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf", Unreachable),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", BadAnswer),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", BadAnswer),
    ],
)
async def test_a_broken_answer_is_told_from_a_broken_connection(
    raw: bytes, kind: type[Unreachable | BadAnswer]
) -> None:
    async def respond(writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        writer.close()

    async with serving(respond) as server, opened() as net:
        with pytest.raises(kind) as caught:
            await net.post_form(server.url, {})

        assert not isinstance(caught.value, Unreachable) or caught.value.sent


@pytest.mark.spec("P3")
@pytest.mark.parametrize("location", ["https:////]", "https://[", "//[::1", "https://a:b/"])
async def test_a_location_that_cannot_be_read_is_no_address(location: str) -> None:
    raw = answer(b"", "302 Found", f"Location: {location}")
    async with serving(raw) as server, opened() as net:
        with pytest.raises((BadAnswer, AddressRefused)):
            await net.get_text(f"{server.url}/.well-known/atproto-did")


async def test_nobody_listening_is_unreachable_and_nothing_was_sent() -> None:
    async with serving() as server:
        url = server.url
    async with opened() as net:
        with pytest.raises(Unreachable) as caught:
            await net.post_form(url, {})

        assert not caught.value.sent
