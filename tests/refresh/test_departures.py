"""People who leave in the middle, and servers that nobody closes: nothing is lost."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Literal

import anyio
import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from atproto_oauth_asgi import ATProtoOAuth, ATProtoOAuthMiddleware
from atproto_oauth_asgi.refresh_timing import RefreshTiming
from atproto_oauth_asgi.runtime import Runtime
from atproto_oauth_asgi.upkeep import Upkeep
from tests.app.world import BASE_URL, make_app
from tests.refresh import fleet as fleets
from tests.refresh.fleet import SCOPE, SECRET_KEYS, Fleet, fleet, within

pytestmark = pytest.mark.anyio
Lifespan = Literal["on", "off"]


@pytest.fixture(autouse=True)
def real_time() -> Generator[None]:
    """Sockets and threads go on in real time, where a busy machine is no finding."""
    with fleets.timing(fleets.PATIENT):
        yield


def _app(here: Fleet, *, timing: RefreshTiming | None = None) -> ATProtoOAuthMiddleware:
    oauth = ATProtoOAuth(
        BASE_URL,
        store=here.store,
        timing=timing or fleets.TIMING,
        net_policy=here.policy,
        secret_keys=SECRET_KEYS,
        scope=SCOPE,
    )
    return ATProtoOAuthMiddleware(make_app(), oauth=oauth)


def _cookie(here: Fleet) -> str:
    return "; ".join(f"{name}={value}" for name, value in here.cookies.items())


class Server(uvicorn.Server):
    """Leaves signals to the test run."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@asynccontextmanager
async def _served(app: ASGIApp, lifespan: Lifespan) -> AsyncGenerator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(
            app, lifespan=lifespan, log_config=None, ws="none", timeout_graceful_shutdown=3
        )
        server = Server(config)
        task = asyncio.create_task(server.serve([listening]))
        try:
            async with asyncio.timeout(30):
                while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                    await asyncio.sleep(0.005)
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            await task


async def _open(
    port: int, here: Fleet, path: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"GET {path} HTTP/1.1\r\nhost: app.birdsong.dev\r\ncookie: {_cookie(here)}\r\n"
        "connection: close\r\n\r\n".encode()
    )
    await writer.drain()
    return reader, writer


async def _status(port: int, here: Fleet, path: str) -> int:
    reader, writer = await _open(port, here, path)
    answer = await within(30, reader.read())
    writer.close()
    await writer.wait_closed()
    return int(answer.split(b" ", 2)[1])


async def _until_committed(here: Fleet, version: int) -> None:
    async def committed() -> None:
        while here.row.version < version:  # noqa: ASYNC110 - a row has no event
            await asyncio.sleep(0.005)

    await within(30, committed())


@pytest.mark.parametrize("lifespan", ["on", "off"])
@pytest.mark.parametrize("path", ["/me", "/who"])
async def test_a_dropped_socket_loses_nothing(lifespan: Lifespan, path: str) -> None:
    async with fleet() as here, _served(_app(here), lifespan) as port:
        async with here.network.pause_token_endpoint("refresh_token", when="after") as pause:
            writers = [(await _open(port, here, path))[1] for _ in range(3)]
            await within(30, pause.arrived())
            for writer in writers:
                writer.transport.abort()
            await asyncio.sleep(0.05)
            pause.release()
        await _until_committed(here, 2)

        assert await _status(port, here, "/me") == 200
        assert here.refreshes == 1


async def test_a_server_without_lifespan_refreshes_before_it_answers() -> None:
    async with fleet() as here, _served(_app(here), "off") as port:
        here.network.faults.delay(0.3)
        assert await _status(port, here, "/who") == 200
        # Nothing would drain it later, so it is done by now.
        assert here.row.version == 2
        assert await _status(port, here, "/me") == 200
        assert here.refreshes == 1


async def test_a_server_that_stops_stores_what_is_in_the_air() -> None:
    async with fleet() as here, here.network.pause_token_endpoint("refresh_token") as pause:
        async with _served(_app(here), "on") as port:
            assert await _status(port, here, "/who") == 200
            await within(30, pause.arrived())
            asyncio.get_running_loop().call_later(0.3, pause.release)
        assert here.row.version == 2


@pytest.mark.parametrize("lifespan", ["on", "off"])
@pytest.mark.parametrize("path", ["/me", "/who"])
async def test_an_impatient_middleware_outside_of_ours_loses_nothing(
    lifespan: Lifespan, path: str
) -> None:
    async with (
        fleet() as here,
        here.network.pause_token_endpoint("refresh_token", when="after") as pause,
    ):
        app = _app(here)
        leaving: list[asyncio.Task[None]] = []

        async def hasty(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            with anyio.CancelScope() as patience:

                async def leave() -> None:
                    await pause.arrived()
                    patience.cancel()
                    # Nobody answers before that has had its effect.
                    asyncio.get_running_loop().call_later(0.3, pause.release)

                leaving.append(asyncio.create_task(leave()))
                # As Starlette's BaseHTTPMiddleware does when the client has gone.
                await app(scope, receive, send)
                return
            await PlainTextResponse("too slow", status_code=504)(scope, receive, send)

        async with _served(hasty, lifespan) as port:
            status = await _status(port, here, path)
            assert status in {200, 504}
            if lifespan == "off":
                assert here.row.version == 2
            await _until_committed(here, 2)
        assert here.refreshes == 1


# --- An event loop for each request ---


@contextlib.contextmanager
def _client(app: Any, here: Fleet) -> Generator[TestClient]:
    client = TestClient(app, base_url=BASE_URL, headers={"cookie": _cookie(here)})
    try:
        # Not entered: so each request has an event loop of its own, and there is no lifespan.
        yield client
    finally:
        client.close()


def _ask(app: Any, here: Fleet, path: str) -> int:
    with _client(app, here) as client:
        return client.get(path).status_code


async def _slow_refresh_in_its_own_loop() -> None:
    async with fleet() as here:
        app = _app(here)
        async with here.network.pause_token_endpoint("refresh_token") as pause:
            asked = asyncio.create_task(asyncio.to_thread(_ask, app, here, "/who"))
            arrived = asyncio.create_task(pause.arrived())
            await within(30, asyncio.wait({arrived, asked}, return_when="FIRST_COMPLETED"))
            assert arrived.done(), "the request came to its end before the token request left"
            # Longer than a request waits for anything else.
            await asyncio.sleep(fleets.TIMING.wait + 0.1)
            pause.release()
            status = await within(30, asked)

        assert status == 200
        assert here.row.version == 2, "the end of the request cut the refresh off"
        assert (here.row.attempts, here.row.lease_until) == (0, None)
        assert await within(30, asyncio.to_thread(_ask, app, here, "/me")) == 200
        assert here.refreshes == 1


async def test_the_end_of_a_request_never_cuts_a_refresh_off() -> None:
    # Also what a request waits for that comes to its end before the token request has left.
    with fleets.timing(wait=5.0):
        await _slow_refresh_in_its_own_loop()


async def test_without_settling_it_would_be_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: object) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(Upkeep, "settle", nothing)
    monkeypatch.setattr(Runtime, "settle", nothing)
    with fleets.timing(wait=1.5), pytest.raises(AssertionError):
        await _slow_refresh_in_its_own_loop()


async def test_a_loop_that_ends_before_the_mark_leaves_nothing_spent() -> None:
    async with fleet() as here:
        hurried = _app(here, timing=replace(fleets.PATIENT, wait=0.1, lease=0.3))
        async with here.network.hold(f"/{here.row.did}"):
            status = await within(30, asyncio.to_thread(_ask, hurried, here, "/who"))
        assert status == 200
        assert here.sent == 0
        assert here.row.attempts == 0
        # The lease runs out by itself; then the next request refreshes.
        assert await within(30, asyncio.to_thread(_ask, _app(here), here, "/me")) == 200
        assert here.row.version == 2


async def test_short_lived_loops_add_up_to_a_watch() -> None:
    with fleets.timing(fleets.QUICK, wait=0.5, watch=1.0):
        async with fleet() as here:
            app = _app(here)
            # Somebody died after the mark, and before anything was sent.
            here.row.lease_owner, here.row.lease_until = "dead", here.clock() - 1
            here.row.attempts = 1
            asked = 0
            while here.row.version == 1 and asked < 40:
                asked += 1
                assert await within(30, asyncio.to_thread(_ask, app, here, "/who")) == 200
            assert here.row.version == 2
            assert asked > 1, "it was taken over unseen"
            assert here.refreshes == 1
