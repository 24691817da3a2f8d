"""Who waits for a lease, until when, and how it is given back."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import time

import pytest

from atproto_oauth_asgi.errors import RefreshFailed, StoreUnavailable
from atproto_oauth_asgi.lease import Watches
from tests.refresh.fleet import TIMING, Fleet, fleet
from tests.virtual_time import in_virtual_time


async def away() -> None:
    raise StoreUnavailable


def test_a_lease_that_is_given_back_is_taken_at_once_and_left_alone_before() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            assert await here.store.acquire_refresh(
                here.session_id, version=1, owner="other", lease_ms=60_000, watched=None
            )
            flight = one.start()
            await asyncio.sleep(20)
            # One try, and no write while the lease runs.
            assert len(one.wire.of("acquire")) == 1
            await here.store.release_refresh(
                here.session_id, version=1, owner="other", wait_ms=None, unspent=False
            )
            await one.done(flight, 2 * TIMING.poll_longest + 5)
            assert here.row.version == 2
            assert here.refreshes == 1

    in_virtual_time(run)


def held_for_ever(here: Fleet) -> None:
    here.row.lease_owner, here.row.lease_until = "another", here.clock() + 10**9


def test_who_waits_for_a_lease_gives_up_one_day() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            held_for_ever(here)
            start = time.monotonic()
            flight = one.start()
            await one.done(flight)
            assert time.monotonic() - start == pytest.approx(TIMING.give_up, abs=1)
            assert (flight.error, one.live.version, here.sent) == (None, 1, 0)

    in_virtual_time(run)


def test_a_process_that_goes_waits_for_no_lease() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            held_for_ever(here)
            flight = one.start()
            await asyncio.sleep(10)
            one.runtime.tasks.closing.set()
            await one.done(flight, TIMING.poll_longest)
            assert here.sent == 0

    in_virtual_time(run)


@pytest.mark.parametrize("what", ["gone", "ended", "renewed", "postponed"])
def test_who_waits_for_a_lease_sees_that_there_is_nothing_left_to_wait_for(what: str) -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            held_for_ever(here)
            flight = one.start()
            await asyncio.sleep(10)
            ended = None
            if what == "gone":
                del here.store._sessions[here.session_id]
                ended = "expired"
            elif what == "ended":
                await here.store.end_session(here.session_id, "revoked", version=1)
                ended = "revoked"
            elif what == "renewed":
                await here.commit_elsewhere(one)
                held_for_ever(here)
                here.row.refresh_after = 0
            else:
                here.row.refresh_after = here.clock() + 5000
            await one.done(flight, TIMING.poll_longest)
            assert one.live.ended_reason == ended
            assert one.live.version == (2 if what == "renewed" else 1)
            assert here.sent == 0

    in_virtual_time(run)


def test_a_refresh_under_way_is_joined_by_whoever_finds_the_account_moved() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            held_for_ever(here)
            flight = one.start()
            await asyncio.sleep(10)
            here.network.move_account("alice.test", here.network.add_host())
            one.runtime.upkeep.suspect(one.live)
            # The look is over, the wait is not.
            await asyncio.sleep(10)
            assert one.live.flight is flight
            assert len(one.wire.of("acquire")) == 1
            one.runtime.tasks.closing.set()
            await one.done(flight)

    in_virtual_time(run)


def test_a_watch_over_nothing_may_be_forgotten() -> None:
    watches = Watches(TIMING)
    watches.forget("nobody")
    first = watches.of("somebody")
    assert watches.of("somebody") is first
    watches.forget("somebody")
    assert watches.of("somebody") is not first


def test_watches_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watches, "LIMIT", 2)
    watches = Watches(TIMING)
    first, second = watches.of("first"), watches.of("second")
    # Those that are known are kept, also when there is room for no other.
    assert (watches.of("first"), watches.of("second")) == (first, second)
    watches.of("third")
    assert watches.of("first") is not first


@pytest.mark.parametrize(("closing", "seconds"), [(False, 75.0), (True, 5.0)])
def test_a_lease_is_given_back_for_as_long_as_it_lasts_or_the_process_waits(
    closing: bool, seconds: float
) -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            tries: list[float] = []

            async def fail() -> None:
                tries.append(time.monotonic())
                if closing:
                    one.runtime.tasks.closing.set()
                raise StoreUnavailable

            one.wire.before["release"] = fail
            here.network.faults.fail(503)
            await one.refresh()
            assert tries[-1] - tries[0] == pytest.approx(seconds, abs=1.5)
            assert len(tries) == pytest.approx(seconds, abs=1.5)

    in_virtual_time(run)


@pytest.mark.parametrize(
    ("arrives", "before", "after"), [(False, 0, 0), (False, 1, 1), (True, 0, 0), (True, 1, 1)]
)
def test_a_mark_that_nobody_acknowledged_is_taken_back_if_it_arrived(
    arrives: bool, before: int, after: int
) -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            here.row.attempts = before
            (one.wire.after if arrives else one.wire.before)["mark"] = away
            await one.refresh()
            assert here.row.attempts == after
            assert here.sent == 0

    in_virtual_time(run)


def test_a_lease_that_was_not_announced_is_told_to_who_waits() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:

            async def lose() -> None:
                here.row.lease_owner = "another"

            one.wire.before["mark"] = lose
            with pytest.raises(RefreshFailed) as caught:
                await one.get()
            assert str(caught.value) == "The refresh could not be announced."

    in_virtual_time(run)


def test_a_refresh_that_is_cancelled_while_it_is_announced_sends_nothing() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:

            async def cancel() -> None:
                # As an event loop does that ends: the refresh has not run since.
                assert one.live.flight is not None
                assert one.live.flight.task is not None
                one.live.flight.task.cancel()

            one.wire.after["mark"] = cancel
            flight = one.start()
            await one.done(flight)
            assert flight.task is not None
            assert flight.task.cancelled()
            assert here.sent == 0
            assert (here.row.version, here.row.status) == (1, "active")

    in_virtual_time(run)
