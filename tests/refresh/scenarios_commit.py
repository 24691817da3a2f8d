"""Commit: whoever holds a 200 holds the only live tokens."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import time

from atproto_oauth_asgi.errors import StoreUnavailable
from atproto_oauth_asgi.store import SessionStatus
from atproto_oauth_asgi.testing.web import Answer
from atproto_oauth_asgi.tokens import TokenResponse
from tests.refresh import fleet as fleets
from tests.refresh.fleet import GET_SESSION, LIFE, events, fleet, logged, within
from tests.refresh.sentences import shows
from tests.refresh.wire import Instead, counted

COLUMNS = (
    "sealed_tokens",
    "sealed_key",
    "scope",
    "pds",
    "access_expires",
    "version",
    "lease_until",
    "attempts",
    "first_sent",
    "failures",
    "refreshed",
    "refresh_after",
)

# --- What is written ---


@shows("6.4.columns", without=tuple(f"the commit forgets {name}" for name in COLUMNS))
async def the_commit_writes_every_column() -> None:
    def narrower(answer: Answer) -> Answer:
        if answer.status != 200:
            return answer
        return answer.with_json(scope="atproto")

    async with fleet() as here, here.worker() as one:
        # As if an earlier attempt had failed: every column has something to change.
        row = here.row
        row.attempts, row.failures = 1, 3
        row.first_sent = here.clock() - 5000
        row.pds, row.sealed_key = "https://old.example", "old"
        started = here.clock()
        with here.network.alter("/oauth/token", narrower):
            await one.refresh()

        assert row.sealed_key == one.oauth.core.vault.key_id
        assert row.pds == one.live.pds
        assert row.scope == "atproto"
        assert row.version == 2
        assert row.lease_until is None
        assert here.row.first_sent is None
        assert (row.attempts, row.failures) == (0, 0)
        assert row.refreshed >= started
        assert abs(row.access_expires - started - LIFE * 1000) < 2000
        assert abs(row.refresh_after - started - 10_000) < 2000
        tokens = await here.tokens_in_the_row(one)
        assert tokens == one.live.tokens
        assert tokens.refresh_token == here.network.sessions("alice.test")[0].refresh_token


@shows("6.4.owner", without=("the commit clears the owner",))
async def the_commit_leaves_its_owner_in_the_row() -> None:
    async with fleet() as here, here.worker() as one:
        await one.refresh()
        assert here.row.lease_owner == one.wire.acquired().owner


@shows("6.4.sent", without=("times count from the commit", "the process counts from the answer"))
async def expiry_and_interval_count_from_the_moment_the_post_left() -> None:
    async with fleet() as here, here.worker() as one:
        async with here.network.pause_token_endpoint("refresh_token", when="after") as pause:
            flight = one.start()
            await within(2, pause.arrived())
            arrived, known = here.clock(), time.monotonic()
            await asyncio.sleep(0.4)
            pause.release()
            await one.done(flight)

        assert here.row.access_expires - arrived <= LIFE * 1000 + 50
        assert here.row.refresh_after - arrived <= 10_050
        # What the process itself believes is the same.
        assert one.live.access_expires - known <= LIFE + 0.05
        assert one.live.refresh_at - known <= 10.05


def _response(**members: object) -> TokenResponse:
    document = {
        "access_token": "a",
        "token_type": "DPoP",
        "scope": "atproto",
        "sub": "did:plc:edqkgtivc3i2kp4kprk4qq75",
        **members,
    }
    return TokenResponse.parse(document, sub=None)


@shows("6.4.life", without=("lives are not clamped",))
async def the_life_of_a_token_is_clamped() -> None:
    assert _response().life_ms == 300_000
    assert _response(expires_in="3600").life_ms == 300_000
    assert _response(expires_in=-5).life_ms == 1000
    assert _response(expires_in=0).life_ms == 1000
    assert _response(expires_in=4).life_ms == 4000
    assert _response(expires_in=3600).life_ms == 3_600_000
    assert _response(expires_in=10**9).life_ms == 24 * 3_600_000


@shows("6.4.interval", without=("the interval is fixed",))
async def the_next_refresh_is_allowed_well_before_the_token_dies() -> None:
    wanted = {1: 1000, 4: 2000, 30: 10_000, 3600: 10_000, 10: 5000}
    got = {life: _response(expires_in=life).refresh_after_ms for life in wanted}
    assert got == wanted


@shows("6.4.version", "6.5.newer", "6.5.never-revoke", without=(
    "the commit ignores the version", "superseded tokens are revoked", "mine are kept",
))  # fmt: skip
async def tokens_of_a_faster_worker_are_adopted_and_nothing_is_revoked() -> None:
    async with fleet() as here, here.worker() as one:
        async with here.network.pause_token_endpoint("refresh_token", when="after") as pause:
            flight = one.start()
            await within(2, pause.arrived())
            newer = await here.commit_elsewhere(one)
            pause.release()
            await one.done(flight)
            await one.settled()

        assert one.live.tokens == newer
        assert await here.tokens_in_the_row(one) == newer
        assert here.row.version == 2
        assert here.revocations == 0
        assert here.alive_at_the_server


@shows("6.4.ended", "6.5.ended", without=("the commit ignores the end", "nothing is revoked"))
async def a_logout_during_the_refresh_wins_and_the_new_tokens_are_revoked() -> None:
    async with fleet() as here, here.worker() as one:
        async with here.network.pause_token_endpoint("refresh_token", when="after") as pause:
            flight = one.start()
            await within(2, pause.arrived())
            # By a worker that died before it revoked.
            await here.store.end_session(here.session_id, "logout")
            pause.release()
            await one.done(flight)
            await one.settled()

        assert here.row.status == "ended"
        assert here.row.ended_reason == "logout"
        assert here.row.sealed_tokens is None
        assert one.live.ended_reason == "logout"
        assert here.revocations == 1
        assert not here.alive_at_the_server


@shows("6.4.holder", without=("the commit is guarded by owner",))
async def a_200_is_stored_whoever_has_the_lease_by_now() -> None:
    async with fleet() as here, here.worker() as one:
        async with here.network.pause_token_endpoint("refresh_token", when="after") as pause:
            flight = one.start()
            await within(2, pause.arrived())
            here.row.lease_owner, here.row.lease_until = "another", here.clock() + 60_000
            pause.release()
            await one.done(flight, 2)

        assert here.row.version == 2
        assert (await here.tokens_in_the_row(one)) == one.live.tokens


@shows("6.4.holder", without=("the commit wants an active session",))
async def a_200_is_stored_for_a_session_that_awaits_a_new_login() -> None:
    async with fleet() as here, here.worker() as one:
        async with here.network.pause_token_endpoint("refresh_token", when="after") as pause:
            flight = one.start()
            await within(2, pause.arrived())
            status: SessionStatus = "reauth_required"
            here.row.status = status
            pause.release()
            await one.done(flight, 2)
        assert here.row.version == 2


@shows("6.4.rekey", without=("rekey ignores the version",))
async def resealing_never_undoes_a_commit() -> None:
    async with fleet() as here, here.worker() as one:
        read = await here.record()
        assert read.sealed_dpop_key is not None
        assert read.sealed_tokens is not None
        await one.refresh()

        done = await here.store.reseal(
            here.session_id,
            version=read.version,
            sealed_dpop_key=read.sealed_dpop_key,
            sealed_tokens=read.sealed_tokens,
            sealed_key="new",
        )

        assert not done
        assert await here.tokens_in_the_row(one) == one.live.tokens


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
        answer = await within(3, one.session.get(GET_SESSION))
        taken = time.monotonic() - start

        assert answer.status_code == 200
        assert taken < 0.5
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
        await one.refresh(1.5)
        assert here.row.version == 2


@shows("6.5.forever", without=("commits are given up", "commits are tried again late"))
async def a_commit_is_tried_until_the_database_is_back() -> None:
    async with fleet() as here, here.worker() as one:
        calls: list[float] = []

        async def away(number: int) -> None:
            calls.append(time.monotonic())
            if number < 30:
                raise StoreUnavailable

        one.wire.before["commit"] = counted(away)
        await one.refresh()

        assert len(calls) == 31
        assert here.row.version == 2
        assert (calls[-1] - calls[0]) / 30 < 0.08


@shows("6.5.last", without=("there is no last try",))
async def a_database_that_is_back_at_shutdown_gets_the_tokens() -> None:
    with fleets.timing(commit_again=30.0):
        async with fleet() as here:
            async with here.worker() as one:

                async def away(calls: int) -> None:
                    if calls == 0:
                        raise StoreUnavailable

                one.wire.before["commit"] = counted(away)
                flight = one.start()
                await within(2, flight.wait(2))
                await asyncio.sleep(0.02)
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
            await asyncio.sleep(0.1)
            before = tries
        assert tries > before
    lost = [record for record in records if record.getMessage() == "session.lost_rotation"]
    assert [record.levelname for record in lost] == ["CRITICAL"]
    assert lost[0].__dict__["session"] == here.session_id


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
    with fleets.timing(marked_lease=0.3, watch=0.4):
        async with fleet() as here, here.worker() as one, here.worker() as two:
            back = asyncio.Event()

            async def away() -> None:
                if not back.is_set():
                    raise StoreUnavailable

            one.wire.before["commit"] = away
            first = one.start()
            await within(2, first.wait(2))
            second = two.start()
            # The lease has run out, and it is being watched.
            await asyncio.sleep(0.5)
            back.set()
            await one.done(first)
            await two.done(second)

        assert here.refreshes == 1
        assert here.row.version == two.live.version == 2
        assert here.row.status == "active"
        assert two.live.tokens == one.live.tokens


@shows("6.5.cut-off", "6.5.ended", without=("mark skipped",))
async def a_process_that_was_cut_off_for_long_loses_what_it_holds() -> None:
    with fleets.timing(marked_lease=0.2, watch=0.1):
        async with fleet() as here, here.worker() as one, here.worker() as two:
            back = asyncio.Event()

            async def away() -> None:
                if not back.is_set():
                    raise StoreUnavailable

            one.wire.before["commit"] = away
            first = one.start()
            await within(2, first.wait(2))
            await two.refresh()
            # Its request was the replay; the journal knows that there was one before it.
            assert here.refreshes == 2
            assert (here.row.status, here.row.ended_reason) == ("ended", "lost_rotation")
            back.set()
            await one.done(first)
            await one.settled()
            assert one.live.ended_reason == "lost_rotation"
