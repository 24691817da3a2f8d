"""Faults of the refresh itself."""
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from atproto_oauth_asgi import lease, refresh
from atproto_oauth_asgi.errors import StoreUnavailable
from atproto_oauth_asgi.lease import Hold, LeaseLost, Leases, Watch
from atproto_oauth_asgi.live import Flight, LiveSession
from atproto_oauth_asgi.refresh import Refresher
from atproto_oauth_asgi.store import SessionRecord
from tests.refresh.faults import fault, nothing

# --- One at a time ---


@fault("no single flight")
def remove_single_flight(patch: pytest.MonkeyPatch) -> None:
    def start(self: Any, live: LiveSession) -> Flight:
        flight = Flight()
        flight.task = self._tasks.start(self._fly(live, flight), name="refresh")
        return flight

    patch.setattr(Refresher, "start", start)
    # `begin` joins what it knows of as well.
    patch.setattr(LiveSession, "flight", property(lambda _: None, nothing), raising=False)


@fault("losers do not adopt")
def _no_adopt(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leases, "adopt", nothing)


@fault("pauses do not grow")
def _same_pauses(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lease, "min", lambda _a, _b: 0.008, raising=False)


@fault("an old row is adopted")
def _old_row(patch: pytest.MonkeyPatch) -> None:
    adopt: Any = LiveSession.adopt

    def faulty(self: LiveSession, record: SessionRecord, **kwargs: Any) -> None:
        self.version = 0
        adopt(self, record, **kwargs)

    patch.setattr(LiveSession, "adopt", faulty)


@fault("one owner for all")
def _one_owner(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(refresh, "secrets", SimpleNamespace(token_hex=lambda n: "ab" * n))


# --- Mark ---


def _as_marked(hold: Hold) -> None:
    hold.marking = hold.marked = hold.departed = True
    hold.sent = time.monotonic()
    hold.flight.depart()


@fault("mark skipped")
def _mark_skipped(patch: pytest.MonkeyPatch) -> None:
    async def faulty(_self: Leases, hold: Hold) -> None:
        _as_marked(hold)

    patch.setattr(Leases, "mark", faulty)


@fault("marked at acquire")
def _marked_early(patch: pytest.MonkeyPatch) -> None:
    acquire: Any = Leases.acquire

    async def faulty(self: Leases, hold: Hold) -> bool:
        taken: bool = await acquire(self, hold)
        if taken:
            await self.mark(hold)
        return taken

    patch.setattr(Leases, "acquire", faulty)


@fault("one mark for two POSTs")
def _one_mark(patch: pytest.MonkeyPatch) -> None:
    mark: Any = Leases.mark

    async def faulty(self: Leases, hold: Hold) -> None:
        if not hold.marked:
            await mark(self, hold)

    patch.setattr(Leases, "mark", faulty)


@fault("mark result ignored")
def _mark_ignored(patch: pytest.MonkeyPatch) -> None:
    mark: Any = Leases.mark

    async def faulty(self: Leases, hold: Hold) -> None:
        try:
            await mark(self, hold)
        except LeaseLost:
            _as_marked(hold)

    patch.setattr(Leases, "mark", faulty)


@fault("an unanswered mark counts")
def _mark_unanswered(patch: pytest.MonkeyPatch) -> None:
    mark: Any = Leases.mark

    async def faulty(self: Leases, hold: Hold) -> None:
        try:
            async with asyncio.timeout(0.1):
                await mark(self, hold)
        except (StoreUnavailable, TimeoutError):
            _as_marked(hold)

    patch.setattr(Leases, "mark", faulty)


@fault("a slow mark is good")
def _slow_mark(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lease, "max", lambda _a, _b: 0.0, raising=False)


@fault("every mark is slow")
def _all_slow(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lease, "max", lambda a, _b: 5.1 if a > 0 else 0.0, raising=False)


@fault("the wall clock is not asked")
def _no_wall(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lease, "abs", lambda _: 0.0, raising=False)


# --- Watch ---


@fault("watch ignored")
def _no_watch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Watch, "see", lambda _self, record: lease._dead_lease(record))


@fault("any dead lease was watched")
def _any_lease(patch: pytest.MonkeyPatch) -> None:
    see: Any = Watch.see

    def faulty(self: Watch, record: SessionRecord) -> Any:
        if self._lease is not None:
            self._lease = lease._dead_lease(record)
        return see(self, record)

    patch.setattr(Watch, "see", faulty)


@fault("a pause counts as watching")
def _pauses_count(patch: pytest.MonkeyPatch) -> None:
    kept: list[Watch] = []

    def one_for_all(timing: Any) -> Watch:
        kept.append(Watch(timing))
        return kept[0]

    patch.setattr(lease, "min", lambda a, _b: a, raising=False)
    patch.setattr(lease, "Watch", one_for_all)
