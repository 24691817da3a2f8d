from __future__ import annotations

import asyncio
import logging
from math import inf
from urllib.parse import parse_qsl

import httpx
import pytest

from atproto_oauth_asgi.errors import BadAnswer, Unreachable
from atproto_oauth_asgi.net import Answer
from tests.net_server import JSON, dripping, opened, serving

pytestmark = pytest.mark.anyio


HINTS = dripping(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n")


async def test_a_form_is_posted_as_given() -> None:
    form = {"grant_type": "authorization_code", "code": "a b&c=d%\u00e9+\n"}
    async with serving() as server, opened() as net:
        answer = await net.post_form(server.url, form, headers={"DPoP": "proof"})

        head, _, body = server.requests[0][1].partition(b"\r\n\r\n")
        assert list(form.items()) == parse_qsl(body.decode())
        assert b"\r\nContent-Type: application/x-www-form-urlencoded" in head
        assert b"\r\nDPoP: proof" in head
        assert (answer.status, answer.body, answer.json()) == (200, b"{}", {})
        assert answer.headers["CONTENT-TYPE"] == "application/json"


@pytest.mark.spec("P5")
@pytest.mark.parametrize("status", ["302 Found", "307 Moved", "308 Moved", "400 No", "503 Down"])
async def test_a_post_is_never_redirected_or_repeated(status: str) -> None:
    headers = "Location: /x\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"
    async with serving(f"HTTP/1.1 {status}\r\n{headers}".encode()) as server, opened() as net:
        answer = await net.post_form(server.url, {})

        assert int(status[:3]) == answer.status
        assert len(server.requests) == 1


async def test_a_dropped_post_is_not_repeated() -> None:
    async def drop(writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with serving(drop) as server, opened() as net:
        with pytest.raises(Unreachable) as caught:
            await net.post_form(server.url, {})

        assert caught.value.sent
        assert len(server.requests) == 1


async def test_a_connection_idle_for_too_long_is_not_used() -> None:
    async with serving() as server, opened(idle_seconds=0.05) as net:
        await net.post_form(server.url, {})
        await asyncio.sleep(0.1)
        await net.post_form(server.url, {})

        assert [number for number, _ in server.requests] == [1, 2]


async def test_a_fresh_connection_is_used_again() -> None:
    async with serving() as server, opened() as net:
        await net.post_form(server.url, {})
        await net.post_form(server.url, {})

        assert [number for number, _ in server.requests] == [1, 1]


async def test_a_connection_the_server_closed_is_not_used() -> None:
    async def once(writer: asyncio.StreamWriter) -> None:
        writer.write(JSON)
        writer.close()

    async with serving(once) as server, opened() as net:
        for _ in range(3):
            await net.post_form(server.url, {})
            async with asyncio.timeout(5):
                await server.closed.wait()
            server.closed.clear()

        assert len(server.requests) == 3


async def test_before_send_is_awaited_once_with_the_connection_up_and_nothing_sent() -> None:
    seen: list[tuple[int, int]] = []

    async def before_send() -> None:
        async with asyncio.timeout(5):
            await server.accepted.wait()
        seen.append((server.connections, len(server.requests)))

    async with serving() as server, opened() as net:
        await net.post_form(server.url, {}, before_send=before_send)
        server.accepted.clear()
        await net.post_form(server.url, {}, before_send=before_send)

    # Each has a connection of its own.
    assert seen == [(1, 0), (2, 1)]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("no mark"),
        TimeoutError("database"),
        OSError("database"),
        Unreachable("other"),
        asyncio.CancelledError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_before_send_raises_is_passed_on_and_nothing_is_sent(
    error: BaseException,
) -> None:
    async def before_send() -> None:
        raise error

    async with serving() as server, opened() as net:
        with pytest.raises(type(error)) as caught:
            await net.post_form(server.url, {"refresh_token": "r"}, before_send=before_send)
        async with asyncio.timeout(5):
            await server.closed.wait()

        assert error is caught.value
        assert server.requests == []


async def test_before_send_is_not_awaited_without_a_connection() -> None:
    async def before_send() -> None:
        raise AssertionError

    async with serving() as server:
        url = server.url
    async with opened() as net:
        with pytest.raises(Unreachable) as caught:
            await net.post_form(url, {}, before_send=before_send)

        assert not caught.value.sent


async def test_before_send_spends_the_deadline() -> None:
    async def before_send() -> None:
        await asyncio.Event().wait()

    async with serving() as server, opened() as net:
        with pytest.raises(Unreachable) as caught:
            await net.post_form(server.url, {}, deadline=0.1, before_send=before_send)

        assert not caught.value.sent
        assert server.requests == []


async def test_a_post_without_answer_says_that_it_was_sent() -> None:
    async with serving(HINTS) as server, opened() as net:
        with pytest.raises(Unreachable) as caught:
            await net.post_form(server.url, {}, deadline=0.2)

        # Connecting is part of the deadline, and may take all of it.
        assert caught.value.sent or not server.asked.is_set()


async def test_cancelling_a_call_closes_its_socket() -> None:
    async with serving(HINTS) as server, opened() as net:
        for call in (lambda: net.post_form(server.url, {}), lambda: net.client.get(server.url)):
            task = asyncio.ensure_future(call())
            async with asyncio.timeout(5):
                await server.asked.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await server.closed.wait()
            server.asked.clear()
            server.closed.clear()


async def test_cancelling_a_streamed_pds_call_closes_its_socket() -> None:
    started = asyncio.Event()

    async def read() -> None:
        async with net.client.stream("GET", server.url) as response:
            async for _ in response.aiter_bytes():
                started.set()

    forever = dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n")
    async with serving(forever) as server, opened() as net:
        task = asyncio.create_task(read())
        async with asyncio.timeout(5):
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.closed.wait()


async def test_a_pds_call_streams_before_the_answer_is_complete() -> None:
    more = asyncio.Event()

    async def halves(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
        await more.wait()
        writer.write(b"b")

    async with (
        serving(halves) as server,
        opened() as net,
        net.client.stream("GET", server.url) as response,
    ):
        chunks = response.aiter_bytes()
        assert await anext(chunks) == b"a"
        more.set()
        assert await anext(chunks) == b"b"


async def test_a_call_may_be_traced_as_with_httpx() -> None:
    events: list[str] = []

    async def trace(event: str, info: object) -> None:
        events.append(event)

    async with serving() as server, opened() as net:
        await net.client.get(server.url, extensions={"trace": trace})

    assert "http11.send_request_headers.started" in events


async def test_the_caller_may_keep_the_time() -> None:
    async with serving() as server, opened() as net:
        answer = await net.post_form(server.url, {}, deadline=inf)

        assert answer.status == 200


async def test_a_stream_that_breaks_is_unreachable() -> None:
    async def half(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
        writer.close()

    async with serving(half) as server, opened() as net:
        with pytest.raises(Unreachable) as caught:
            await net.client.get(server.url)

        assert caught.value.sent


async def test_pds_calls_follow_no_redirect_and_keep_no_cookie() -> None:
    raw = (
        b"HTTP/1.1 302 Found\r\nLocation: /next\r\nSet-Cookie: a=b; Path=/\r\n"
        b"Content-Length: 0\r\n\r\n"
    )
    async with serving(raw) as server, opened() as net:
        first = await net.client.get(server.url)
        await net.client.get(server.url)

        assert first.status_code == 302
        assert [b"ookie" in request for _, request in server.requests] == [False, False]


@pytest.mark.spec("P8")
async def test_no_secret_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "s3cr3t"
    errors: list[BaseException] = []
    async with serving(JSON[:-2] + b"{" + secret.encode()) as server, opened() as net:
        answer = await net.post_form(
            server.url, {"code": secret}, headers={"DPoP": secret, "Authorization": secret}
        )
        with pytest.raises(BadAnswer) as bad:
            Answer(status=200, headers=httpx.Headers({"a": secret}), body=secret.encode()).json()
        with pytest.raises(Unreachable) as unsent:
            await net.post_form(server.url, {}, headers={"DPoP": f"{secret}\r\nX: y"})
        errors += [bad.value, unsent.value]

    assert secret not in repr(answer)
    assert secret not in caplog.text
    assert not unsent.value.sent
    for error in errors:
        assert secret not in f"{error} {error!r} {error.__cause__!r}"
        assert error.__context__ is None or error.__suppress_context__
