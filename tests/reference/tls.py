from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any, Self

import anyio
import httpx
import trustme
import uvicorn

CLIENT_HOST = "app.home.arpa"
_POLLS = 1000
_POLL_SECONDS = 0.01


class _QuietServer(uvicorn.Server):
    """Leaves the signals of the test run alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class ThrowawayCA:
    """A certificate authority for one test run, in a temporary folder.

    `file` is what `ReferenceNetwork(ca_file=…)` takes, so that a PDS trusts it.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="reference-ca-")
        self._ca = trustme.CA()
        self.file = Path(self._folder.name) / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._folder.cleanup()

    def client_context(self) -> ssl.SSLContext:
        """Return a context that trusts this authority only."""
        return ssl.create_default_context(cafile=str(self.file))

    def certificate(self, host: str) -> Path:
        """Issue a certificate for `host` and return the file with its key and chain."""
        file = Path(self._folder.name) / f"{host}.pem"
        self._ca.issue_cert(host).private_key_and_cert_chain_pem.write_to_path(str(file))
        return file


class TLSSite:
    """A free loopback port with a certificate for `host`, on which an ASGI app can be served.

    The port is bound before the app exists, because the app has to know its own `origin`.
    """

    def __init__(self, ca: ThrowawayCA, host: str = CLIENT_HOST) -> None:
        self._certificate = ca.certificate(host)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.host = host
        self.port: int = self._socket.getsockname()[1]
        self.origin = f"https://{host}:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()

    @contextlib.asynccontextmanager
    async def serve(self, app: Any) -> AsyncGenerator[None]:
        """Serve `app` in the running event loop; leaving stops the server."""
        server = self._server(app)
        stopped = anyio.Event()

        async def run() -> None:
            try:
                await self._run(server)
            finally:
                stopped.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            for _ in range(_POLLS):
                if server.started or stopped.is_set():
                    break
                await anyio.sleep(_POLL_SECONDS)
            try:
                if not server.started:
                    raise RuntimeError("the TLS site did not start")
                yield
            finally:
                server.should_exit = True
                # Before the task group cancels what would otherwise close its connections.
                with anyio.move_on_after(_POLLS * _POLL_SECONDS, shield=True):
                    await stopped.wait()

    @contextlib.contextmanager
    def serve_in_thread(self, app: Any) -> Generator[None]:
        """Serve `app` in an event loop of its own; leaving stops the server."""
        server = self._server(app)
        thread = threading.Thread(target=anyio.run, args=(self._run, server), daemon=True)
        thread.start()
        for _ in range(_POLLS):
            if server.started or not thread.is_alive():
                break
            time.sleep(_POLL_SECONDS)
        try:
            if not server.started:
                raise RuntimeError("the TLS site did not start")
            yield
        finally:
            server.should_exit = True
            thread.join(_POLLS * _POLL_SECONDS)

    async def _run(self, server: uvicorn.Server) -> None:
        # uvicorn closes the sockets it is given; a copy leaves the port ours for another turn.
        await server.serve(sockets=[self._socket.dup()])

    def _server(self, app: Any) -> uvicorn.Server:
        return _QuietServer(
            uvicorn.Config(
                app,
                ssl_certfile=str(self._certificate),
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=2,
            )
        )


class LoopbackTransport(httpx.AsyncBaseTransport):
    """Reaches every host name at 127.0.0.1, as a browser's resolver rule does.

    The certificate is still checked against the name in the URL.
    """

    def __init__(self, ca: ThrowawayCA) -> None:
        self._inner = httpx.AsyncHTTPTransport(
            verify=ca.client_context(),
            trust_env=False,
            # A server in this event loop would wait for the end of a connection nobody reads.
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._inner.handle_async_request(
            httpx.Request(
                request.method,
                request.url.copy_with(host="127.0.0.1"),
                headers=request.headers,
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": request.url.host},
            )
        )

    async def aclose(self) -> None:
        await self._inner.aclose()
