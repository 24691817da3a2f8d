"""Origins that ASGI apps answer in this process, without any socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, MutableMapping
from typing import Any, cast

import httpx
from starlette.types import ASGIApp

from atproto_oauth_asgi.errors import Unreachable


class AppCaller:
    """Calls ASGI apps as a server would: streaming both ways, one task for each request.

    A caller that goes away does not stop the app, it only gets `http.disconnect`; an app that
    raises is, to the caller, a connection that broke.
    """

    def __init__(self, apps: Mapping[str, ASGIApp]) -> None:
        self._apps = apps
        self._tasks: set[asyncio.Task[None]] = set()

    def app_for(self, url: httpx.URL) -> ASGIApp | None:
        """Return the app that answers for the origin of a URL."""
        if not self._apps:
            return None
        return self._apps.get(f"{url.scheme}://{url.netloc.decode('ascii')}")

    async def call(self, app: ASGIApp, request: httpx.Request) -> httpx.Response:
        """Send a request to an app and return its response once the headers are there.

        Raises:
            Unreachable: The app raised or ended before it answered.
        """
        exchange = _Exchange(request)
        task = asyncio.create_task(exchange.run(app))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            status, headers = await exchange.started
        except BaseException:
            await exchange.aclose()
            raise
        return httpx.Response(status, headers=headers, stream=exchange)

    async def aclose(self) -> None:
        """Cancel the requests that are still being answered."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Exchange(httpx.AsyncByteStream):
    def __init__(self, request: httpx.Request) -> None:
        self._request = request
        self._upload = aiter(cast("httpx.AsyncByteStream", request.stream))
        self._uploaded = False
        self._gone = asyncio.Event()
        self._ended = False
        # One chunk at a time, so a fast app waits for a slow reader.
        self._chunks: asyncio.Queue[bytes | Unreachable | None] = asyncio.Queue(1)
        self.started: asyncio.Future[tuple[int, list[tuple[bytes, bytes]]]] = (
            asyncio.get_running_loop().create_future()
        )

    async def run(self, app: ASGIApp) -> None:
        url = self._request.url
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": self._request.method,
            "scheme": url.scheme,
            "path": url.path,
            "raw_path": url.raw_path.partition(b"?")[0],
            "query_string": url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in self._request.headers.raw],
            "client": ("127.0.0.1", 1),
            "server": (url.host, url.port or (443 if url.scheme == "https" else 80)),
            "state": {},
        }
        broken = Unreachable("The app gave no complete answer.", host=url.host, sent=True)
        try:
            await app(scope, self._receive, self._send)
        except Exception as exc:  # noqa: BLE001 - an app may raise anything, as under a server
            broken.__cause__ = exc
        finally:
            if not self.started.done():
                self.started.set_exception(broken)
            if not self.started.cancelled():
                # When nobody waits any more it must not be reported as forgotten.
                self.started.exception()
            if not self._ended:
                await self._put(broken)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            chunk = await self._chunks.get()
            if isinstance(chunk, Unreachable):
                raise chunk
            if chunk is None:
                return
            yield chunk

    async def aclose(self) -> None:
        self._gone.set()
        while not self._chunks.empty():
            self._chunks.get_nowait()

    async def _put(self, chunk: bytes | Unreachable | None) -> None:
        if not self._gone.is_set():
            await self._chunks.put(chunk)

    async def _receive(self) -> dict[str, Any]:
        if self._uploaded and not self._ended:
            await self._gone.wait()
        if self._ended or self._gone.is_set():
            return {"type": "http.disconnect"}
        try:
            return {"type": "http.request", "body": await anext(self._upload), "more_body": True}
        except StopAsyncIteration:
            self._uploaded = True
            return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        if self._gone.is_set() or self.started.cancelled():
            raise OSError("the client went away")
        if message["type"] == "http.response.start":
            headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", [])]
            self.started.set_result((int(message["status"]), headers))
        elif message["type"] == "http.response.body":
            body = bytes(message.get("body", b""))
            if body and self._request.method != "HEAD":
                await self._put(body)
            if not message.get("more_body", False):
                self._ended = True
                await self._put(None)
