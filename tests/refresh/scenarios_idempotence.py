"""Commit again: lost acknowledgements, databases that are away, workers that were cut off."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import time

from atproto_oauth_asgi.errors import StoreUnavailable
from atproto_oauth_asgi.testing.web import Answer
from tests.refresh.fleet import GET_SESSION, events, fleet, logged, within
from tests.refresh.sentences import shows
from tests.refresh.wire import Instead, counted

# --- Idempotent by owner ---


@shows("6.5.mine", without=("nobody looks for its own commit",))
async def a_lost_acknowledgement_is_no_loss() -> None:
    async with fleet() as here, here.worker() as one:

        async def lost(calls: int) -> None:
            if calls == 0:
                raise StoreUnavailable

        one.wire.after["commit"] = counted(lost)
        with logged() as records:
            await one.refresh()
        await one.settled()

        assert "session.refreshed" in events(records)
        assert "refresh.superseded" not in events(records)
        assert here.row.version == one.live.version == 2
        assert here.revocations == 0
        assert (await one.get()).status_code == 200


@shows("6.5.order", without=("the end is overlooked",))
async def a_logout_after_an_unacknowledged_commit_revokes_what_i_hold() -> None:
    async with fleet() as here, here.worker() as one:

        async def lost(calls: int) -> None:
            if calls == 0:
                here.store._sessions[here.session_id].end("logout", here.clock())
                raise StoreUnavailable

        one.wire.after["commit"] = counted(lost)
        await one.refresh()
        await one.settled()

        assert one.live.ended_reason == "logout"
        assert here.revocations == 1
        assert not here.alive_at_the_server


@shows("6.5.again", without=("a commit without effect is given up",))
async def a_commit_that_hit_no_row_is_made_again() -> None:
    async with fleet() as here, here.worker() as one:

        async def nothing(calls: int) -> None:
            if calls < 2:
                raise Instead(False)

        one.wire.before["commit"] = counted(nothing)
        await one.refresh()
        assert here.row.version == 2
        assert len(one.wire.of("commit")) == 3


@shows("6.5.memory", without=("new tokens wait for the database",))
async def a_database_that_is_away_delays_nobody() -> None:
    async with fleet() as here, here.worker() as one:
        back = asyncio.Event()

        async def away() -> None:
            if not back.is_set():
                raise StoreUnavailable

        one.wire.before["commit"] = away
        start = time.monotonic()
        answer = await within(10, one.session.get(GET_SESSION))

        assert answer.status_code == 200
        assert time.monotonic() == start
        assert here.row.version == 1, "it was served before it was stored"
        assert one.live.version == 2
        back.set()
        await one.settled()
        assert here.row.version == 2


@shows("6.5.try", without=("tries have no deadline",))
async def a_commit_that_hangs_is_tried_again() -> None:
    async with fleet() as here, here.worker() as one:

        async def hangs(calls: int) -> None:
            if calls == 0:
                await asyncio.Event().wait()

        one.wire.before["commit"] = counted(hangs)
        start = time.monotonic()
        await one.refresh()
        assert here.row.version == 2
        # The try that hung, and the pause after it.
        assert abs(time.monotonic() - start - (3 + 1)) < 0.001


@shows("6.5.forever", without=("commits are given up", "commits are tried again late"))
async def a_commit_is_tried_until_the_database_is_back() -> None:
    async with fleet() as here, here.worker() as one:
        calls: list[float] = []

        async def away(number: int) -> None:
            calls.append(time.monotonic())
            if number < 900:
                raise StoreUnavailable

        one.wire.before["commit"] = counted(away)
        await one.refresh(1000)

        assert len(calls) == 901
        assert here.row.version == 2
        assert abs(calls[-1] - calls[0] - 900) < 0.001


@shows("6.5.last", without=("there is no last try",))
async def a_database_that_is_back_at_shutdown_gets_the_tokens() -> None:
    async with fleet() as here:
        async with here.worker() as one:

            async def away(calls: int) -> None:
                if calls == 0:
                    raise StoreUnavailable

            one.wire.before["commit"] = counted(away)
            flight = one.start()
            await within(2, flight.wait(2))
            # The next try is due a second after the first.
            await asyncio.sleep(0.5)
            assert here.row.version == 1
        assert here.row.version == 2


@shows("6.5.last", "6.5.loud", without=("there is no last try", "losses are not said"))
async def tokens_that_cannot_be_stored_at_shutdown_are_lost_loudly() -> None:
    tries = 0
    with logged() as records:
        async with fleet() as here, here.worker() as one:

            async def away() -> None:
                nonlocal tries
                tries += 1
                raise StoreUnavailable

            one.wire.before["commit"] = away
            flight = one.start()
            await within(2, flight.wait(2))
            await asyncio.sleep(10)
            before, stopped = tries, time.monotonic()
        assert tries > before
        # It was tried for as long as a request waits, and not for ever.
        assert 5 <= time.monotonic() - stopped < 6
    lost = [record for record in records if record.getMessage() == "session.lost_rotation"]
    assert [record.levelname for record in lost] == ["CRITICAL"]
    told = vars(lost[0])
    # The version is that of the tokens that nobody has now.
    assert (told["session"], told["version"]) == (here.session_id, 2)


@shows("J3", without=("the old refresh token is dropped",))
async def a_refresh_token_that_is_not_replaced_stays() -> None:
    def keeps(answer: Answer) -> Answer:
        return answer.with_json(refresh_token=None) if answer.status == 200 else answer

    async with fleet() as here, here.worker() as one:
        old = one.live.tokens.refresh_token
        with here.network.alter("/oauth/token", keeps):
            await one.refresh()
        tokens = await here.tokens_in_the_row(one)
        assert here.row.version == 2
        assert tokens.refresh_token == one.live.tokens.refresh_token == old


# --- Cut off ---


@shows("6.6.watch", "6.5.forever", without=("watch ignored",))
async def a_process_that_was_cut_off_for_a_while_loses_nothing() -> None:
    async with fleet() as here, here.worker() as one, here.worker() as two:
        back = asyncio.Event()

        async def away() -> None:
            if not back.is_set():
                raise StoreUnavailable

        one.wire.before["commit"] = away
        first = one.start()
        await within(2, first.wait(2))
        second = two.start()
        # The lease of 75 s has run out, and is being watched for 10.
        await asyncio.sleep(84)
        back.set()
        await one.done(first)
        await two.done(second)

        assert here.refreshes == 1
        assert here.row.version == two.live.version == 2
        assert here.row.status == "active"
        assert two.live.tokens == one.live.tokens


@shows("6.5.cut-off", "6.5.ended", without=("mark skipped",))
async def a_process_that_was_cut_off_for_long_loses_what_it_holds() -> None:
    async with fleet() as here, here.worker() as one, here.worker() as two:
        back = asyncio.Event()

        async def away() -> None:
            if not back.is_set():
                raise StoreUnavailable

        one.wire.before["commit"] = away
        start = time.monotonic()
        first = one.start()
        await within(2, first.wait(2))
        await two.refresh()
        assert 75 + 10 <= time.monotonic() - start < 75 + 10 + 2
        # Its request was the replay; the journal knows that there was one before it.
        assert here.refreshes == 2
        assert (here.row.status, here.row.ended_reason) == ("ended", "lost_rotation")
        back.set()
        await one.done(first)
        await one.settled()
        assert one.live.ended_reason == "lost_rotation"
