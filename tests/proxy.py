"""A TCP proxy between a client and a server that can fail as networks do."""

from __future__ import annotations

import asyncio
import contextlib
import re
from types import TracebackType
from typing import Self

#: What PostgreSQL's drivers call the statements that they prepare.
_PREPARING = re.compile(rb"((?:_pg3_|__asyncpg_)\w+)\0UPDATE")


class Proxy:
    """Passes bytes on, until it is told not to; runs on the test's event loop.

    Args:
        port: The server's port on loopback.
        aim: Words that are all in the statements which `cut_after` is about.
    """

    def __init__(self, port: int, *, aim: tuple[bytes, ...] = ()) -> None:
        self._to = port
        self._aim = aim
        self._to_cut = 0
        self._cutting: set[int] = set()
        #: How many connections were cut in place of the answer to such a statement.
        self.cuts = 0
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._answering = True
        self._connections = 0
        self._stranded = 0
        self.swallowed = asyncio.Event()
        #: What clients said, in pieces: in between they waited for an answer.
        self.requests: list[bytes] = []

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def go_silent(self) -> None:
        """Pass nothing on any more, and keep the connections."""
        self._flowing.clear()

    def cut_after(self, times: int) -> None:
        """Let so many of the statements aimed at arrive, and cut the line in place of an answer."""
        self._to_cut = times

    def strand(self) -> None:
        """Pass nothing on any more over the connections that there are; let new ones work."""
        self._stranded = self._connections

    @property
    def connections(self) -> int:
        """Return how many connections were ever made."""
        return self._connections

    @property
    def open_connections(self) -> int:
        """Return how many of them are open now."""
        return len(self._writers) // 2

    def flow(self) -> None:
        self._flowing.set()
        self._answering = True

    def swallow_answers(self) -> None:
        """Pass on what clients say; when the server answers, close the connection instead."""
        self._answering = False

    def cut(self) -> None:
        """Close the connections that there are."""
        for writer in self._writers:
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        self._connections += 1
        number = self._connections
        for work in (
            self._pump(number, reader, back, answers=False),
            self._pump(number, there, writer),
        ):
            pump = asyncio.ensure_future(work)
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(
        self,
        number: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        answers: bool = True,
    ) -> None:
        prepared: set[bytes] = set()
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                await self._flowing.wait()
                if number <= self._stranded:
                    continue
                if not answers:
                    self.requests.append(data)
                    if self._hit(data, prepared) and self._to_cut:
                        self._to_cut -= 1
                        self._cutting.add(number)
                elif number in self._cutting:
                    self.cuts += 1
                    break
                elif not self._answering:
                    self.swallowed.set()
                    break
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
        self._writers.discard(writer)

    def _hit(self, data: bytes, prepared: set[bytes]) -> bool:
        """Tell whether a client asks for a statement aimed at, by its text or its prepared name."""
        named = any(b"\0%b\0" % name in data for name in prepared)
        if not self._aim or not all(word in data for word in self._aim):
            return named
        names = _PREPARING.findall(data)
        prepared.update(names)
        return not names
