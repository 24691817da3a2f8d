"""Serve the demo: `make demo`, or `python -m examples.demo`.

PORT chooses the port (8000), NETWORK where the accounts are: `embedded` (a network in this
process, made up), `reference` (the reference server from npm, on this computer), or `live`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

import uvicorn

from atproto_oauth_asgi import ATProtoOAuth, ATProtoOAuthError
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.testing.demo.site import DEFAULTS, make_app
from atproto_oauth_asgi.testing.dev import Server, greeting
from atproto_oauth_asgi.testing.dev_app import show_reasons
from atproto_oauth_asgi.testing.serving import listen

_PORT = 8000
_MOST = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where people have their accounts."""

    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    #: Handle and password of each, where there are accounts to try.
    accounts: Sequence[tuple[str, str]] = ()
    #: Address of a server where people can make an account.
    sign_up: str | None = None
    #: The servers, where they are in this process.
    network: Network | None = None


@contextlib.contextmanager
def embedded() -> Generator[Place]:
    network = Network(list_accounts=True).start()
    try:
        accounts = [(account.handle, account.password) for account in network.host.accounts]
        yield Place(
            environment=network.environment(),
            accounts=accounts,
            sign_up=network.host.origin,
            network=network,
        )
    finally:
        network.stop()


@contextlib.contextmanager
def reference() -> Generator[Place]:
    from tests.reference.install import ReferenceUnavailable
    from tests.reference.network import ReferenceNetwork

    network = ReferenceNetwork(progress=print)
    try:
        network.start()
    except ReferenceUnavailable as exc:
        sys.exit(f"The reference server cannot be installed: {exc.reason}. Mend it with {exc.mend}")
    with contextlib.closing(network):
        environment = {
            "ATPROTO_OAUTH_PLC_URL": network.plc,
            "ATPROTO_OAUTH_HANDLE_RESOLVER_URL": network.pds,
            "ATPROTO_OAUTH_ALLOW_INSECURE_LOOPBACK": "1",
        }
        accounts = [(account.handle, account.password) for account in network.accounts]
        yield Place(environment=environment, accounts=accounts, sign_up=network.pds)


@contextlib.contextmanager
def live() -> Generator[Place]:
    yield Place()


_NETWORKS = {"embedded": embedded, "reference": reference, "live": live}


def bind() -> list[socket.socket]:
    text = os.environ.get("PORT", "") or str(_PORT)
    if not text.isdecimal() or int(text) > _MOST:
        sys.exit(f"PORT is {text!r}, which is no port; choose a number such as 8001.")
    try:
        return listen(int(text))
    except OSError as exc:
        sys.exit(
            f"Port {text} cannot be used ({exc.strerror}); stop what uses it, or choose another"
            " one: PORT=8001 make demo"
        )


def serve(name: str, sockets: list[socket.socket]) -> None:
    port: int = sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:
        settings = {"ATPROTO_OAUTH_BASE_URL": url}
        if name != "live":
            # The accounts end with this process, so the sessions have no reason to stay.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="atproto-oauth-demo-"))
            settings["ATPROTO_OAUTH_STORE_URL"] = f"sqlite:///{folder}/demo.db"
        place = stack.enter_context(_NETWORKS[name]())
        settings |= place.environment
        oauth = ATProtoOAuth.from_env({**DEFAULTS, **os.environ, **settings})
        app = make_app(oauth, accounts=place.accounts, sign_up=place.sign_up, network=place.network)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)
        server = Server(config)
        server.greeting = greeting("demo", url, place.accounts)
        server.run(sockets=sockets)
        if not server.started:
            sys.exit(1)


def _stop(_signal: int, _frame: object) -> None:
    sys.exit(0)


def main() -> None:
    name = os.environ.get("NETWORK", "") or "embedded"
    if name not in _NETWORKS:
        sys.exit(f"NETWORK is {name!r}; choose one of {', '.join(_NETWORKS)}.")
    show_reasons()
    # uvicorn passes the signal on after it has stopped; everything else stops then too.
    signal.signal(signal.SIGTERM, _stop)
    try:
        serve(name, bind())
    except ATProtoOAuthError as exc:
        sys.exit(str(exc))
    except KeyboardInterrupt:
        print("Stopped.")


if __name__ == "__main__":
    main()
