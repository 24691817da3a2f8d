"""Work on a connection, which goes on to its end whoever is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from atproto_oauth_asgi.errors import StoreUnavailable

Result = TypeVar("Result")

#: Seconds between one try to stop work that is past its deadline and the next.
_AGAIN = 5.0


class Whole(asyncio.Task[Result]):
    """Is a task that nobody but its own timeouts can cancel.

    A cancellation inside SQLAlchemy can lose a connection on its way out of the pool or back; it
    also waits for the database, which is what a caller with a deadline must not do. An event loop
    that ends cancels its tasks and then waits for them: for this one until the work is done,
    which the database's timeouts bound, and the deadline where the database is silent.

    Args:
        work: What to do.
        deadline: Seconds until it is stopped, or None.
    """

    def __init__(self, work: Coroutine[object, object, Result], *, deadline: float | None) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(work, loop=loop)
        self._timer = None if deadline is None else loop.call_later(deadline, self._stop)
        self.add_done_callback(_seen)

    def cancel(self, msg: object = None) -> bool:
        """Cancel only when a timeout asks, a driver's inside the work or our own.

        Those ask from a callback of the running event loop, where no task is current.
        """
        try:
            from_outside = asyncio.current_task() is not None
        except RuntimeError:
            # No event loop runs: this one is being shut down.
            from_outside = True
        return False if from_outside else super().cancel(msg)

    def _stop(self) -> None:
        self.cancel()
        # A driver may wait once more, for the server to hear that nobody waits.
        self._timer = self.get_loop().call_later(_AGAIN, self._stop)

    def forget(self) -> None:
        """Let go of the timer, and mark an error as seen: the caller may have gone."""
        if self._timer is not None:
            self._timer.cancel()
        if not self.cancelled():
            self.exception()

    async def result_or_timeout(self) -> Result:
        """Return what the work returns.

        Raises:
            StoreUnavailable: it did not come to an end in time.
        """
        await asyncio.wait({self})
        if self.cancelled():
            raise StoreUnavailable(
                "The store's database does not answer in time; check that it runs, and the "
                "network between."
            )
        return self.result()


def _seen(task: asyncio.Task[Result]) -> None:
    if isinstance(task, Whole):
        task.forget()
