"""A server that answers with scripted bytes, on loopback, for the tests of the way out."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from atproto_oauth_asgi.net import Net, NetPolicy

LOOPBACK = NetPolicy(allow_insecure_loopback=True)
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
Respond = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True)
class Server:
    """Counts connections and keeps what was asked on each."""

    respond: Respond | bytes
    tls: ssl.SSLContext | None = None
    port: int = 0
    connections: int = 0
    #: Number of the connection, and the request as received.
    requests: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    accepted: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    #: Set when a client has closed its connection.
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.connections += 1
        number = self.connections
        self.accepted.set()
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                self.requests.append((number, head + body))
                self.asked.set()
                if isinstance(self.respond, bytes):
                    writer.write(self.respond)
                    await writer.drain()
                else:
                    await self.respond(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed.set()
        except asyncio.CancelledError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(
    respond: Respond | bytes = JSON, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[Server, None]:
    server = Server(respond, tls)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        tasks = [task for task in server.tasks if not task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)
        await listener.wait_closed()


def dripping(head: bytes, drop: bytes) -> Respond:
    """Answer with a drop every 20 ms until the client goes away."""

    async def respond(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(drop)
            await writer.drain()
            await asyncio.sleep(0.02)

    return respond


def flooding(head: bytes, wave: bytes) -> Respond:
    """Answer without end, as fast as the client reads."""

    async def respond(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(wave)
            await writer.drain()

    return respond


@asynccontextmanager
async def opened(
    policy: NetPolicy = LOOPBACK, *, idle_seconds: float = 2.0
) -> AsyncGenerator[Net, None]:
    net = Net(policy, idle_seconds=idle_seconds)
    try:
        yield net
    finally:
        await net.aclose()
