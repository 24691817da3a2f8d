"""Serves the sites of a network on loopback ports, with uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from atproto_oauth_asgi.errors import ConfigurationError
from atproto_oauth_asgi.testing.site import ABORT

Listening = tuple[ASGIApp, list[socket.socket]]


def listen(port: int = 0) -> list[socket.socket]:
    """Return sockets that listen on one port of 127.0.0.1 and, where there is one, of [::1]."""
    first = socket.create_server(("127.0.0.1", port))
    sockets = [first]
    # `localhost` may mean either address; without the second one some clients wait.
    with contextlib.suppress(OSError):
        sockets.append(
            socket.create_server(("::1", first.getsockname()[1]), family=socket.AF_INET6)
        )
    return sockets


@asynccontextmanager
async def serving(listening: Sequence[Listening]) -> AsyncGenerator[None]:
    """Serve apps on their sockets in the running event loop until the end of the block.

    Raises:
        ConfigurationError: uvicorn is not installed.
    """
    try:
        import uvicorn
        from uvicorn.protocols.http.h11_impl import H11Protocol
    except ImportError as exc:
        raise ConfigurationError(
            "Serving the development network needs uvicorn; install it with: pip install uvicorn"
        ) from exc

    class Protocol(H11Protocol):
        """Lends the connection to the app, which may have to break it."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
            super().connection_made(transport)
            app = self.app

            async def lend(scope: Scope, receive: Receive, send: Send) -> None:
                scope["extensions"] = {**scope.get("extensions", {}), ABORT: transport.abort}
                await app(scope, receive, send)  # pyright: ignore[reportArgumentType]

            self.app = lend  # pyright: ignore[reportAttributeAccessIssue]

    class Server(uvicorn.Server):
        """Leaves signals to the process, and says when it has started."""

        ready: asyncio.Event

        @contextmanager
        def capture_signals(self) -> Generator[None]:  # pyright: ignore[reportIncompatibleMethodOverride]
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            self.ready.set()

    servers: list[Server] = []
    tasks: list[asyncio.Task[None]] = []
    for app, sockets in listening:
        config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=1,
        )
        server = Server(config)
        server.ready = asyncio.Event()
        servers.append(server)
        tasks.append(asyncio.ensure_future(server.serve(sockets)))
    try:
        for server in servers:
            await server.ready.wait()
        yield
    finally:
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*tasks)


class Background:
    """Keeps an asynchronous context open in a thread with an event loop of its own."""

    def __init__(self, context: Callable[[], AbstractAsyncContextManager[object]]) -> None:
        self._context = context
        self._opened: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=self._run, name="development-network", daemon=True)

    def start(self) -> None:
        """Open the context; return once it is open, or raise what it raised."""
        self._thread.start()
        self._opened.result()

    def stop(self) -> None:
        """Close the context and wait for the end of the thread."""
        loop, end = self._opened.result()
        loop.call_soon_threadsafe(end.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._hold())
        except BaseException as exc:
            if self._opened.done():
                raise
            self._opened.set_exception(exc)

    async def _hold(self) -> None:
        end = asyncio.Event()
        async with self._context():
            self._opened.set_result((asyncio.get_running_loop(), end))
            await end.wait()
