"""Why a refresh is put off is said to who waits, and the lease is free at once."""

from __future__ import annotations

import asyncio
import time

import pytest

from atproto_oauth_asgi.errors import RefreshFailed, StoreUnavailable
from tests.refresh.fleet import Fleet, Worker, fleet
from tests.virtual_time import in_virtual_time


async def put_off(here: Fleet, one: Worker, why: str, *, attempts: int) -> None:
    """Refresh, hear why that failed, and find the lease free and the session alive."""
    flight = await one.refresh(200)
    assert isinstance(flight.error, RefreshFailed)
    assert str(flight.error) == why
    row = here.row
    assert (row.status, row.lease_until, row.failures) == ("active", None, 1)
    assert (row.attempts, one.live.failures) == (attempts, 1)


def test_a_token_endpoint_that_hangs_up() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            here.network.faults.lose_answer()
            why = "The token endpoint did not answer: The app gave no complete answer."
            # The token may have been spent.
            await put_off(here, one, why, attempts=1)

    in_virtual_time(run)


def test_a_token_endpoint_that_never_answers() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:  # noqa: SIM117
            async with here.network.pause_token_endpoint("refresh_token") as pause:
                why = "The token endpoint did not answer in time."
                await put_off(here, one, why, attempts=1)
                assert pause.total == 1
                # Nobody waits for an answer that nobody would read.
                assert [task for task in asyncio.all_tasks() if "attempt" in repr(task)] == []
                pause.release()

    in_virtual_time(run)


@pytest.mark.parametrize("asks", [False, True], ids=["at first", "with the nonce"])
def test_a_store_that_is_too_slow_to_announce_it(asks: bool) -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            marks = 0

            async def slow() -> None:
                nonlocal marks
                marks += 1
                if not asks or marks > 1:
                    time.sleep(6)  # noqa: ASYNC251  # the whole process stands still

            one.wire.after["mark"] = slow
            await put_off(here, one, "The store was too slow to announce the refresh.", attempts=0)
            # That request was answered with a nonce, so nobody looked at the token.
            assert here.sent == int(asks)

    in_virtual_time(run)


def test_a_client_key_that_is_not_there_any_more() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            here.row.client_kid = "old"
            await one.look_again()
            why = (
                "The session is bound to the client key “old”, which CLIENT_KEYS lacks; put the"
                " key back, or let the person sign in again."
            )
            await put_off(here, one, why, attempts=0)
            assert here.sent == 0

    in_virtual_time(run)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_that_goes_sends_nothing_more(when: str) -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            closing = one.runtime.tasks.closing

            async def go() -> None:
                closing.set()

            if when == "before":
                # It has the lease, and looks up where the account lives.
                async with here.network.hold(f"/{one.live.did}") as looking:
                    flight = one.start()
                    await looking.arrived()
                    closing.set()
                    looking.release()
                    await one.done(flight)
                assert one.wire.of("mark") == []
            else:
                one.wire.after["mark"] = go
                flight = await one.refresh()
            assert str(flight.error) == "The refresh could not be announced."
            assert here.sent == 0
            assert (here.row.attempts, here.row.lease_until) == (0, None)

    in_virtual_time(run)


def test_once_it_is_answered_nothing_is_in_the_air() -> None:
    async def run() -> None:
        async with fleet(expired=False) as here, here.worker() as one:
            gone = asyncio.Event()

            async def away() -> None:
                gone.set()
                raise StoreUnavailable

            here.network.revoke_sessions("alice.test")
            here.row.access_expires = here.clock() + 15_000
            here.row.refreshed = here.clock() - 85_000
            await one.look_again()
            one.wire.before["end"] = away
            flight = one.start()
            await gone.wait()
            # What cannot be sent twice goes out with the old token; the PDS has its say.
            await one.runtime.upkeep.ready(one.live, replayable=False)
            assert not flight.served

    in_virtual_time(run)


def test_a_session_that_is_too_old_by_then_is_left_alone() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            here.row.expires = here.clock()
            flight = one.start()
            await one.done(flight)
            assert str(flight.error) == "The session is over."
            assert one.live.ended_reason == "expired"
            row = here.row
            assert (row.lease_until, row.failures, row.version, here.sent) == (None, 0, 1, 0)

    in_virtual_time(run)
