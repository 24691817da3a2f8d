"""The lease on a session's row: who may refresh it, and the journal of what was tried."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from atproto_oauth_asgi.errors import RefreshFailed, SealBroken, StoreUnavailable
from atproto_oauth_asgi.instrumentation import Events
from atproto_oauth_asgi.live import Flight, LiveSession
from atproto_oauth_asgi.refresh_timing import RefreshTiming, milliseconds
from atproto_oauth_asgi.store import SessionRecord, Store
from atproto_oauth_asgi.tasks import Tasks


class TooSlow(Exception):  # never leaves the refresh
    """The store needs too long to announce a request: nothing was sent."""


class LeaseLost(Exception):  # never leaves the refresh
    """The row is not ours to refresh any more: nothing may be sent."""


@dataclass(slots=True, kw_only=True)
class Hold:
    """One worker's hold on one version of one session."""

    live: LiveSession
    flight: Flight
    version: int
    owner: str
    #: Attempts in the journal before this worker added its own.
    attempts_before: int = 0
    #: A mark was sent; whether it arrived is known when `marked` is true too.
    marking: bool = False
    marked: bool = False
    #: A request left that may have spent the token.
    departed: bool = False
    #: When the last token request left, by the monotonic clock.
    sent: float = 0.0


class Leases:
    """Takes, marks and gives back the leases of one event loop."""

    def __init__(
        self,
        *,
        store: Store,
        timing: RefreshTiming,
        tasks: Tasks,
        watches: Watches,
        attended: Callable[[], bool],
        events: Events,
    ) -> None:
        self._events = events
        self._store = store
        self._timing = timing
        self._tasks = tasks
        self._watches = watches
        # Whether somebody is there who would see a token request through.
        self._attended = attended

    async def acquire(self, hold: Hold) -> bool:
        """Take the lease, or wait for whoever has it and adopt what they bring."""
        try:
            return await self._acquire(hold)
        except StoreUnavailable:
            # Whoever holds the lease may not have reached the store either.
            self._watches.forget(hold.live.id)
            raise

    async def _acquire(self, hold: Hold) -> bool:
        live, timing = hold.live, self._timing
        watch = self._watches.of(live.id)
        watched: tuple[str, int] | None = None
        pause = timing.poll_first
        give_up = time.monotonic() + timing.give_up
        try_now = True
        while time.monotonic() < give_up and not self._tasks.closing.is_set():
            if try_now and await self._store.acquire_refresh(
                live.id,
                version=hold.version,
                owner=hold.owner,
                lease_ms=milliseconds(timing.lease),
                watched=watched,
            ):
                return True
            record = await self._store.load_session(live.id)
            self.adopt(live, record)
            if (
                record is None
                or record.status != "active"
                or live.version != hold.version
                or record.refresh_wait_ms > 0
            ):
                return False
            watched = watch.see(record)
            # A lease that runs is left alone: no write until the row can be ours, then at once.
            tried, try_now = try_now, watched is not None or _free(record)
            if tried or not try_now:
                await asyncio.sleep(pause)
                pause = min(pause * 1.1, timing.poll_longest)
        return False

    def adopt(self, live: LiveSession, record: SessionRecord | None) -> None:
        """Take over what the row says; a row that is gone has expired."""
        if record is None:
            live.end("expired")
            return
        try:
            live.adopt(record)
        except SealBroken:
            self._events.exception("session.seal_broken", session=live.id, did=live.did)
            raise

    async def mark(self, hold: Hold) -> None:
        """Announce the request that is about to leave; not a byte of it goes out otherwise."""
        live, timing = hold.live, self._timing
        # Thrice: a store that needs longer than the bound each time is in no state to refresh.
        for _ in range(3):
            self._check_attendance(hold)
            monotonic, wall = time.monotonic(), time.time()
            hold.marking = True
            marked = await self._store.mark_refresh(
                live.id,
                version=hold.version,
                owner=hold.owner,
                lease_ms=milliseconds(timing.marked_lease),
                first=not hold.marked,
            )
            if not marked:
                raise LeaseLost
            hold.marked = True
            hold.sent = time.monotonic()
            # Both clocks: one stands still while a machine sleeps, the other may be set.
            if max(hold.sent - monotonic, abs(time.time() - wall)) <= timing.mark_to_send:
                self._check_attendance(hold)
                hold.departed = True
                hold.flight.depart()
                return
        raise TooSlow

    def _check_attendance(self, hold: Hold) -> None:
        """Send nothing where nobody would be there for the answer."""
        task = hold.flight.task
        cancelled = task is not None and task.cancelling() > 0
        if cancelled or self._tasks.closing.is_set() or not self._attended():
            raise LeaseLost

    async def insist(self, work: Callable[[], Awaitable[None]]) -> None:
        """Write down what happened, while the lease lasts, whatever the database does."""
        deadline = time.monotonic() + self._timing.marked_lease
        while True:
            try:
                await work()
            except StoreUnavailable:
                if self._tasks.closing.is_set():
                    deadline = min(deadline, time.monotonic() + self._timing.wait)
                if time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(self._timing.commit_again)
            else:
                return

    async def give_back(
        self, hold: Hold, message: str, *, wait_ms: int | None = None, unspent: bool = False
    ) -> None:
        """Let nobody wait any longer, then give the lease back, however long the store needs.

        Until that is written this process starts no other refresh of the session.
        """
        hold.flight.error = RefreshFailed(message)
        hold.flight.serve()
        try:
            await self.insist(lambda: self._release(hold, wait_ms=wait_ms, unspent=unspent))
        except StoreUnavailable:
            return

    async def postpone(
        self,
        hold: Hold,
        message: str,
        *,
        retry_after: float | None = None,
        unspent: bool = False,
    ) -> None:
        """Give the lease back with a pause that every worker keeps; the session stays."""
        live, timing = hold.live, self._timing
        live.failures += 1
        pause = min(timing.backoff, 2.0 ** min(live.failures, 16))
        pause *= random.uniform(0.8, 1.2)  # noqa: S311  # jitter
        if retry_after is not None:
            pause = min(max(1.0, retry_after), timing.retry_after)
        live.refresh_at = time.monotonic() + pause
        self._events.warning(
            "refresh.postponed", session=live.id, did=live.did, pause=round(pause, 3), why=message
        )
        await self.give_back(hold, message, wait_ms=milliseconds(pause), unspent=unspent)

    async def _release(self, hold: Hold, *, wait_ms: int | None, unspent: bool) -> None:
        live = hold.live
        if hold.marking and not hold.marked:
            # The mark was not acknowledged, so nothing was sent; whether it is in the journal
            # must be looked up, or a revocation later on would be called by the wrong name.
            record = await self._store.load_session(live.id)
            unspent = (
                record is not None
                and record.lease_owner == hold.owner
                and record.attempts > hold.attempts_before
            )
        else:
            unspent = hold.marked and (unspent or not hold.departed)
        await self._store.release_refresh(
            live.id, version=hold.version, owner=hold.owner, wait_ms=wait_ms, unspent=unspent
        )


class Watch:
    """Watches a lease that ended with a token request announced and none concluded.

    Its holder may be cut off from the database with the only live tokens in hand; it tries to
    store them once a second. So the row must be seen unchanged over a *working* connection for a
    while: time in which this worker could not look, or was paused itself, does not count.
    """

    def __init__(self, timing: RefreshTiming) -> None:
        self._timing = timing
        self._lease: tuple[str, int] | None = None
        self._watched = 0.0
        self._last = 0.0

    def see(self, record: SessionRecord) -> tuple[str, int] | None:
        """Take note of a row; return the lease to take over once it was watched for long enough."""
        now = time.monotonic()
        lease = _dead_lease(record)
        if lease is None or lease != self._lease:
            self._lease, self._watched = lease, 0.0
        else:
            self._watched += min(now - self._last, 2 * self._timing.poll_longest)
        self._last = now
        return lease if lease is not None and self._watched >= self._timing.watch else None


class Watches:
    """Keeps what this process has watched, so that short-lived event loops add up to a watch."""

    LIMIT = 1000

    def __init__(self, timing: RefreshTiming) -> None:
        self._timing = timing
        self._watches: dict[str, Watch] = {}

    def of(self, session_id: str) -> Watch:
        """Return the watch over a session's row."""
        watch = self._watches.get(session_id)
        if watch is None:
            if len(self._watches) >= self.LIMIT:
                self._watches.clear()
            watch = self._watches.setdefault(session_id, Watch(self._timing))
        return watch

    def forget(self, session_id: str) -> None:
        """Begin the watch over a session's row anew."""
        self._watches.pop(session_id, None)


def _dead_lease(record: SessionRecord) -> tuple[str, int] | None:
    if record.lease_owner is None or record.lease_until is None or record.attempts == 0:
        return None
    over = record.lease_remaining_ms is not None and record.lease_remaining_ms <= 0
    return (record.lease_owner, record.lease_until) if over else None


def _free(record: SessionRecord) -> bool:
    if record.lease_until is None:
        return True
    over = record.lease_remaining_ms is not None and record.lease_remaining_ms <= 0
    return over and record.attempts == 0
