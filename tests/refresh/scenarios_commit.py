"""Commit: whoever holds a 200 holds the only live tokens."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import time

from atproto_oauth_asgi.store import SessionStatus
from atproto_oauth_asgi.testing.web import Answer
from atproto_oauth_asgi.tokens import TokenResponse
from tests.refresh.fleet import LIFE, fleet, within
from tests.refresh.sentences import shows

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
        assert abs(row.access_expires - started - LIFE * 1000) <= 1
        assert abs(row.refresh_after - started - 10_000) <= 1
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
            await asyncio.sleep(30)
            pause.release()
            await one.done(flight)

        assert abs(here.row.access_expires - arrived - LIFE * 1000) <= 1
        assert abs(here.row.refresh_after - arrived - 10_000) <= 1
        # What the process itself believes is the same.
        assert abs(one.live.access_expires - known - LIFE) < 0.001
        assert abs(one.live.refresh_at - known - 10) < 0.001


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
