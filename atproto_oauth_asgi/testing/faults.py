"""Trouble on demand at the token endpoint.

Faults and pauses touch only requests whose DPoP nonce was accepted: the challenge that usually
comes first is not what a test means by "the next token request".
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Literal

from atproto_oauth_asgi.testing.web import ConnectionDropped, OAuthRefusal

When = Literal["before", "after"]
_Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]


class Pause:
    """Holds token requests until they are released; safe to steer from another thread."""

    def __init__(self, *, grant: str | None, when: When) -> None:
        self.grant = grant
        self.when = when
        self._lock = threading.Lock()
        self._open = False
        self._held: list[_Waiter] = []
        self._watchers: list[tuple[int, _Waiter]] = []
        #: How many requests have come so far, released ones included.
        self.total = 0

    @property
    def waiting(self) -> int:
        """Return how many requests are held now."""
        return len(self._held)

    async def hold(self) -> None:
        """Wait until released."""
        loop = asyncio.get_running_loop()
        mine: _Waiter = (loop, loop.create_future())
        with self._lock:
            if self._open:
                return
            self._held.append(mine)
            self.total += 1
            come = [waiter for count, waiter in self._watchers if count <= self.total]
            self._watchers = [pair for pair in self._watchers if pair[0] > self.total]
        _wake(come)
        try:
            await mine[1]
        finally:
            with self._lock:
                if mine in self._held:
                    self._held.remove(mine)

    async def arrived(self, count: int = 1) -> None:
        """Wait until so many requests have come since the pause began."""
        loop = asyncio.get_running_loop()
        mine: _Waiter = (loop, loop.create_future())
        with self._lock:
            if self.total >= count:
                return
            self._watchers.append((count, mine))
        await mine[1]

    def release(self, count: int | None = None) -> None:
        """Let so many held requests go on; all of them, and later ones too, by default."""
        with self._lock:
            if count is None:
                self._open = True
                count = len(self._held)
            freed, self._held = self._held[:count], self._held[count:]
        _wake(freed)


def _wake(waiters: list[_Waiter]) -> None:
    for loop, future in waiters:
        loop.call_soon_threadsafe(_finish, future)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


@dataclass(slots=True, kw_only=True, eq=False)
class _Fault:
    kind: Literal["delay", "fail", "lose"]
    grant: str | None
    left: int
    seconds: float = 0.0
    status: int = 500
    retry_after: int | None = None


class Faults:
    """Holds what will go wrong next; each request meets the oldest fault that fits it."""

    def __init__(self) -> None:
        self._faults: list[_Fault] = []
        self._pauses: list[Pause] = []

    @contextmanager
    def losing_answers(self, grant: str | None = None) -> Generator[None]:
        """Lose the answer of every successful token request until the end of the block."""
        fault = _Fault(kind="lose", grant=grant, left=sys.maxsize)
        self._faults.append(fault)
        try:
            yield
        finally:
            if fault in self._faults:
                self._faults.remove(fault)

    def delay(self, seconds: float, *, times: int = 1, grant: str | None = None) -> None:
        """Make the next token requests wait, by the event loop's clock, before processing."""
        self._faults.append(_Fault(kind="delay", grant=grant, left=times, seconds=seconds))

    def fail(
        self,
        status: int = 500,
        *,
        times: int = 1,
        grant: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """Answer the next token requests with an error before processing: no token is used up."""
        self._faults.append(
            _Fault(kind="fail", grant=grant, left=times, status=status, retry_after=retry_after)
        )

    def lose_answer(self, *, times: int = 1, grant: str | None = None) -> None:
        """Process the next token requests, then drop the connection without an answer.

        Only requests that succeed count, so that it is always a rotation that is lost.
        """
        self._faults.append(_Fault(kind="lose", grant=grant, left=times))

    def clear(self) -> None:
        """Forget every fault, and release every pause."""
        self._faults.clear()
        for pause in self._pauses:
            pause.release()

    @asynccontextmanager
    async def pause(
        self, *, grant: str | None = None, when: When = "before"
    ) -> AsyncGenerator[Pause]:
        """Hold token requests before they are processed, or their answers after; see `Pause`."""
        pause = Pause(grant=grant, when=when)
        self._pauses.append(pause)
        try:
            yield pause
        finally:
            self._pauses.remove(pause)
            pause.release()

    async def before(self, grant: str | None) -> None:
        """Let trouble happen before a token request is processed."""
        await self._hold(grant, "before")
        delay = self._take("delay", grant)
        if delay is not None:
            await asyncio.sleep(delay.seconds)
        failure = self._take("fail", grant)
        if failure is not None:
            retry = failure.retry_after
            headers = () if retry is None else (("retry-after", str(retry)),)
            error = "server_error" if failure.status >= 500 else "temporarily_unavailable"
            raise OAuthRefusal(error, "Server error", status=failure.status, headers=headers)

    async def after(self, grant: str | None, *, succeeded: bool) -> None:
        """Let trouble happen after a token request was processed."""
        await self._hold(grant, "after")
        if succeeded and self._take("lose", grant) is not None:
            raise ConnectionDropped

    async def _hold(self, grant: str | None, when: When) -> None:
        for pause in tuple(self._pauses):
            if pause.when == when and pause.grant in {None, grant}:
                await pause.hold()

    def _take(self, kind: str, grant: str | None) -> _Fault | None:
        for fault in self._faults:
            if fault.kind == kind and fault.grant in {None, grant}:
                fault.left -= 1
                if fault.left <= 0:
                    self._faults.remove(fault)
                return fault
        return None
