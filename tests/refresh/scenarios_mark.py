"""Mark: nothing leaves that the row does not announce."""

from __future__ import annotations

import asyncio

from atproto_oauth_asgi.errors import StoreUnavailable
from tests.refresh.fleet import fleet, within
from tests.refresh.sentences import shows
from tests.refresh.wire import counted
from tests.virtual_time import suspend

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

        async def hang() -> None:
            await asyncio.Event().wait()

        one.wire.before["mark"] = hang
        flight = await one.refresh()

        assert here.sent == 0
        assert flight.error is not None


@shows("6.2.mark.monotonic", without=("a slow mark is good", "every mark is slow"))
async def a_slow_mark_is_made_again_before_anything_leaves() -> None:
    for seconds, marks in ((4.9, 1), (5.1, 2)):
        async with fleet() as here, here.worker() as one:

            async def slow(calls: int, seconds: float = seconds) -> None:
                if calls == 0:
                    await asyncio.sleep(seconds)

            one.wire.before["mark"] = counted(slow)
            async with here.network.hold("/oauth/token") as arriving:
                flight = one.start()
                await within(10, arriving.arrived())
                assert len(one.wire.won("mark")) == marks
                arriving.release()
                await one.done(flight)
            assert here.refreshes == 1


@shows("6.2.mark.wall", without=("the wall clock is not asked",))
async def a_machine_that_slept_marks_again_before_anything_leaves() -> None:
    # Set back, it may have slept as well.
    for seconds in (30.0, -30.0):
        async with fleet() as here, here.worker() as one:

            async def sleeps(calls: int, seconds: float = seconds) -> None:
                if calls == 0:
                    suspend(seconds)

            one.wire.before["mark"] = counted(sleeps)
            async with here.network.hold("/oauth/token") as arriving:
                flight = one.start()
                await within(2, arriving.arrived())
                assert len(one.wire.won("mark")) == 2
                arriving.release()
                await one.done(flight)
            assert here.refreshes == 1


@shows("6.2.mark.monotonic", without=("a slow mark is good",))
async def a_store_that_never_marks_in_time_sends_nothing() -> None:
    async with fleet() as here, here.worker() as one:

        async def slow() -> None:
            await asyncio.sleep(6)

        one.wire.before["mark"] = slow
        await one.refresh()

        assert len(one.wire.won("mark")) == 3
        assert here.sent == 0
        assert here.row.attempts == 0
        assert here.row.lease_until is None
