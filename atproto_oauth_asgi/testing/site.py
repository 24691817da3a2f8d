"""One origin of the network as an ASGI app."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from email.utils import formatdate
from typing import Protocol

import httpx
from starlette.types import Receive, Scope, Send

from atproto_oauth_asgi.testing.faults import Pause, When
from atproto_oauth_asgi.testing.web import (
    Answer,
    ConnectionDropped,
    Handler,
    Request,
    read_request,
    send_answer,
)

#: Name of the ASGI extension by which `serving` lends the connection: a call closes it.
ABORT = "atproto_oauth_asgi.abort"

Change = Callable[[Answer], Answer]


class Interceptor(Protocol):
    """Stands before the servers of a network; either method may raise `ConnectionDropped`."""

    async def before(self, request: Request) -> Answer | None:
        """Let trouble happen before anything is processed; an answer goes out in place of it."""
        ...

    async def after(self, request: Request, answer: Answer) -> Answer:
        """Let trouble happen to an answer."""
        ...


class Alterations:
    """Changes or holds what the sites of a network answer, path by path."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._changes: list[tuple[str, Change]] = []
        self._pauses: list[tuple[str, Pause]] = []
        self._interceptors: list[Interceptor] = []

    @contextmanager
    def intercepted(self, interceptor: Interceptor) -> Generator[None]:
        """Let an interceptor see every request."""
        self._interceptors.append(interceptor)
        try:
            yield
        finally:
            self._interceptors.remove(interceptor)

    async def answered(self, request: Request, handler: Handler) -> Answer:
        """Return what comes of a request when the interceptors are done with it."""
        standing = tuple(self._interceptors)
        for interceptor in standing:
            instead = await interceptor.before(request)
            if instead is not None:
                return instead
        answer = await handler(request)
        for interceptor in standing:
            answer = await interceptor.after(request, answer)
        return answer

    @contextmanager
    def during(self, path: str, change: Change) -> Generator[None]:
        """Apply a change to every answer of a path."""
        entry = (path, change)
        self._changes.append(entry)
        try:
            yield
        finally:
            self._changes.remove(entry)

    @asynccontextmanager
    async def hold(self, path: str, when: When) -> AsyncGenerator[Pause]:
        """Hold every request of a path before it is processed, or its answer after."""
        pause = Pause(grant=None, when=when)
        entry = (path, pause)
        self._pauses.append(entry)
        try:
            yield pause
        finally:
            self._pauses.remove(entry)
            pause.release()

    async def pass_through(self, path: str, when: When) -> None:
        """Wait for the pauses of a path."""
        for wanted, pause in tuple(self._pauses):
            if wanted == path and pause.when == when:
                await pause.hold()

    def release(self) -> None:
        """Release every pause."""
        for _, pause in self._pauses:
            pause.release()

    def apply(self, path: str, answer: Answer) -> Answer:
        """Return the answer as it leaves, with the `Date` by which clients see a wrong clock."""
        answer = answer.with_header("date", formatdate(self._clock(), usegmt=True))
        for wanted, change in tuple(self._changes):
            if wanted == path:
                answer = change(answer)
        return answer


class Site:
    """Is an origin as an ASGI app.

    A request is processed to its end in a task of its own even if the client leaves, as real
    servers do: a token request that was sent rotates the tokens.
    """

    def __init__(self, answer: Handler, alterations: Alterations) -> None:
        self._handler = answer
        self._alterations = alterations
        self._running: set[asyncio.Task[Answer]] = set()
        #: Whether every connection breaks before anything is processed.
        self.down = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        assert scope["type"] == "http", "the development network speaks only HTTP"
        request = await read_request(scope, receive)
        if request is None:
            await send_answer(Answer(status=413), send)
            return
        if self.down:
            await _break(scope, receive)
            return
        task = asyncio.ensure_future(self._answer(request))
        self._running.add(task)
        task.add_done_callback(self._finished)
        try:
            answer = await asyncio.shield(task)
        except ConnectionDropped:
            await _break(scope, receive)
            return
        await send_answer(answer, send)

    async def _answer(self, request: Request) -> Answer:
        await self._alterations.pass_through(request.path, "before")
        answer = await self._alterations.answered(request, self._handler)
        await self._alterations.pass_through(request.path, "after")
        return self._alterations.apply(request.path, answer)

    def _finished(self, task: asyncio.Task[Answer]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            # Asked for here too, since nobody waits for the answer of a client that left.
            task.exception()


async def _break(scope: Scope, receive: Receive) -> None:
    """End the connection without an answer: close the socket, or raise where there is none."""
    abort: Callable[[], None] | None = scope.get("extensions", {}).get(ABORT)
    if abort is None:
        raise httpx.RemoteProtocolError("Server disconnected without sending a response.")
    abort()
    await receive()
