"""Whatever cancels a request, in whatever moment: its connection finds back to the pool."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import gc
import random
import threading
from contextlib import AsyncExitStack
from typing import Any

import httpcore
import httpx
import pytest

from atproto_oauth_asgi import net, net_pool
from atproto_oauth_asgi.net import Net, NetPolicy
from atproto_oauth_asgi.net_pool import Pool, to_its_end
from atproto_oauth_asgi.net_transport import GuardedTransport
from tests.net_names import Names
from tests.net_server import JSON, opened, serving

pytestmark = [pytest.mark.anyio, pytest.mark.spec("P6")]

MOMENTS = [
    "connection.connect_tcp.started",
    "connection.connect_tcp.complete",
    "http11.send_request_headers.started",
    "http11.send_request_body.complete",
    "http11.receive_response_headers.started",
    "http11.receive_response_headers.complete",
    "http11.receive_response_body.started",
    "http11.response_closed.started",
    "http11.response_closed.complete",
]


async def is_empty(client: httpx.AsyncClient) -> None:
    """Wait until nothing of the transport is in use."""
    transport = client._transport
    assert isinstance(transport, GuardedTransport)
    pool = transport._direct or transport._proxied
    assert pool is not None
    async with asyncio.timeout(5):
        while pool._requests or any(not one.is_idle() for one in pool.connections):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert not transport._shares._taken


@pytest.mark.parametrize("later", [0, 1, 2])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_place_is_free_again_in_whatever_moment_a_request_is_cancelled(
    moment: str, later: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(net, "_MAX_CONNECTIONS", 2)

    async def call(client: httpx.AsyncClient, url: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()

        async def trace(event: str, _: object) -> None:
            if event == moment:
                later_on(later)

        def later_on(rounds: int) -> None:
            loop.call_soon(later_on, rounds - 1) if rounds else task.cancel()

        await client.get(url, extensions={"trace": trace})

    async with serving() as server, opened() as way, asyncio.timeout(20):
        for _ in range(4):
            await asyncio.wait({asyncio.create_task(call(way.client, f"{server.url}/"))})
        await is_empty(way.client)
        assert (await way.client.get(f"{server.url}/")).status_code == 200


@pytest.mark.parametrize("how", ["whole", "streamed"])
async def test_a_body_that_is_cancelled_twice_costs_no_place(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(net, "_MAX_CONNECTIONS", 2)

    async def respond(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(1000):
            writer.write(b"x" * 10)
            await writer.drain()
            await asyncio.sleep(0)

    async def call(client: httpx.AsyncClient, url: str) -> None:
        if how == "whole":
            await client.get(url)
            return
        async with client.stream("GET", url) as answer:
            async for _ in answer.aiter_raw():
                pass

    async with serving(respond) as slow:
        for rounds in range(8, 60):
            for between in (1, 2, 3):
                async with opened() as way:
                    task = asyncio.create_task(call(way.client, f"{slow.url}/"))
                    for _ in range(rounds):
                        await asyncio.sleep(0)
                    task.cancel()
                    for _ in range(between):
                        await asyncio.sleep(0)
                    task.cancel()
                    await asyncio.wait({task})
                    await is_empty(way.client)


async def swept(way: Net, url: str, rounds: int) -> None:
    """Cancel a request after so many rounds of the loop; its place has to be free again."""
    task = asyncio.create_task(way.client.get(url))
    for _ in range(rounds):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("expired", [0, 1, 5])
async def test_connections_that_expired_cost_no_place(
    expired: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(net, "_IDLE_SECONDS", 0.01)
    async with serving() as server, opened() as way, AsyncExitStack() as stack:
        others = [await stack.enter_async_context(serving()) for _ in range(expired)]
        for rounds in range(30):
            await asyncio.gather(*(way.client.get(f"{other.url}/") for other in others))
            await asyncio.sleep(0.02)
            await swept(way, f"{server.url}/", rounds)
            assert (await way.client.get(f"{server.url}/")).status_code == 200
            await is_empty(way.client)


async def test_a_tunnel_that_is_not_dug_costs_no_place() -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await writer.drain()
        await asyncio.Event().wait()

    async with serving(silent) as proxy:
        policy = NetPolicy(egress_proxy=proxy.url, resolve_host=Names([]))
        async with opened(policy) as way:
            for rounds in range(40):
                await swept(way, "https://pds.example.com/", rounds)
            await is_empty(way.client)


async def test_many_calls_at_once_close_no_connection_under_one_another() -> None:
    async with serving() as server, opened() as way:
        for _ in range(20):
            calls = (way.client.get(f"{server.url}/") for _ in range(60))
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert {getattr(answer, "status_code", answer) for answer in answers} == {200}
        await is_empty(way.client)


async def test_a_connection_that_a_request_has_come_to_is_left_alone() -> None:
    pool = Pool()
    made = pool.create_connection(httpcore.Origin(b"https", b"pds.example", 443))
    going_on = asyncio.Event()

    async def handle(_: httpcore.Request) -> httpcore.Response:
        await going_on.wait()
        return httpcore.Response(200)

    inner: Any = vars(made)["_inner"]
    for name in ("is_idle", "has_expired", "is_available"):
        setattr(inner, name, lambda: True)
    inner.handle_async_request = handle
    assert made.is_idle()
    assert made.has_expired()
    request = httpcore.Request("GET", "https://pds.example/")
    first = asyncio.create_task(made.handle_async_request(request))
    await asyncio.sleep(0)
    # As the pool asks: one that says it is idle would be closed under the request.
    assert not made.is_idle()
    assert not made.has_expired()
    assert not made.is_available()
    with pytest.raises(httpcore.ConnectionNotAvailable):
        await made.handle_async_request(request)
    going_on.set()
    assert (await first).status == 200
    assert made.is_idle()
    await pool.aclose()


async def test_a_connection_that_nobody_begins_on_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool()
    made = pool.create_connection(httpcore.Origin(b"https", b"pds.example", 443))
    assert not made.has_expired()
    monkeypatch.setattr(net_pool, "BEGINS_WITHIN", -1.0)
    assert made.has_expired()
    await made.aclose()
    assert made.is_closed()
    assert not made.is_available()
    # Who was on the way to it is given another.
    with pytest.raises(httpcore.ConnectionNotAvailable):
        await made.handle_async_request(httpcore.Request("GET", "https://pds.example/"))
    await pool.aclose()


async def test_a_connection_is_used_again() -> None:
    async with serving() as server, opened() as way:
        for _ in range(3):
            assert (await way.client.get(f"{server.url}/")).status_code == 200
    assert server.connections == 1


async def test_closing_waits_for_what_is_closing() -> None:
    closed: list[str] = []

    async def close() -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        closed.append("closed")
        raise OSError("The server went away.")

    closing = asyncio.create_task(to_its_end(close()))
    await asyncio.sleep(0)
    closing.cancel()
    await Pool().aclose()

    assert closed == ["closed"]
    assert not net_pool._endings
    # What went wrong is nobody's any more, and so is no complaint of the loop's.
    gc.collect()


async def until(event: asyncio.Event) -> None:
    await event.wait()


async def test_closing_waits_for_a_time_and_for_its_own_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, over = threading.Event(), threading.Event()

    async def elsewhere() -> None:
        ending = asyncio.create_task(to_its_end(until(asyncio.Event())))
        await asyncio.sleep(0)
        begun.set()
        await asyncio.to_thread(over.wait)
        ending.cancel()

    other = threading.Thread(target=asyncio.run, args=(elsewhere(),))
    other.start()
    await asyncio.to_thread(begun.wait)
    # A task of another loop cannot be waited for at all.
    monkeypatch.setattr(net_pool, "CLOSES_WITHIN", 600)
    try:
        async with asyncio.timeout(20):
            await Pool().aclose()
    finally:
        over.set()
    await asyncio.to_thread(other.join)

    monkeypatch.setattr(net_pool, "CLOSES_WITHIN", 0.05)
    held = asyncio.Event()
    ending = asyncio.create_task(to_its_end(until(held)))
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await Pool().aclose()
    assert not ending.done()
    held.set()
    await ending


async def test_deadlines_of_any_length_cost_no_place() -> None:
    chance = random.Random(3)
    ended = {True: 0, False: 0}

    async def respond(writer: asyncio.StreamWriter) -> None:
        writer.write(JSON.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await writer.drain()

    async def call(client: httpx.AsyncClient, url: str) -> None:
        await asyncio.sleep(chance.random() * 0.05)
        try:
            async with asyncio.timeout(chance.random() * 0.008):
                ended[(await client.get(url)).status_code == 200] += 1
        except TimeoutError:
            ended[False] += 1

    async with serving(respond) as server, opened() as way:
        for _ in range(30):
            await asyncio.gather(*(call(way.client, f"{server.url}/") for _ in range(10)))
        await is_empty(way.client)
    assert ended[False] > 10
