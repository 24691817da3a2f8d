"""Acquire, mark and take-over: who may send a token request, and when."""

from __future__ import annotations

import asyncio
import threading
import time
from itertools import pairwise
from types import SimpleNamespace

import pytest

from atproto_oauth_asgi import lease as lease_module
from atproto_oauth_asgi.errors import StoreUnavailable
from atproto_oauth_asgi.store import SessionStatus
from tests.refresh import fleet as fleets
from tests.refresh.fleet import Fleet, Worker, fleet, timing, within
from tests.refresh.sentences import shows
from tests.refresh.wire import counted

# --- One at a time ---


@shows("6.1.flight", without=("no single flight",))
async def fifty_calls_of_one_process_acquire_once() -> None:
    async with fleet() as here, here.worker() as one:
        answers = await within(4, asyncio.gather(*(one.get() for _ in range(50))))

        assert [answer.status_code for answer in answers] == [200] * 50
        assert len(one.wire.of("acquire")) == 1
        assert here.refreshes == 1


@shows("6.1.loops", without=("lease removed",))
async def two_event_loops_make_one_token_request() -> None:
    async with fleet() as here, here.network.pause_token_endpoint("refresh_token") as pause:
        ends: list[int] = []

        async def elsewhere() -> None:
            async with here.worker() as other:
                await other.refresh()
                ends.append(other.live.version)

        thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
        async with here.worker() as one:
            flight = one.start()
            await within(2, pause.arrived())
            thread.start()
            # The other loop gets as far as it ever does while this one holds the lease.
            await asyncio.sleep(0.3)
            second = pause.total
            pause.release()
            await one.done(flight)
        await asyncio.to_thread(thread.join, 5)

        assert second == 1
        assert here.refreshes == 1
        assert ends == [2]


@shows("6.2.adopt", without=("lease removed", "losers do not adopt"))
async def a_loser_adopts_and_sends_nothing() -> None:
    async with fleet() as here, here.worker() as one, here.worker() as two:
        async with here.network.pause_token_endpoint("refresh_token") as pause:
            first = one.start()
            await within(2, pause.arrived())
            second = two.start()
            await asyncio.sleep(0.05)
            assert pause.total == 1
            pause.release()
            await one.done(first)
            await two.done(second)

        assert here.refreshes == 1
        assert two.live.version == one.live.version == 2
        assert two.live.tokens == one.live.tokens
        assert (await two.get()).status_code == 200


@shows("6.2.poll", without=("pauses do not grow",))
async def losers_poll_soon_then_less_often() -> None:
    with timing(poll_longest=0.2):
        async with fleet() as here, here.worker() as two:
            here.row.lease_owner, here.row.lease_until = "another", here.clock() + 400
            flight = two.start()
            await asyncio.sleep(0.35)
            reads = [one.at for one in two.wire.of("read")]
            here.row.refresh_after = here.clock() + 60_000
            await two.done(flight)

        pauses = [after - before for before, after in pairwise(reads)]
        assert 0.005 <= pauses[0] < 0.1
        # 8 ms throughout would be about 43 of them.
        assert 5 <= len(pauses) <= 26
        assert sum(pauses[-3:]) > 2 * sum(pauses[:3])


@shows("6.1.forward", without=("an old row is adopted",))
async def a_late_read_never_brings_an_old_token_back() -> None:
    async with fleet() as here, here.worker() as one:
        late = await here.record()
        await one.refresh()
        token = one.live.tokens.access_token

        found = one.runtime.sessions.usable(late)

        assert found is one.live
        assert one.live.version == 2
        assert one.live.tokens.access_token == token
        assert (await one.get()).status_code == 200
        assert here.refreshes == 1


# --- Acquire ---


async def _refused(here: Fleet, worker: Worker) -> None:
    """See a refresh through that must not win the lease."""
    with timing(wait=0.1):
        flight = worker.start()
        await worker.done(flight, 5)
    assert worker.wire.won("acquire") == []
    assert here.sent == 0


@shows("6.2.acquire.version", without=("acquire ignores the version",))
async def an_old_version_acquires_nothing() -> None:
    async with fleet() as here, here.worker() as one:
        await here.commit_elsewhere(one)
        here.row.refresh_after = 0
        await _refused(here, one)
        assert one.live.version == 2


@shows("6.2.acquire.active", without=("acquire ignores the status",))
async def a_session_that_is_not_active_is_not_acquired() -> None:
    async with fleet() as here, here.worker() as one:
        status: SessionStatus = "reauth_required"
        here.row.status = status
        await _refused(here, one)


@shows("6.2.acquire.interval", "6.7.backoff", without=("acquire ignores the interval",))
async def nobody_acquires_before_a_refresh_is_allowed() -> None:
    async with fleet() as here, here.worker() as one:
        here.row.refresh_after = here.clock() + 60_000
        await _refused(here, one)
        assert not one.live.allowed


@shows("6.2.acquire.held", "6.2.clock", without=("acquire ignores the lease", "worker's clock"))
async def a_lease_that_runs_is_left_alone() -> None:
    async with fleet() as here, here.worker() as one:
        # By the store's clock it runs; the worker's own is an hour behind that.
        here.row.lease_owner, here.row.lease_until = "another", here.clock() + 250
        start = time.monotonic()
        await one.refresh()

        assert one.wire.acquired().at - start >= 0.2
        assert here.refreshes == 1


@shows("6.2.acquire.unspent", without=("unspent leases are watched",))
async def a_lease_that_ran_out_unannounced_is_taken_at_once() -> None:
    with timing(watch=30.0):
        async with fleet() as here, here.worker() as one:
            here.row.lease_owner, here.row.lease_until = "dead", here.clock() - 1
            await one.refresh(1)
            assert here.refreshes == 1


@shows("6.2.acquire.watched", without=("acquire ignores what was watched",))
async def an_announced_lease_that_ran_out_is_not_taken_unseen() -> None:
    async with fleet() as here, here.worker() as one:
        here.row.lease_owner, here.row.lease_until = "dead", here.clock() - 1
        here.row.attempts = 1
        begun = time.monotonic()
        await one.refresh()
        assert one.wire.of("acquire")[0].result is False
        assert one.wire.acquired().at - begun >= fleets.TIMING.watch * 0.9


@shows("6.2.lease", without=("lease lengths are swapped",))
async def a_mark_leases_for_longer_than_an_acquire() -> None:
    async with fleet() as here, here.worker() as one:
        await one.refresh()

        assert [passed.lease_ms for passed in one.wire.of("acquire")] == [400]
        assert {passed.lease_ms for passed in one.wire.of("mark")} == {2000}


@shows("6.2.owner", without=("one owner for all",))
async def each_refresh_has_an_owner_of_its_own() -> None:
    async with fleet() as here, here.worker() as one, here.worker() as two:
        await one.refresh()
        here.expire()
        await two.look_again()
        await two.refresh()

        owners = {passed.owner for wire in (one.wire, two.wire) for passed in wire.won("acquire")}
        assert here.refreshes == 2
        assert len(owners) == 2
        assert all(owner is not None and len(bytes.fromhex(owner)) == 16 for owner in owners)


# --- Mark ---


@shows("6.2.mark", without=("mark skipped", "marked at acquire", "one mark for two POSTs"))
async def the_row_announces_each_request_right_before_it() -> None:
    async with fleet() as here, here.worker() as one:
        async with (
            here.network.hold(f"/{one.live.did}") as looking,
            here.network.hold("/oauth/token") as arriving,
        ):
            flight = one.start()
            await within(2, looking.arrived())
            assert here.row.attempts == 0, "announced before the servers were checked"
            looking.release()
            # The nonce challenge, then the request that is processed.
            for number in (1, 2):
                await within(2, arriving.arrived(number))
                assert here.row.attempts == 1
                assert here.row.lease_owner == one.wire.acquired().owner
                assert len(one.wire.won("mark")) == number
                here.clock.move(1.0)
                arriving.release(1)
            await one.done(flight)
        assert one.live.version == 2


@shows("6.2.mark.attempts", without=("each POST counts as an attempt",))
async def a_nonce_challenge_is_no_second_attempt() -> None:
    async with fleet() as here, here.worker() as one:  # noqa: SIM117
        async with here.network.pause_token_endpoint("refresh_token") as pause:
            flight = one.start()
            await within(2, pause.arrived())
            assert [passed.first for passed in one.wire.won("mark")] == [True, False]
            assert here.row.attempts == 1
            pause.release()
            await one.done(flight)


@shows("6.2.mark.first", without=("first_sent moves",))
async def the_journal_keeps_when_the_first_attempt_was_announced() -> None:
    async with fleet() as here, here.worker() as one, here.worker() as two:
        here.network.faults.fail(503)
        await one.refresh()
        first = here.row.first_sent
        assert first is not None
        here.clock.move(300)
        await two.look_again()
        async with here.network.pause_token_endpoint("refresh_token") as pause:
            flight = two.start()
            await within(2, pause.arrived())
            assert here.row.first_sent == first
            assert here.row.attempts == 2
            pause.release()
            await two.done(flight)
        assert here.row.first_sent is None


async def _changed_after_acquire(change: str) -> None:
    async with fleet() as here, here.worker() as one:
        async with here.network.hold(f"/{one.live.did}") as looking:
            flight = one.start()
            await within(2, looking.arrived())
            assert one.wire.won("acquire")
            if change == "owner":
                here.row.lease_owner = "another"
            elif change == "version":
                await here.commit_elsewhere(one)
                here.row.lease_owner = one.wire.acquired().owner
            else:
                await here.store.end_session(here.session_id, "logout")
            looking.release()
            await one.done(flight)

        assert one.wire.won("mark") == []
        assert here.sent == 0


@shows("6.2.mark.guard", "6.2.mark.none", without=("mark result ignored",))
async def whoever_lost_the_lease_sends_nothing() -> None:
    await _changed_after_acquire("owner")


@shows("6.2.mark.guard", "6.2.mark.none", without=("mark result ignored",))
async def whoever_was_overtaken_sends_nothing() -> None:
    await _changed_after_acquire("version")


@shows("6.2.mark.guard", "6.2.mark.none", without=("mark result ignored",))
async def whoever_was_logged_out_sends_nothing() -> None:
    await _changed_after_acquire("status")


@shows("6.2.mark.silent", without=("an unanswered mark counts",))
async def nothing_is_sent_when_the_mark_fails() -> None:
    async with fleet() as here, here.worker() as one:

        async def away() -> None:
            raise StoreUnavailable

        one.wire.before["mark"] = away
        flight = await one.refresh()

        assert here.sent == 0
        assert flight.error is not None
        assert here.row.lease_until is None, "the lease was kept"
        assert here.row.attempts == 0


@shows("6.2.mark.silent", without=("an unanswered mark counts",))
async def a_mark_that_arrived_unacknowledged_sends_nothing_and_is_taken_back() -> None:
    async with fleet() as here, here.worker() as one:

        async def lost() -> None:
            raise StoreUnavailable

        one.wire.after["mark"] = lost
        await one.refresh()

        assert here.sent == 0
        assert here.row.attempts == 0, "an attempt is in the journal that never was"


@shows("6.2.mark.silent", without=("an unanswered mark counts",))
async def nothing_is_sent_when_the_mark_hangs() -> None:
    async with fleet() as here, here.worker() as one:

        async def hang(_: int) -> None:
            await asyncio.Event().wait()

        one.wire.before["mark"] = counted(hang)
        flight = await one.refresh()

        assert here.sent == 0
        assert flight.error is not None


@shows("6.2.mark.monotonic", without=("a slow mark is good",))
async def a_slow_mark_is_made_again_before_anything_leaves() -> None:
    async with fleet() as here, here.worker() as one:

        async def slow(calls: int) -> None:
            if calls == 0:
                await asyncio.sleep(0.35)

        one.wire.before["mark"] = counted(slow)
        async with here.network.hold("/oauth/token") as arriving:
            flight = one.start()
            await within(2, arriving.arrived())
            assert len(one.wire.won("mark")) == 2
            arriving.release()
            await one.done(flight)
        assert here.refreshes == 1


@shows("6.2.mark.wall", without=("the wall clock is not asked",))
async def a_machine_that_slept_marks_again_before_anything_leaves() -> None:
    asleep = 0.0
    async with fleet() as here, here.worker() as one:

        async def sleeps(calls: int) -> None:
            nonlocal asleep
            if calls == 0:
                asleep = 30.0

        one.wire.before["mark"] = counted(sleeps)
        with pytest.MonkeyPatch.context() as patch:
            clocks = SimpleNamespace(
                monotonic=time.monotonic,
                time=lambda: time.time() + asleep,
            )
            patch.setattr(lease_module, "time", clocks)
            async with here.network.hold("/oauth/token") as arriving:
                flight = one.start()
                await within(2, arriving.arrived())
                assert len(one.wire.won("mark")) == 2
                arriving.release()
                await one.done(flight)
        assert here.refreshes == 1


@shows("6.2.mark.monotonic", without=("a slow mark is good",))
async def a_store_that_never_marks_in_time_sends_nothing() -> None:
    async with fleet() as here:

        async def slow() -> None:
            await asyncio.sleep(0.05)

        with timing(mark_to_send=0.02):
            async with here.worker() as one:
                one.wire.before["mark"] = slow
                await one.refresh()

        assert here.sent == 0
        assert here.row.attempts == 0
        assert here.row.lease_until is None


# --- Take-over ---


async def _announced(here: Fleet) -> None:
    here.row.lease_owner, here.row.lease_until = "dead", here.clock() - 1
    here.row.attempts, here.row.first_sent = 1, here.clock() - 90_000


@shows("6.6.watch", without=("watch ignored",))
async def an_announced_lease_is_taken_over_after_a_watch() -> None:
    async with fleet() as here, here.worker() as one:
        await _announced(here)
        start = time.monotonic()
        await one.refresh()

        assert one.wire.acquired().at - start >= 0.24
        # The dead one had not sent it after all.
        assert one.live.version == 2


@shows("6.6.watch", without=("watch ignored",))
async def a_holder_that_commits_late_keeps_its_session() -> None:
    async with fleet() as here, here.worker() as one:
        await _announced(here)
        flight = one.start()
        await asyncio.sleep(0.12)
        tokens = await here.commit_elsewhere(one)
        await one.done(flight)

        assert here.sent == 0
        assert one.live.tokens == tokens


@shows("6.6.unchanged", without=("any dead lease was watched",))
async def a_lease_that_changes_is_watched_anew() -> None:
    async with fleet() as here, here.worker() as one:
        await _announced(here)
        flight = one.start()
        await asyncio.sleep(0.15)
        # Another one took it over meanwhile, announced a request, and died too.
        here.row.lease_owner, here.row.lease_until = "dead too", here.clock() - 1
        changed = time.monotonic()
        await one.done(flight)

        assert one.wire.acquired().at - changed >= 0.24


@shows("6.6.working", without=("a pause counts as watching",))
async def time_in_which_nobody_could_look_does_not_count() -> None:
    async with fleet() as here, here.worker() as one:
        await _announced(here)

        async def away(calls: int) -> None:
            if calls == 3:
                await asyncio.sleep(0.4)

        one.wire.before["read"] = counted(away)
        await one.refresh()

        reads = [passed.at for passed in one.wire.of("read")]
        won = one.wire.acquired().at
        # Everything but the long pause is what was really watched.
        watched = won - reads[0] - 0.4
        assert watched >= 0.15


@shows("6.6.working", without=("a pause counts as watching",))
async def time_in_which_the_store_was_away_does_not_count() -> None:
    async with fleet() as here, here.worker() as one:
        await _announced(here)

        async def away(calls: int) -> None:
            if calls == 5:
                raise StoreUnavailable

        one.wire.before["read"] = counted(away)
        flight = await one.refresh()
        assert flight.error is not None
        assert one.wire.won("acquire") == []
        gone = time.monotonic()
        await asyncio.sleep(0.4)
        outage = time.monotonic() - gone
        await one.refresh()

        watched = one.wire.acquired().at - one.wire.of("read")[0].at - outage
        assert watched >= 0.15
        assert here.refreshes == 1
