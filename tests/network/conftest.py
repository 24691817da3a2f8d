from __future__ import annotations

from collections.abc import AsyncGenerator

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from atproto_oauth_asgi.testing import Network
from tests.network.walker import Clock, Walker


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def network(clock: Clock) -> Network:
    return Network(clock=clock)


@pytest.fixture
async def http(network: Network) -> AsyncGenerator[httpx.AsyncClient]:
    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        host = dict(scope["headers"])[b"host"].decode()
        app = network.policy().apps[f"https://{host}"]
        await app(scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=route)) as client:
        yield client


@pytest.fixture
async def walker(network: Network, http: httpx.AsyncClient, clock: Clock) -> Walker:
    return Walker(network, http, clock=clock)
