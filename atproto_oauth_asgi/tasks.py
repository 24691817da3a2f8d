"""Background tasks, each of which has an owner and an end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import TypeVar

import anyio
from starlette.exceptions import HTTPException

from atproto_oauth_asgi.errors import ATProtoOAuthError
from atproto_oauth_asgi.instrumentation import Events

T = TypeVar("T")
#: Seconds that a cancelled task gets to come to its end.
CANCEL_WITHIN = 5.0
#: Tasks that were going on at some moment.
Running = Collection[asyncio.Task[object]]


class Kept(asyncio.Task[T]):
    """Is a task that an event loop which ends waits for, once `kept` is set.

    `asyncio.run` cancels whatever is left when its main coroutine has returned, and then runs the
    loop until that is over. Everybody else may cancel it as ever.

    Args:
        work: What it does.
        name: Its name.
        at_end: Called when the loop ends, so that work which goes on for ever comes to an end.
    """

    def __init__(
        self,
        work: Coroutine[object, object, T],
        *,
        name: str | None = None,
        at_end: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(work, loop=asyncio.get_running_loop(), name=name)
        self.kept = False
        self._at_end = at_end

    def cancel(self, msg: object = None) -> bool:
        """Cancel, unless the event loop ends and the task is to be kept."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            if self.kept and not self.done():
                if self._at_end is not None:
                    self._at_end()
                return False
        return super().cancel(msg)


class Tasks:
    """Owns every background task of one event loop."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._tasks: set[asyncio.Task[object]] = set()
        self._spare: set[asyncio.Task[object]] = set()
        # The latest of those who wait for the end of all tasks: the earlier ones leave it to them.
        self._latest: object = None
        # Whether the event loop itself ends.
        self._over = False
        #: Set when the owner wants to go: whoever loops looks at it and comes to an end.
        self.closing = asyncio.Event()

    def start(self, work: Coroutine[object, object, T], *, name: str) -> Kept[T]:
        """Run work in a task of its own, which no request can cancel."""
        task = Kept(work, name=name, at_end=self._end)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def start_spare(self, work: Coroutine[object, object, None], *, name: str) -> None:
        """Run work that is good to have: an owner who goes does not wait for it."""
        task = asyncio.create_task(work, name=name)
        self._spare.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[T]) -> None:
        self._tasks.discard(task)
        self._spare.discard(task)
        error = None if task.cancelled() else task.exception()
        known = isinstance(error, ATProtoOAuthError | HTTPException)
        if error is not None and not known and not isinstance(error.__cause__, ATProtoOAuthError):
            # Whoever waits is told, but perhaps nobody does any more.
            self._events.error("task.failed", error, task=task.get_name())

    def _end(self) -> None:
        self._over = True
        self.closing.set()

    def go_on(self) -> None:
        """Take back that the owner wants to go, unless the event loop ends."""
        if not self._over:
            self.closing.clear()

    def running(self) -> list[asyncio.Task[object]]:
        """Return the tasks that have not come to their end."""
        # One that is done is let go of in the next round of the loop only.
        return [task for task in (*self._tasks, *self._spare) if not task.done()]

    async def drain(self, timeout: float) -> None:
        """Let all tasks come to their end for at most `timeout` seconds, then cancel the rest.

        Who is cancelled here has left nothing behind that would hinder whoever comes next.
        """
        me = self._latest = object()
        self.closing.set()
        try:
            await self._drain(timeout, me)
        except asyncio.CancelledError:
            if self._latest is me:
                self.go_on()
            raise

    async def _drain(self, timeout: float, me: object) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        # A login may use a job, which leaves as the last owner: it does not wait for itself.
        own = asyncio.current_task()

        def goes_on() -> bool:
            return self.closing.is_set() and self._latest is me

        await _cancel(self._spare - {own})
        # A task that ends may have started another, such as a revocation.
        while (left := self._tasks - {own}) and goes_on() and loop.time() < end:
            await asyncio.wait(left, timeout=end - loop.time())
        for _ in range(3):
            if goes_on():
                await _cancel((self._tasks | self._spare) - {own})


async def _cancel(tasks: Collection[asyncio.Task[object]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        # What an app's own code swallows holds nobody up for ever.
        await asyncio.wait(tasks, timeout=CANCEL_WITHIN)


async def finish(task: asyncio.Future[T], *, within: float) -> None:
    """Wait for a task for at most `within` seconds, even if the waiting request is cancelled.

    Where nothing owns the end of the event loop, a request that left early would leave the task
    frozen or cut off, and an answer with the only live tokens would be lost.
    """
    cancelled: asyncio.CancelledError | None = None
    loop = asyncio.get_running_loop()
    end = loop.time() + within
    while not task.done() and loop.time() < end:
        try:
            # anyio cancels again in every round of the loop; that would be a busy loop.
            with anyio.CancelScope(shield=True):
                await asyncio.wait({task}, timeout=end - loop.time())
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        raise cancelled
