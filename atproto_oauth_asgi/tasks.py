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
        task.add_done_callback(self._tasks.discard)
        return task

    async def drain(self, timeout: float) -> None:
        """Let all tasks come to their end for at most `timeout` seconds, then cancel the rest."""
        self.closing.set()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout)
        for task in (left := set(self._tasks)):
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def finish(task: asyncio.Task[T]) -> T:
    """Wait for a task to its end even if the waiting request is cancelled meanwhile.

    Where nothing owns the end of the event loop, a request that left early would leave the task
    frozen or cut off: an answer with the only live tokens would be lost (RFC 9449 and the single
    use of refresh tokens allow no second try).
    """
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as exc:
            if task.cancelled():
                raise
            cancelled = exc
        except Exception:  # noqa: BLE001  # told by `result` below
            break
    if cancelled is not None:
        raise cancelled
    return task.result()
