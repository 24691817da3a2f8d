"""What holds a session for long learns that it is over, and can end it."""

from __future__ import annotations

import asyncio
import time

import pytest

from atproto_oauth_asgi.errors import SessionRevoked, StoreUnavailable
from tests.refresh.fleet import Fleet, Worker, events, fleet, logged
from tests.virtual_time import in_virtual_time


async def acted(here: Fleet, one: Worker) -> int:
    """Call once a minute, and return how often that worked."""
    for number in range(10):
        await asyncio.sleep(60)
        try:
            assert (await one.get()).status_code == 200
        except SessionRevoked:
            return number
    return 10


@pytest.mark.parametrize("purged", [False, True])
def test_what_was_ended_elsewhere_acts_no_more_after_a_minute(purged: bool) -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as socket:
            await socket.refresh()
            # The authorization server was away, and the PDS goes by the token alone.
            if purged:
                del here.store._sessions[here.session_id]  # pyright: ignore[reportPrivateUsage]
            else:
                assert await here.store.end_session(here.session_id, "logout")
            assert await acted(here, socket) == 0

    in_virtual_time(run)


def test_a_store_that_is_away_ends_nothing_and_is_not_asked_at_each_call() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as socket:
            await socket.refresh()

            looks = 0

            async def away() -> None:
                nonlocal looks
                looks += 1
                raise StoreUnavailable

            socket.wire.before["read"] = away
            assert await acted(here, socket) == 10
            for _ in range(5):
                await socket.get()
            assert looks == 10

    in_virtual_time(run)


def test_a_store_that_hangs_holds_a_call_up_for_seconds_once_a_minute() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as socket:
            await socket.refresh()

            async def hang() -> None:
                await asyncio.Event().wait()

            socket.wire.before["read"] = hang
            await asyncio.sleep(60)
            began = time.monotonic()
            for _ in range(3):
                assert (await socket.get()).status_code == 200
            assert time.monotonic() - began == pytest.approx(5, abs=0.1)

    in_virtual_time(run)


@pytest.mark.spec("K1")
def test_a_row_that_does_not_open_can_be_logged_out() -> None:
    async def run() -> None:
        async with fleet(expired=False) as here, here.worker() as one:
            # Another worker, deployed a moment ago with a new first key, has stored it.
            await here.commit_elsewhere(one)
            here.row.sealed_tokens = bytes(reversed(here.row.sealed_tokens or b""))
            with logged() as records:
                await one.session.logout()
            assert (here.row.status, here.row.ended_reason) == ("ended", "logout")
            assert "session.seal_broken" in events(records)

    in_virtual_time(run)


def test_a_refresh_that_is_cancelled_before_it_begins_leaves_nobody_waiting() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            flight = one.start()
            assert flight.task is not None
            flight.task.cancel()
            await asyncio.sleep(0.1)
            assert flight.served
            assert one.live.flight is None

    in_virtual_time(run)
