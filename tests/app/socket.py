"""A browser's WebSocket, without a server in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from starlette.types import Message

from tests.app.world import World


class Socket:
    """Is the browser's end of a WebSocket."""

    def __init__(self) -> None:
        self.to_app: asyncio.Queue[Message] = asyncio.Queue()
        self.from_app: asyncio.Queue[Message] = asyncio.Queue()
        #: Everything that the app's side sent, in order.
        self.sent: list[Message] = []

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        self.from_app.put_nowait(message)

    async def next(self) -> Message:
        async with asyncio.timeout(10):
            return await self.from_app.get()

    def say(self, text: str) -> None:
        self.to_app.put_nowait({"type": "websocket.receive", "text": text})

    def leave(self) -> None:
        self.to_app.put_nowait({"type": "websocket.disconnect", "code": 1001})


@asynccontextmanager
async def socket(
    here: World,
    path: str,
    headers: Mapping[str, str] | None = None,
    *,
    can_respond: bool = False,
) -> AsyncGenerator[Socket]:
    """Open a WebSocket with the cookies of the world's browser; end it with the block."""
    given = {"host": "app.birdsong.dev", "origin": here.origin, **(headers or {})}
    name = here.oauth.cookies.session
    if here.cookie is not None:
        given.setdefault("cookie", f"{name}={here.cookie}")
    scope: dict[str, object] = {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "scheme": "wss",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(key.encode(), value.encode()) for key, value in given.items() if value],
        "subprotocols": [],
        "state": {},
        "extensions": {"websocket.http.response": {}} if can_respond else {},
    }
    end = Socket()
    end.to_app.put_nowait({"type": "websocket.connect"})
    task = asyncio.ensure_future(_run(here, scope, end))
    try:
        yield end
        end.leave()
        async with asyncio.timeout(10):
            await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _run(here: World, scope: dict[str, object], end: Socket) -> None:
    await here.app(scope, end.to_app.get, end.send)
