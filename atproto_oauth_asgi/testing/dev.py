"""Serving an app under uvicorn, with the development network beside it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp
from uvicorn.supervisors import ChangeReload

from atproto_oauth_asgi.errors import ConfigurationError
from atproto_oauth_asgi.metadata import check_base_url
from atproto_oauth_asgi.oauth import ATProtoOAuth
from atproto_oauth_asgi.testing.demo.site import DEFAULTS, make_app
from atproto_oauth_asgi.testing.dev_app import CannotLoad, Source, load, show_reasons
from atproto_oauth_asgi.testing.network import Network
from atproto_oauth_asgi.testing.serving import listen

_BASE_URL = "ATPROTO_OAUTH_BASE_URL"
_PORT = 8000
#: Where development PDSes and PLC directories usually are. The same addresses every time, so that
#: sessions in an app's database find a server that tells them they are over.
_NETWORK_PORTS = (2583, 2582)
_GRACE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Is what the command line says."""

    app: str | None
    factory: bool
    reload: bool
    #: As it is written in a URL.
    host: str
    port: int | None
    folder: str


class Server(uvicorn.Server):
    """Says where it is once it is there."""

    greeting = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and greet."""
        await super().startup(sockets)
        if self.started:
            print(self.greeting, flush=True)


def dev(wanted: Wanted) -> int:
    """Serve until a signal; return the exit status."""
    try:
        return _serve(wanted)
    except (CannotLoad, ConfigurationError) as exc:
        print(exc, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def _serve(wanted: Wanted) -> int:
    host, port, path = _address(wanted)
    sockets = _listen(port)
    # uvicorn passes a signal on once it has stopped; everything else stops then too.
    signal.signal(signal.SIGTERM, _stop)
    with contextlib.ExitStack() as stack:
        for each in sockets:
            stack.callback(each.close)
        url = f"http://{host}:{sockets[0].getsockname()[1]}{path}"
        network = stack.enter_context(running())
        accounts = [(each.handle, each.password) for each in network.host.accounts]
        os.environ.update({**network.environment(), _BASE_URL: url})
        if wanted.app is None:
            app = _demo(stack, network, accounts)
            return _serve_here(app, sockets, greeting("demo", url, accounts))
        source = Source(name=wanted.app, factory=wanted.factory, folder=wanted.folder, url=url)
        text = greeting("app", url, accounts)
        if wanted.reload:
            return _serve_reloading(source, sockets, text)
        return _serve_here(load(source, os.environ), sockets, text)


def _demo(
    stack: contextlib.ExitStack, network: Network, accounts: Sequence[tuple[str, str]]
) -> ASGIApp:
    # The accounts end with this process, so the sessions have no reason to stay.
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="atproto-oauth-demo-"))
    store = {"ATPROTO_OAUTH_STORE_URL": f"sqlite:///{folder}/demo.db"}
    show_reasons()
    oauth = ATProtoOAuth.from_env({**DEFAULTS, **os.environ, **store})
    return make_app(oauth, accounts=accounts, sign_up=network.host.origin, network=network)


def _serve_here(app: ASGIApp, sockets: list[socket.socket], text: str) -> int:
    server = Server(uvicorn.Config(app, timeout_graceful_shutdown=_GRACE))
    server.greeting = text
    server.run(sockets=sockets)
    return 0 if server.started else 1


def _serve_reloading(source: Source, sockets: list[socket.socket], text: str) -> int:
    os.environ.update(source.to_environment())
    config = uvicorn.Config(
        "atproto_oauth_asgi.testing.dev_app:from_environment",
        factory=True,
        reload=True,
        reload_dirs=[source.folder],
        timeout_graceful_shutdown=_GRACE,
    )
    server = Server(config)
    server.greeting = text
    ChangeReload(config, target=server.run, sockets=sockets).run()
    return 0


def _address(wanted: Wanted) -> tuple[str, int, str]:
    """Return host as in a URL, port and path, after BASE_URL has had its say."""
    text = os.environ.get(_BASE_URL, "").strip()
    if not text:
        return wanted.host, _PORT if wanted.port is None else wanted.port, ""
    base = check_base_url(text)
    if not base.loopback:
        raise CannotLoad(
            f"{_BASE_URL} is {base.url}, but the development network is for apps on this machine"
            " only; unset it, and this command sets it."
        )
    if wanted.port not in {None, base.port}:
        raise CannotLoad(
            f"{_BASE_URL} is {base.url}, and --port is {wanted.port}; keep one of them."
        )
    return base.origin.removeprefix("http://").rpartition(":")[0], base.port, base.path


def _listen(port: int) -> list[socket.socket]:
    try:
        return listen(port)
    except OSError as exc:
        raise CannotLoad(
            f"Port {port} cannot be used ({exc.strerror}); stop what uses it, or choose another one"
            f" with --port {port + 1}."
        ) from exc


@contextlib.contextmanager
def running() -> Generator[Network]:
    """Run a network on loopback ports, on the usual ones where they are free."""
    network = Network(list_accounts=True)
    try:
        network.start(port=_NETWORK_PORTS[0], plc_port=_NETWORK_PORTS[1])
    except OSError:
        network.start()
    try:
        yield network
    finally:
        network.stop()


def greeting(what: str, url: str, accounts: Sequence[tuple[str, str]]) -> str:
    """Return what is printed once everything is there."""
    lines = ["", f"  The {what} is at{' ' * (7 - len(what))}{url}", ""]
    if accounts:
        width = max(len(handle) for handle, _ in accounts)
        lines += [f"  Sign in as       {one:{width}}  password {word}" for one, word in accounts]
    else:
        lines += ["  Sign in with an account of yours. What you post there is real."]
    return "\n".join([*lines, "", "  Ctrl-C stops it.", ""])


def _stop(_signal: int, _frame: object) -> None:
    sys.exit(0)
