"""Before each refresh the account's servers are looked up afresh."""

from __future__ import annotations

import asyncio

import pytest

from atproto_oauth_asgi.errors import RefreshFailed
from atproto_oauth_asgi.testing.web import Answer
from tests.refresh.fleet import Fleet, Worker, events, fleet, logged
from tests.virtual_time import in_virtual_time

METADATA = "/.well-known/oauth-authorization-server"


async def again(here: Fleet, one: Worker) -> None:
    """Let the tokens of a first refresh run out, whose look-ups this process remembers."""
    await one.refresh()
    assert one.live.version == 2
    here.expire()
    one.live.refresh_at = 0
    await one.look_again()


@pytest.mark.parametrize("changed", ["owner", "version"])
def test_a_row_that_is_not_ours_when_it_is_read_again_is_left_alone(changed: str) -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:

            async def change() -> None:
                owner = here.row.lease_owner
                if changed == "version":
                    await here.commit_elsewhere(one)
                here.row.lease_owner = "another" if changed == "owner" else owner

            one.wire.after["acquire"] = change
            flight = await one.refresh()
            assert flight.error is None
            assert one.wire.of("mark") == []
            assert one.live.version == (2 if changed == "version" else 1)

    in_virtual_time(run)


def test_the_did_document_is_read_again() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            await again(here, one)
            here.network.move_account("alice.test", here.network.add_host())
            await one.refresh()
            assert here.row.status == "reauth_required"

    in_virtual_time(run)


def test_the_servers_metadata_are_read_again() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            await again(here, one)
            reads = 0

            def counted(answer: Answer) -> Answer:
                nonlocal reads
                reads += 1
                return answer

            with here.network.alter(METADATA, counted):
                await one.refresh()
            assert reads == 1
            assert one.live.version == 3

    in_virtual_time(run)


def test_who_moved_is_signed_out_in_this_process_at_once() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            here.network.move_account("alice.test", here.network.add_host())
            await one.refresh()
            assert one.live.ended_reason == "reauth_required"

    in_virtual_time(run)


def test_who_moved_while_another_process_stored_tokens_has_those() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            here.network.move_account("alice.test", here.network.add_host())

            async def overtaken(*_args: object, **_more: object) -> bool:
                await here.commit_elsewhere(one)
                return False

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(one.wire, "require_reauth", overtaken)
                await one.refresh()
            assert one.live.ended_reason is None
            assert one.live.version == 2
            assert one.live.tokens.access_token == "newer"  # a test's

    in_virtual_time(run)


def test_newer_tokens_that_do_not_open_are_told_before_anything_is_asked() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker(defects=True) as one:
            await here.commit_elsewhere(one)
            here.row.sealed_tokens = b"\x01" + bytes(60)
            with logged() as records:
                flight = await one.refresh()
            assert events(records) == ["session.seal_broken", "refresh.failed", "refresh.postponed"]
            for told in records:
                assert vars(told)["session"] == here.session_id
                assert vars(told)["did"] == one.live.did
            assert all(told.exc_info is not None for told in records[:2])
            assert str(flight.error) == "The refresh failed unexpectedly; the log says why."
            assert (here.row.status, here.sent) == ("active", 0)

    in_virtual_time(run)


def test_servers_that_cannot_be_checked_are_named() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            with here.network.alter(METADATA, lambda answer: Answer(status=404)):
                flight = await one.refresh()
            assert isinstance(flight.error, RefreshFailed)
            why = str(flight.error)
            assert why.startswith("The account's servers could not be checked: ")
            assert "pds.example" in why

    in_virtual_time(run)


def test_servers_that_are_silent_are_said_to_be() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:  # noqa: SIM117
            async with here.network.hold(f"/{one.live.did}") as looking:
                flight = one.start()
                await looking.arrived()
                # The deadline for all of it is shorter than that of one answer.
                await asyncio.sleep(9)
                assert str(flight.error) == (
                    "The account's servers could not be checked: they took too long."
                )
                looking.release()

    in_virtual_time(run)
