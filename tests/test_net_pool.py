"""Whatever cancels a request, in whatever moment: its connection finds back to the pool."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import random

import httpx
import pytest

from atproto_oauth_asgi import net
from atproto_oauth_asgi.net_transport import GuardedTransport
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
    pool = transport._direct
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
