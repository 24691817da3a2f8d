"""Background tasks, each of which has an owner and an end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")


class Tasks:
    """Owns every background task of one event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        #: Set when the owner wants to go: whoever loops looks at it and comes to an end.
        self.closing = asyncio.Event()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[object, object, T], *, name: str) -> asyncio.Task[T]:
        """Run work in a task of its own, which no request can cancel."""
        task: asyncio.Task[T] = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[T]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Whoever waits is told; that the waiting one has gone is no defect.
            task.exception()

    def running(self) -> list[asyncio.Task[object]]:
        """Return the tasks that have not come to their end."""
        return list(self._tasks)

    async def drain(self, timeout: float) -> None:
        """Let all tasks come to their end for at most `timeout` seconds, then cancel the rest."""
        self.closing.set()
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        # Again and again: what comes to its end may start another, such as a revocation.
        while self._tasks and (left_over := end - loop.time()) > 0:
            await asyncio.wait(set(self._tasks), timeout=left_over)
        for task in (left := set(self._tasks)):
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


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
            await asyncio.wait({task}, timeout=end - loop.time())
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        raise cancelled
