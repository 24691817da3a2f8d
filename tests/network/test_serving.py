from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import httpx
import pytest

from atproto_oauth_asgi.testing import Network
from tests.network.walker import Walker

pytestmark = pytest.mark.anyio


async def test_a_served_network_walks_the_same_flow_over_sockets() -> None:
    network = Network()
    async with network.serve(), httpx.AsyncClient(trust_env=False) as http:
        origin = network.host.origin
        walker = Walker(network, http, clock=time.time)
        did = network.account("alice.test").did
        document = (await http.get(f"{network.plc.origin}/{did}")).json()
        tokens = await walker.login()
        session = await walker.get_session(tokens["access_token"])
        resolved = await http.get(
            f"{origin}/xrpc/com.atproto.identity.resolveHandle", params={"handle": "alice.test"}
        )

    assert origin.startswith("http://localhost:")
    assert document["service"][0]["serviceEndpoint"] == origin
    assert session.json()["handle"] == "alice.test"
    assert resolved.json() == {"did": did}
    assert network.host.origin == "https://pds.example"
    assert network.account("alice.test").pds == "https://pds.example"


async def test_a_lost_answer_closes_the_socket() -> None:
    network = Network()
    async with network.serve(), httpx.AsyncClient(trust_env=False) as http:
        walker = Walker(network, http, clock=time.time)
        tokens = await walker.login()
        network.faults.lose_answer()
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await walker.refresh(tokens["refresh_token"])
        again = await walker.refresh(tokens["refresh_token"])

    assert again.json()["error_description"] == "Refresh token replayed"


def test_a_network_in_a_thread_serves_blocking_clients() -> None:
    network = Network().start()
    try:
        settings = network.environment()
        resolver = settings["ATPROTO_OAUTH_HANDLE_RESOLVER_URL"]
        with httpx.Client(trust_env=False) as http:
            answer = http.get(f"{resolver}/.well-known/oauth-protected-resource")
    finally:
        network.stop()

    assert answer.json()["resource"] == resolver
    assert settings["ATPROTO_OAUTH_ALLOW_INSECURE_LOOPBACK"] == "1"
    with httpx.Client(trust_env=False) as http, pytest.raises(httpx.ConnectError):
        http.get(resolver)


async def test_a_taken_port_is_an_error_and_leaves_nothing_behind() -> None:
    first, second = Network(), Network()
    async with first.serve():
        port = int(first.host.origin.rpartition(":")[2])
        with pytest.raises(OSError, match="use"):
            async with second.serve(port=port):
                pass

    assert second.host.origin == "https://pds.example"
    async with second.serve(port=port):
        assert second.host.origin == f"http://localhost:{port}"


async def test_a_request_that_is_held_does_not_keep_the_network_from_stopping() -> None:
    network = Network()
    async with httpx.AsyncClient(trust_env=False) as http:
        async with network.serve(), network.pause_token_endpoint("refresh_token") as pause:
            walker = Walker(network, http, clock=time.time)
            tokens = await walker.login()
            held = asyncio.ensure_future(walker.refresh(tokens["refresh_token"]))
            await pause.arrived()
        answer = await held

    assert answer.status_code == 200


def test_importing_the_kit_imports_neither_pytest_nor_uvicorn() -> None:
    program = (
        "import sys; import atproto_oauth_asgi.testing; "
        "print([n for n in ('pytest', 'uvicorn', 'anyio._core._testing') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )

    assert done.stdout.strip() == "[]"
