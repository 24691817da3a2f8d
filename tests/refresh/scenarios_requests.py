"""What requests do about tokens that run out, and about tokens that the PDS refuses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Coroutine
from dataclasses import FrozenInstanceError, fields
from typing import TypeVar

import httpx

from atproto_oauth_asgi.environment import SettingsOptions
from atproto_oauth_asgi.errors import ATProtoOAuthError, RefreshFailed
from atproto_oauth_asgi.refresh_timing import RefreshTiming
from atproto_oauth_asgi.testing.web import Answer
from tests.refresh import fleet as fleets
from tests.refresh.fleet import GET_SESSION, Fleet, Worker, fleet, within
from tests.refresh.sentences import shows

T = TypeVar("T")
BLOB = "/xrpc/com.atproto.repo.uploadBlob"


async def _fails(call: Awaitable[httpx.Response]) -> RefreshFailed:
    try:
        answer = await within(10, call)
    except RefreshFailed as exc:
        if not exc.retryable:
            raise AssertionError("not retryable") from exc
        return exc
    except ATProtoOAuthError as exc:
        raise AssertionError(f"{type(exc).__name__} instead of RefreshFailed") from exc
    raise AssertionError(f"the call was answered {answer.status_code}")


async def _answered(call: Awaitable[httpx.Response]) -> int:
    try:
        return (await within(100, call)).status_code
    except ATProtoOAuthError as exc:
        raise AssertionError("the call was not sent") from exc


async def _chunks() -> AsyncGenerator[bytes]:
    yield b"one "
    yield b"two"


def _upload(worker: Worker) -> Coroutine[object, object, httpx.Response]:
    return worker.session.post(BLOB, content=_chunks(), headers={"content-type": "text/plain"})


async def _lives(here: Fleet, worker: Worker, *, life: float, left: float) -> None:
    """Let the access token be one of that life, with so much of it left."""
    now = here.clock()
    here.row.access_expires, here.row.refreshed = (
        now + round(left * 1000),
        now - round((life - left) * 1000),
    )
    here.row.refresh_after = 0
    await worker.look_again()


@shows("6.timing", without=("the constructor's times are ignored",))
async def times_are_frozen_fields_given_to_the_constructor_only() -> None:
    async with fleet() as here, here.worker() as one:
        assert one.runtime.timing is fleets.TIMING
    for field in fields(RefreshTiming):
        try:
            setattr(fleets.TIMING, field.name, 1.0)
        except FrozenInstanceError:
            pass
        else:
            raise AssertionError(f"{field.name} can be changed")
    assert not {field.name for field in fields(RefreshTiming)} & set(
        SettingsOptions.__annotations__
    )
    # Between them must hold what the protocol rests on.
    real = RefreshTiming()
    assert real.lease > real.drain + real.verify
    assert real.marked_lease > real.mark_to_send + real.post + real.late_answer
    assert (real.lease, real.marked_lease, real.post, real.verify) == (20, 75, 60, 8)
    assert (real.mark_to_send, real.late_answer, real.commit_try, real.watch) == (5, 1, 3, 10)
    assert (real.drain, real.wait, real.window, real.backoff) == (2, 5, 60, 60)
    assert (real.poll_first, real.commit_again, real.retry_after) == (0.008, 1, 300)


@shows("5.window", without=("the window is fixed", "there is no window"))
async def the_window_is_a_minute_or_a_fifth_of_a_short_life() -> None:
    async with fleet() as here, here.worker() as one:
        for life, window in ((3600.0, 60.0), (300.0, 60.0), (30.0, 6.0), (4.0, 0.8), (1.0, 0.2)):
            await _lives(here, one, life=life, left=window + 0.01)
            assert one.runtime.upkeep.begin(one.live) is None, life
            await _lives(here, one, life=life, left=window - 0.01)
            assert one.live.due(fleets.TIMING.window), life


@shows("5.joined", without=("refreshes start at the first use", "every page waits"))
async def a_page_that_asks_nothing_starts_the_refresh_and_does_not_wait() -> None:
    async with fleet() as here, here.worker() as one:
        async with here.network.pause_token_endpoint("refresh_token") as pause:
            start = time.monotonic()
            answer = await within(100, one.browser.get("/who"))
            assert answer.json()["did"] == one.live.did
            await within(1, pause.arrived())
            assert time.monotonic() == start
            using = one.call(one.browser.get("/me"))
            await asyncio.sleep(4.9)
            assert not using.done()
            pause.release()
            assert (await within(2, using)).status_code == 200
        assert here.refreshes == 1


@shows("5.wait", "6.task", without=("requests take the refresh along", "requests wait for ever"))
async def a_request_gives_up_waiting_and_the_refresh_goes_on() -> None:
    async with fleet() as here, here.worker() as one:
        async with here.network.pause_token_endpoint("refresh_token") as pause:
            start = time.monotonic()
            await _fails(one.get())
            assert abs(time.monotonic() - start - 5) < 0.001
            await asyncio.sleep(50)
            pause.release()
            await one.settled()
        assert here.row.version == 2
        assert await _answered(one.get()) == 200


@shows("6.task", without=("requests take the refresh along",))
async def a_request_that_is_cancelled_takes_nothing_along() -> None:
    async with fleet() as here, here.worker() as one:
        async with here.network.pause_token_endpoint("refresh_token", when="after") as pause:
            calls = [one.call(one.browser.get("/me")) for _ in range(5)]
            await within(2, pause.arrived())
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            pause.release()
            await one.settled()

        assert here.row.version == 2
        assert here.refreshes == 1
        assert await _answered(one.get()) == 200


@shows("5.vain", without=("everybody waits again", "nobody waits ever again"))
async def nobody_waits_twice_for_the_same_refresh() -> None:
    async with fleet() as here, here.worker() as one:
        async with here.network.pause_token_endpoint("refresh_token") as pause:
            await _fails(one.get())
            start = time.monotonic()
            await _fails(one.get())
            assert time.monotonic() == start
            pause.release()
            await one.settled()
        # The row changed: a next time is waited for again.
        assert not one.live.waited_in_vain
        here.expire()
        await one.look_again()
        assert await _answered(one.get()) == 200


@shows("5.backoff", without=("the backoff is not kept",))
async def during_a_backoff_calls_fail_at_once_and_the_person_stays() -> None:
    async with fleet() as here, here.worker() as one, here.worker() as two:
        here.network.faults.fail(503)
        await one.refresh()
        await two.look_again()

        for worker in (one, two):
            start = time.monotonic()
            await _fails(worker.get())
            assert time.monotonic() == start
            answer = await worker.browser.get("/who")
            assert answer.json()["did"] == one.live.did
            assert (await worker.browser.get("/me")).status_code == 503
        assert here.refreshes == 1


# --- Calls in flight ---


@shows("5.drain", without=("nothing is drained", "draining has no end"))
async def calls_in_flight_come_home_before_the_lease_is_taken() -> None:
    async with fleet(expired=False) as here, here.worker() as one:
        await one.get()
        async with here.network.hold(GET_SESSION) as pds:
            call = one.call(one.get())
            await within(2, pds.arrived())
            await _lives(here, one, life=3600.0, left=30.0)
            flight = one.start()
            await asyncio.sleep(1.9)
            assert one.wire.of("acquire") == []
            pds.release()
            assert await _answered(call) == 200
            await one.done(flight)
        assert one.live.version == 2
        assert [record.status for record in here.network.log.of("xrpc")].count(401) <= 1

        # One that does not come home holds nobody up for long; it is sent again.
        async with here.network.hold(GET_SESSION) as pds:
            call = one.call(one.get())
            await within(2, pds.arrived())
            await _lives(here, one, life=3600.0, left=30.0)
            start = time.monotonic()
            await one.refresh()
            assert abs(time.monotonic() - start - 2) < 0.001
            pds.release()
            assert await _answered(call) == 200


@shows("5.drain.stream", without=("streams are drained like calls",))
async def a_body_that_cannot_be_sent_twice_gets_longer() -> None:
    async with fleet(expired=False) as here, here.worker() as one:
        async with here.network.hold(BLOB) as pds:
            call = one.call(_upload(one))
            await within(2, pds.arrived())
            await _lives(here, one, life=3600.0, left=30.0)
            flight = one.start()
            await asyncio.sleep(29)
            assert one.wire.of("acquire") == []
            pds.release()
            assert await _answered(call) == 200
            await one.done(flight)
        assert one.live.version == 2


@shows("5.air", without=("calls in the air time go out", "calls in the air time never go out"))
async def while_a_request_is_in_the_air_only_replayable_calls_go_out() -> None:
    async with fleet(expired=False) as here, here.worker() as one:
        await one.get()
        await _lives(here, one, life=3600.0, left=30.0)
        async with here.network.pause_token_endpoint("refresh_token") as pause:
            flight = one.start()
            await within(2, pause.arrived())
            start = time.monotonic()
            assert await _answered(one.get()) == 200
            assert abs(time.monotonic() - start - 5) < 0.001
            await _fails(_upload(one))
            pause.release()
            await one.done(flight)
        assert await _answered(_upload(one)) == 200


# --- A 401 from the PDS ---


@shows("5.401.newer", without=("versions are not compared",))
async def a_call_that_was_overtaken_by_a_refresh_is_sent_again() -> None:
    async with fleet(expired=False) as here, here.worker() as one:
        await one.get()
        # Another worker refreshed; this one does not know.
        async with here.worker() as two:
            await _lives(here, two, life=3600.0, left=30.0)
            await two.refresh()
        assert one.live.version == 1

        assert await _answered(one.get()) == 200
        assert one.live.version == 2
        assert here.refreshes == 1

        # And one that was on its way while this very process refreshed.
        async with here.network.hold(GET_SESSION) as pds:
            call = one.call(one.get())
            await within(2, pds.arrived())
            await _lives(here, one, life=3600.0, left=30.0)
            await one.refresh()
            pds.release()
            assert await _answered(call) == 200
        assert here.refreshes == 2


@shows("5.401.held", without=("nobody waits for a lease that is held",))
async def a_call_waits_for_the_worker_that_holds_the_lease() -> None:
    async with fleet(expired=False) as here, here.worker() as one, here.worker() as two:
        await one.get()
        await _lives(here, two, life=3600.0, left=30.0)
        async with here.network.pause_token_endpoint("refresh_token", when="after") as pause:
            flight = two.start()
            await within(2, pause.arrived())
            one.live.refresh_at = time.monotonic() + 10
            call = one.call(one.get())
            # It looks every half second by then.
            await asyncio.sleep(4.4)
            assert not call.done()
            pause.release()
            await two.done(flight)
            assert await _answered(call) == 200
        assert here.refreshes == 1


@shows("5.401.refresh", without=("a refused token is never refreshed",))
async def a_token_that_the_pds_refuses_is_refreshed() -> None:
    async with fleet(expired=False) as here, here.worker() as one:
        here.network.expire_access_tokens()
        assert await _answered(one.get()) == 200
        assert here.refreshes == 1


@shows("5.401.interval", without=("the interval does not count after a 401",))
async def a_pds_that_refuses_everything_rotates_no_tokens_in_circles() -> None:
    def refuse(answer: Answer) -> Answer:
        challenge = ("www-authenticate", 'DPoP error="invalid_token"')
        return Answer(status=401, headers=(challenge,), body=answer.body)

    async with fleet() as here, here.worker() as one:
        await one.refresh()
        with here.network.alter(GET_SESSION, refuse):
            for _ in range(3):
                assert await _answered(one.get()) == 401
        assert here.refreshes == 1


@shows("5.primed", without=("streams are not primed",))
async def a_stream_is_preceded_by_a_cheap_call() -> None:
    async with fleet(expired=False) as here, here.worker() as one:
        # The token is dead already, and the PDS wants a nonce that nobody knows yet.
        here.network.expire_access_tokens()
        answer = await within(100, _upload(one))

        assert answer.status_code == 200
        assert answer.json()["blob"]["size"] == 7
        uploads = here.network.log.of("xrpc", "com.atproto.repo.uploadBlob")
        assert [record.status for record in uploads] == [200]
        assert here.refreshes == 1
