"""A PDS may send any bytes, as slowly as it likes: a call of a session comes to an end."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import time
import tracemalloc
from collections.abc import AsyncGenerator
from http.cookiejar import CookieJar

import httpx
import pytest

from atproto_oauth_asgi import session, session_auth
from atproto_oauth_asgi.errors import BadAnswer, Unreachable, XRPCError
from tests.hostile.raw_pds import CHALLENGE, OK, raw_pds
from tests.net_server import Respond, dripping, flooding

pytestmark = [pytest.mark.anyio, pytest.mark.spec("P6")]

GET_SESSION = "com.atproto.server.getSession"


def first_then(first: Respond | bytes, then: bytes = OK) -> Respond:
    """Answer the first request of all connections in one way, the others in another."""
    asked = 0

    async def respond(writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        answer = first if asked == 1 else then
        if isinstance(answer, bytes):
            writer.write(answer)
            await writer.drain()
        else:
            await answer(writer)

    return respond


@pytest.mark.parametrize(
    "body",
    [
        dripping(CHALLENGE + b"Content-Length: 60000\r\n\r\n", b"x"),
        dripping(CHALLENGE + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        dripping(CHALLENGE + b"Content-Length: 60000\r\n\r\n", b""),
        CHALLENGE + b"Content-Length: 60000\r\n\r\n",
    ],
    ids=["drops", "chunks", "silence", "nothing"],
)
async def test_a_challenge_whose_body_never_ends_does_not_hold_a_call(
    body: Respond | bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_auth, "CHALLENGE_SECONDS", 0.2)
    async with raw_pds(first_then(body)) as pds, asyncio.timeout(10):
        answer = await pds.session.get(f"/xrpc/{GET_SESSION}")

        assert answer.status_code == 200
        assert len(pds.server.requests) == 2


async def test_a_primer_whose_body_never_ends_does_not_hold_an_upload(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session_auth, "CHALLENGE_SECONDS", 0.2)
    primer = dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n", b"x")

    async def chunks() -> AsyncGenerator[bytes]:
        yield b"abc"

    async with raw_pds(first_then(primer)) as pds, asyncio.timeout(10):
        answer = await pds.session.post(
            "/xrpc/com.atproto.repo.uploadBlob", content=chunks(), headers={"Content-Length": "3"}
        )

        assert answer.status_code == 200


@pytest.mark.parametrize("chunk", [b"1\r\nx\r\n", b"3;ext=1\r\nabc\r\n"], ids=["1", "3"])
async def test_a_body_in_crumbs_costs_neither_memory_nor_time(chunk: bytes) -> None:
    crumbs = flooding(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunk * 10_000)
    async with raw_pds(crumbs) as pds:
        tracemalloc.start()
        try:
            with pytest.raises(BadAnswer, match="crumbled"):
                await pds.session.get(f"/xrpc/{GET_SESSION}")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert peak < 16 * 1024 * 1024


async def test_a_large_answer_in_fair_pieces_is_read_whole() -> None:
    # A CAR file comes like this: length, CID and block are a chunk each.
    block = b"1\r\na\r\n24\r\n" + b"c" * 36 + b"\r\n40\r\n" + b"b" * 64 + b"\r\n"
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + block * 5000
    async with raw_pds(whole + b"0\r\n\r\n") as pds:
        answer = await pds.session.get("/xrpc/com.atproto.sync.getRepo")

        assert len(answer.content) == 5000 * 101


async def test_other_requests_go_on_while_crumbs_are_read() -> None:
    crumbs = flooding(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 10_000
    )
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with raw_pds(crumbs) as pds:
        read = 0
        async with pds.session.stream("GET", f"/xrpc/{GET_SESSION}") as answer:
            others = asyncio.create_task(other())
            async for chunk in answer.aiter_raw():
                read += len(chunk)
                if read >= 20_000:
                    break
            others.cancel()

        # The server, in the same loop, has turns too: some, but not every one.
        assert turns > 100


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
async def test_a_compressed_answer_is_refused_unread(encoding: str) -> None:
    bomb = gzip.compress(b"\0" * 1024 * 1024)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(bomb)}"
    async with raw_pds(head.encode() + b"\r\n\r\n" + bomb) as pds:
        with pytest.raises(BadAnswer, match="compressed"):
            await pds.session.get(f"/xrpc/{GET_SESSION}")
        with pytest.raises(BadAnswer, match="compressed"):
            await pds.session.get(f"/xrpc/{GET_SESSION}", headers={"Accept-Encoding": encoding})


async def test_a_challenge_is_no_bomb_for_a_client_that_takes_compressed_answers() -> None:
    bomb = gzip.compress(b"\0" * 32 * 1024 * 1024)
    assert len(bomb) < 65_536
    head = CHALLENGE + f"Content-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n".encode()
    async with (
        raw_pds(first_then(head + bomb)) as pds,
        httpx.AsyncClient(auth=pds.session.auth) as client,
    ):
        tracemalloc.start()
        try:
            answer = await client.get(pds.server.url + "/xrpc/x.y.z")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert answer.status_code == 200
        assert peak < 8 * 1024 * 1024


@pytest.mark.spec("P8")
async def test_a_pds_that_repeats_what_it_was_sent_puts_no_secret_into_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[str] = []

    async def echo(writer: asyncio.StreamWriter) -> None:
        head = pds.server.requests[-1][1].decode()
        pairs = (line.partition(": ") for line in head.split("\r\n"))
        lines = {name.lower(): value for name, _, value in pairs}
        said.extend((lines["authorization"].split()[1], lines["dpop"]))
        body = json.dumps({"error": f"No {lines['dpop']}", "message": f"Bad\n{head}"}).encode()
        writer.write(b"HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()

    async with raw_pds(echo) as pds:
        with pytest.raises(XRPCError) as caught:
            await pds.session.query(GET_SESSION)

    assert len(said) == 2
    assert said[0] == pds.access_token
    error = caught.value
    for secret in said:
        assert (
            secret not in f"{error} {error!r} {error.detail} {error.server_message} {error.error}"
        )
        assert secret not in caplog.text
    assert "\n" not in str(error)


@pytest.mark.spec("P8")
async def test_an_answer_that_is_no_http_puts_no_secret_into_an_error() -> None:
    async def echo(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + pds.access_token.encode() + b"\r\n\r\n")
        await writer.drain()

    async with raw_pds(echo) as pds:
        with pytest.raises(BadAnswer) as caught:
            await pds.session.get(f"/xrpc/{GET_SESSION}")

    error: BaseException | None = caught.value
    while error is not None:
        assert pds.access_token not in f"{error} {error!r}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@pytest.mark.parametrize(
    "flood",
    [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"],
    ids=["100", "103"],
)
async def test_interim_answers_without_end_are_refused_soon(flood: bytes) -> None:
    async with raw_pds(flooding(b"", flood * 1000)) as pds:
        started = time.process_time()
        with pytest.raises(BadAnswer):
            await pds.session.get(f"/xrpc/{GET_SESSION}")

        assert time.process_time() - started < 5


async def test_some_interim_answers_are_borne() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    async with raw_pds(interim * 20 + OK) as pds:
        assert (await pds.session.get(f"/xrpc/{GET_SESSION}")).status_code == 200


async def test_an_answer_that_streams_for_ever_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "ANSWER_DEADLINE", 0.3)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
    async with raw_pds(dripping(head, b" ")) as pds:
        with pytest.raises(Unreachable, match="did not end"):
            await pds.session.get(f"/xrpc/{GET_SESSION}")


@pytest.mark.parametrize(
    "location",
    [
        "mailto:x",
        "javascript:alert(1)",
        "https:x",
        "https:///x",
        "https://xn--/",
        "https://xn--a\xc3\xbc.de/",
        "https://[v1.x]/",
        "http://[::1",
        "https://:80",
        "?\x7f",
        "/" * 66_000,
    ],
)
async def test_a_redirect_to_what_is_no_address_is_a_bad_answer(location: str) -> None:
    head = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    async with raw_pds(head.encode("latin-1")) as pds:
        for call in (
            pds.session.get(f"/xrpc/{GET_SESSION}"),
            pds.session.query(GET_SESSION),
            pds.session.procedure(GET_SESSION),
        ):
            with pytest.raises(BadAnswer, match="redirects to what is no address"):
                await call


@pytest.mark.parametrize(
    "location",
    ["/x", "?x", "//pds.example", "http://10.0.0.1/", "https://b\xfc.example/", "https://a:99999/"],
)
async def test_a_redirect_is_an_answer(location: str) -> None:
    head = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    async with raw_pds(head.encode("latin-1")) as pds:
        assert (await pds.session.get(f"/xrpc/{GET_SESSION}")).status_code == 302


async def test_cookies_are_not_even_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError("cookies were read")

    cookies = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nSet-Cookie2: " + b'a="' * 9000
    async with raw_pds(cookies + b"\r\nContent-Length: 2\r\n\r\n{}") as pds:
        monkeypatch.setattr(CookieJar, "make_cookies", read)
        monkeypatch.setattr(CookieJar, "_cookies_for_request", read)
        for _ in range(2):
            assert (await pds.session.get(f"/xrpc/{GET_SESSION}")).status_code == 200
        assert all(b"\r\ncookie" not in sent.lower() for _, sent in pds.server.requests)
