"""One origin of the network as an ASGI app."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager

import httpx
from starlette.types import Receive, Scope, Send

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


class Alterations:
    """Changes answers on their way out, as a faulty or hostile server would make them."""

    def __init__(self) -> None:
        self._changes: list[tuple[str, Change]] = []

    @contextmanager
    def during(self, path: str, change: Change) -> Generator[None]:
        """Apply a change to every answer of a path."""
        entry = (path, change)
        self._changes.append(entry)
        try:
            yield
        finally:
            self._changes.remove(entry)

    def apply(self, path: str, answer: Answer) -> Answer:
        """Return the answer as it leaves."""
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        assert scope["type"] == "http", "the development network speaks only HTTP"
        request = await read_request(scope, receive)
        if request is None:
            await send_answer(Answer(status=413), send)
            return
        task = asyncio.ensure_future(self._answer(request))
        self._running.add(task)
        task.add_done_callback(self._finished)
        try:
            answer = await asyncio.shield(task)
        except ConnectionDropped:
            abort: Callable[[], None] | None = scope.get("extensions", {}).get(ABORT)
            if abort is None:
                raise httpx.RemoteProtocolError(
                    "Server disconnected without sending a response."
                ) from None
            abort()
            await receive()
            return
        await send_answer(answer, send)

    async def _answer(self, request: Request) -> Answer:
        return self._alterations.apply(request.path, await self._handler(request))

    def _finished(self, task: asyncio.Task[Answer]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            # Asked for here too, since nobody waits for the answer of a client that left.
            task.exception()
