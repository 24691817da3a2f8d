"""The demo on a free port, in a thread with an event loop of its own."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import uvicorn
from starlette.types import ASGIApp

from atproto_oauth_asgi import ATProtoOAuth
from atproto_oauth_asgi.environment import SettingsOptions
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.testing.demo.site import DEFAULTS, make_app
from atproto_oauth_asgi.testing.serving import listen
from tests.reference.network import ReferenceNetwork

START_SECONDS = 20.0


class _Server(uvicorn.Server):
    """Leaves signals to the test run, and says when it has started or given up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.settled = threading.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        finally:
            self.settled.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """An app, the sockets it listens on, and its certificate if it speaks TLS."""

    app: ASGIApp
    sockets: list[socket.socket] = field(default_factory=listen)
    certificate: Path | None = None

    @property
    def port(self) -> int:
        port: int = self.sockets[0].getsockname()[1]
        return port


@contextlib.contextmanager
def serving(*served: Served) -> Generator[None]:
    """Serve apps in one event loop; leaving the block stops all of them and closes the ports."""
    servers = [
        _Server(
            uvicorn.Config(
                each.app,
                ssl_certfile=str(each.certificate) if each.certificate else None,
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=2,
            )
        )
        for each in served
    ]

    async def run() -> None:
        async with anyio.create_task_group() as tasks:
            for server, each in zip(servers, served, strict=True):
                tasks.start_soon(server.serve, each.sockets)

    thread = threading.Thread(target=anyio.run, args=(run,), daemon=True)
    thread.start()
    try:
        for server in servers:
            assert server.settled.wait(START_SECONDS), "the app did not start"
            assert server.started
        yield
    finally:
        for server in servers:
            server.should_exit = True
        thread.join(START_SECONDS)
        for each in served:
            for one in each.sockets:
                one.close()


def sockets_and_url() -> tuple[list[socket.socket], str]:
    sockets = listen()
    return sockets, f"http://127.0.0.1:{sockets[0].getsockname()[1]}"


def demo_settings(network: Network | ReferenceNetwork) -> SettingsOptions:
    """Return the settings with which the demo finds a network that is served."""
    settings: SettingsOptions = {
        "client_name": DEFAULTS["ATPROTO_OAUTH_CLIENT_NAME"],
        "scope": DEFAULTS["ATPROTO_OAUTH_SCOPE"],
        "optional_scope": DEFAULTS["ATPROTO_OAUTH_OPTIONAL_SCOPE"],
    }
    if isinstance(network, Network):
        return {**settings, "net_policy": network.policy()}
    return {
        **settings,
        "plc_url": network.plc,
        "handle_resolver_url": network.pds,
        "allow_insecure_loopback": True,
    }


@contextlib.contextmanager
def served_demo(
    network: Network | ReferenceNetwork, accounts: Sequence[tuple[str, str]] = ()
) -> Generator[str]:
    """Serve the demo beside a network, and give its address."""
    sockets, url = sockets_and_url()
    oauth = ATProtoOAuth(url, store="memory://", **demo_settings(network))
    embedded = network if isinstance(network, Network) else None
    sign_up = network.host.origin if isinstance(network, Network) else network.pds
    app = make_app(oauth, accounts=accounts, sign_up=sign_up, network=embedded)
    with serving(Served(app=app, sockets=sockets)):
        yield url
