"""Take-over of leases whose holder is gone, or only seems to be."""

from __future__ import annotations

import asyncio
import time

from atproto_oauth_asgi.errors import StoreUnavailable
from tests.refresh.fleet import Fleet, fleet
from tests.refresh.sentences import shows
from tests.refresh.wire import counted

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

        assert 10 <= one.wire.acquired().at - start <= 10.5
        # The dead one had not sent it after all.
        assert one.live.version == 2


@shows("6.6.watch", without=("watch ignored",))
async def a_holder_that_commits_late_keeps_its_session() -> None:
    async with fleet() as here, here.worker() as one:
        await _announced(here)
        flight = one.start()
        await asyncio.sleep(9.9)
        tokens = await here.commit_elsewhere(one)
        await one.done(flight)

        assert here.sent == 0
        assert one.live.tokens == tokens


@shows("6.6.unchanged", without=("any dead lease was watched",))
async def a_lease_that_changes_is_watched_anew() -> None:
    async with fleet() as here, here.worker() as one:
        await _announced(here)
        flight = one.start()
        await asyncio.sleep(9.9)
        # Another one took it over meanwhile, announced a request, and died too.
        here.row.lease_owner, here.row.lease_until = "dead too", here.clock() - 1
        changed = time.monotonic()
        await one.done(flight)

        assert 10 <= one.wire.acquired().at - changed <= 11


@shows("6.6.working", without=("a pause counts as watching",))
async def time_in_which_nobody_could_look_does_not_count() -> None:
    async with fleet() as here, here.worker() as one:
        await _announced(here)

        async def away(calls: int) -> None:
            if calls == 3:
                await asyncio.sleep(30)

        one.wire.before["read"] = counted(away)
        await one.refresh()

        reads = [passed.at for passed in one.wire.of("read")]
        won = one.wire.acquired().at
        # Of the long pause no more counts than of any other between two looks.
        assert 30 + 10 - 1 <= won - reads[0] <= 30 + 10


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
        await asyncio.sleep(30)
        again = time.monotonic()
        await one.refresh()

        # Whoever holds the lease may not have reached the store either.
        assert 10 <= one.wire.acquired().at - again <= 10.5
        assert here.refreshes == 1
