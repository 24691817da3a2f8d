"""Acquire, mark and take-over: who may send a token request, and when."""

from __future__ import annotations

import asyncio
import threading
import time
from itertools import pairwise

from atproto_oauth_asgi.store import SessionStatus
from atproto_oauth_asgi.testing.conformance import StoreConformance
from atproto_oauth_asgi_stores.memory import MemoryStore
from tests.refresh.fleet import Fleet, Worker, fleet, within
from tests.refresh.sentences import shows
from tests.refresh.wire import Wire

# --- One at a time ---


@shows("6.1.flight", without=("no single flight",))
async def fifty_calls_of_one_process_acquire_once() -> None:
    async with fleet() as here, here.worker() as one:
        answers = await within(4, asyncio.gather(*(one.get() for _ in range(50))))

        assert [answer.status_code for answer in answers] == [200] * 50
        assert len(one.wire.of("acquire")) == 1
        assert here.refreshes == 1


@shows("6.1.loops", without=("lease removed",), real_time="a second event loop in a thread")
async def two_event_loops_make_one_token_request() -> None:
    async with fleet() as here, here.network.pause_token_endpoint("refresh_token") as pause:
        ends: list[int] = []
        asked = threading.Event()

        async def elsewhere() -> None:
            async def ask() -> None:
                asked.set()

            async with here.worker() as other:
                other.wire.after["acquire"] = ask
                await other.refresh()
                ends.append(other.live.version)

        thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
        async with here.worker() as one:
            flight = one.start()
            await within(30, pause.arrived())
            thread.start()
            assert await asyncio.to_thread(asked.wait, 30)
            # The other loop gets as far as it ever does while this one holds the lease.
            await asyncio.sleep(0.3)
            second = pause.total
            pause.release()
            await one.done(flight)
        await asyncio.to_thread(thread.join, 30)

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
            await asyncio.sleep(50)
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
    async with fleet() as here, here.worker() as two:
        here.row.lease_owner, here.row.lease_until = "another", here.clock() + 20_000
        flight = two.start()
        await asyncio.sleep(19)
        reads = [one.at for one in two.wire.of("read")]
        here.row.refresh_after = here.clock() + 60_000
        await two.done(flight)

    pauses = [after - before for before, after in pairwise(reads)]
    assert abs(pauses[0] - 0.008) < 0.0001
    assert abs(pauses[-1] - 0.5) < 0.0001
    assert all(after <= before * 1.1 + 0.0001 for before, after in pairwise(pauses))
    # 8 ms throughout would be more than two thousand of them.
    assert 60 <= len(pauses) <= 80


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
    await worker.refresh()
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
        here.row.lease_owner, here.row.lease_until = "another", here.clock() + 20_000
        start = time.monotonic()
        await one.refresh()

        assert 20 <= one.wire.acquired().at - start <= 20.5
        assert here.refreshes == 1


@shows("6.2.acquire.unspent", without=("unspent leases are watched",))
async def a_lease_that_ran_out_unannounced_is_taken_at_once() -> None:
    async with fleet() as here, here.worker() as one:
        here.row.lease_owner, here.row.lease_until = "dead", here.clock() - 1
        start = time.monotonic()
        await one.refresh()

        assert one.wire.acquired().at == start
        assert here.refreshes == 1


@shows("6.2.acquire.watched", without=("acquire ignores what was watched",))
async def an_announced_lease_that_ran_out_is_not_taken_unseen() -> None:
    async with fleet() as here, here.worker() as one:
        here.row.lease_owner, here.row.lease_until = "dead", here.clock() - 1
        here.row.attempts = 1
        begun = time.monotonic()
        await one.refresh()
        assert one.wire.of("acquire")[0].result is False
        assert 10 <= one.wire.acquired().at - begun <= 10.5


@shows("6.2.lease", without=("lease lengths are swapped",))
async def a_mark_leases_for_longer_than_an_acquire() -> None:
    async with fleet() as here, here.worker() as one:
        await one.refresh()

        assert [passed.lease_ms for passed in one.wire.of("acquire")] == [20_000]
        assert [passed.lease_ms for passed in one.wire.of("mark")] == [75_000, 75_000]


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


@shows("6.2.skew", without=("each worker goes by its own clock",))
async def a_lease_is_as_long_for_every_worker() -> None:
    rows = MemoryStore()
    one, two = Wire(rows), Wire(rows)
    assert StoreConformance.skew_margin_ms == 0
    await StoreConformance().test_a_lease_is_as_long_for_everybody(one, two)
