"""What a refresh does in cases too small for a sentence of the design; in virtual time."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace

import pytest

from atproto_oauth_asgi.errors import RefreshFailed, StoreUnavailable
from atproto_oauth_asgi.testing.web import Answer
from tests.hostile.lies import Change, member, raw
from tests.refresh.fleet import LIFE, events, fleet, logged
from tests.virtual_time import in_virtual_time


def invalid_grant(description: str, status: int = 400) -> Change:
    members = {"error": "invalid_grant", "error_description": description}
    return lambda answer: replace(answer, status=status).with_json(**members)


def granted(change: Change) -> Change:
    """Change an answer that gives tokens."""
    return lambda answer: change(answer) if answer.status == 200 else answer


def rewritten(**members: object) -> Change:
    return granted(lambda answer: answer.with_json(**members))


async def away() -> None:
    raise StoreUnavailable


def test_a_call_that_waited_in_vain_says_why_there_are_no_tokens() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            here.network.faults.fail(503)
            with pytest.raises(RefreshFailed) as caught:
                await one.get()
            assert str(caught.value) == "The token endpoint answered 503 server_error."

    in_virtual_time(run)


def test_a_store_that_is_away_is_said() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            one.wire.before["acquire"] = away
            with pytest.raises(RefreshFailed) as caught:
                await one.get()
            assert str(caught.value) == "The session store does not answer; nothing was lost."

    in_virtual_time(run)


@pytest.mark.parametrize(("drawn", "pause"), [(0.8, 1.6), (1.2, 2.4)])
def test_a_pause_is_up_to_a_fifth_shorter_or_longer(
    monkeypatch: pytest.MonkeyPatch, drawn: float, pause: float
) -> None:
    def uniform(low: float, high: float) -> float:
        return {0.8: low, 1.2: high}[drawn]

    monkeypatch.setattr(random, "uniform", uniform)

    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            here.network.faults.fail(503)
            await one.refresh()
            assert (here.row.refresh_after - here.clock()) / 1000 == pytest.approx(pause, abs=0.01)

    in_virtual_time(run)


def test_a_server_that_asks_for_no_patience_gets_a_second() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            here.network.faults.fail(503, retry_after=0)
            await one.refresh()
            assert (here.row.refresh_after - here.clock()) / 1000 == pytest.approx(1.0, abs=0.01)

    in_virtual_time(run)


@pytest.mark.parametrize("status", [400, 401])
@pytest.mark.parametrize("description", ["", "reuse of a refresh token", "unknown jti"])
def test_a_grant_that_is_gone_is_gone_in_whatever_words(description: str, status: int) -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            with (
                logged() as records,
                here.network.alter("/oauth/token", invalid_grant(description, status)),
            ):
                await one.refresh()
            (told,) = [record for record in records if record.getMessage() == "session.ended"]
            fields = {name: vars(told)[name] for name in ("session", "did", "reason", "attempts")}
            assert fields == {
                "session": here.session_id,
                "did": one.live.did,
                "reason": "revoked",
                "attempts": 1,
            }
            assert (here.row.status, here.row.ended_reason) == ("ended", "revoked")
            assert one.live.ended_reason == "revoked"

    in_virtual_time(run)


def test_a_grant_that_is_gone_from_a_session_that_is_gone_too() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:

            def purge(answer: Answer) -> Answer:
                here.store._sessions.pop(here.session_id, None)
                return invalid_grant("gone")(answer)

            with here.network.alter("/oauth/token", purge):
                await one.refresh()
            assert one.live.ended_reason == "expired"

    in_virtual_time(run)


def test_a_process_that_goes_tries_to_store_tokens_ten_times_a_second() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            tries: list[float] = []

            async def fail() -> None:
                tries.append(time.monotonic())
                raise StoreUnavailable

            one.wire.before["commit"] = fail
            flight = one.start()
            assert await flight.wait(60)
            await asyncio.sleep(10)
            assert len(tries) <= 11
            tries.clear()
            one.runtime.tasks.closing.set()
            await asyncio.sleep(1.0)
            assert len(tries) >= 9
            del one.wire.before["commit"]
            await one.done(flight)

    in_virtual_time(run)


def test_tokens_that_are_not_ours_end_the_session() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            bearer = rewritten(token_type="Bearer")
            with logged() as records, here.network.alter("/oauth/token", bearer):
                await one.refresh()
            (wrong,) = [one for one in records if one.getMessage() == "refresh.wrong_tokens"]
            assert vars(wrong)["error"] == "authorization_failed"
            (told,) = [record for record in records if record.getMessage() == "session.ended"]
            assert [vars(told)[name] for name in ("session", "did", "reason")] == [
                here.session_id,
                one.live.did,
                "revoked",
            ]
            assert (here.row.status, here.row.ended_reason) == ("ended", "revoked")
            assert one.live.ended_reason == "revoked"

    in_virtual_time(run)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (raw(b"<html>"), "The answer of 'pds.example' is not valid JSON."),
        (
            member("access_token", None),
            "The token response has no access_token; report this to the server's operator.",
        ),
    ],
)
def test_an_answer_that_cannot_be_read_is_an_outage(change: Change, why: str) -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            with logged() as records, here.network.alter("/oauth/token", granted(change)):
                await one.refresh()
            (told,) = [one for one in records if one.getMessage() == "refresh.postponed"]
            assert vars(told)["why"] == f"The token endpoint's answer cannot be read: {why}"
            assert (here.row.status, here.row.lease_until) == ("active", None)
            assert one.live.failures == 1

    in_virtual_time(run)


def test_an_answer_without_a_nonce_is_told_and_kept() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            without = granted(lambda answer: answer.with_header("dpop-nonce", None))
            with logged() as records, here.network.alter("/oauth/token", without):
                await one.refresh()
            (told,) = [one for one in records if one.getMessage() == "refresh.no_nonce"]
            assert (vars(told)["session"], vars(told)["issuer"]) == (
                here.session_id,
                here.network.host.origin,
            )
            assert here.row.version == 2
            with logged() as records:
                one.live.refresh_at = 0
                here.expire()
                await one.look_again()
                await one.refresh()
            assert "refresh.no_nonce" not in events(records)

    in_virtual_time(run)


def test_tokens_that_are_not_ours_end_no_newer_session() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:

            async def overtake() -> None:
                await here.commit_elsewhere(one)

            one.wire.before["end"] = overtake
            with here.network.alter("/oauth/token", rewritten(token_type="Bearer")):
                await one.refresh()
            assert (here.row.status, here.row.version) == ("active", 2)

    in_virtual_time(run)


def test_a_request_that_left_stays_in_the_journal_though_nobody_could_read_the_row() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:

            def cut_off(answer: Answer) -> Answer:
                one.wire.before["read"] = away
                return invalid_grant("gone")(answer)

            with here.network.alter("/oauth/token", cut_off):
                await one.refresh()
            assert here.row.status == "active"
            assert here.row.attempts == 1

    in_virtual_time(run)


def test_a_pds_that_is_away_but_where_it_was_is_no_reason_to_refresh() -> None:
    async def run() -> None:
        async with fleet(expired=False) as here, here.worker() as one:
            one.runtime.upkeep.suspect(one.live)
            await one.settled()
            assert here.sent == 0
            assert here.row.version == 1

    in_virtual_time(run)


def test_what_is_stored_is_told_and_known_at_once() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            narrower = rewritten(scope="atproto")
            with logged() as records, here.network.alter("/oauth/token", narrower):
                await one.refresh()
            (refreshed,) = [one for one in records if one.getMessage() == "session.refreshed"]
            assert vars(refreshed)["version"] == here.row.version == 2
            assert one.session.scopes == {"atproto"}
            assert one.live.life == LIFE

    in_virtual_time(run)


@pytest.mark.parametrize("error", [StoreUnavailable(), ValueError("a defect")])
def test_a_try_that_fails_is_told_with_its_traceback_if_it_is_a_defect(error: Exception) -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            failed: list[Exception] = []

            async def once() -> None:
                if not failed:
                    failed.append(error)
                    raise error

            one.wire.before["commit"] = once
            with logged() as records:
                await one.refresh()
            (told,) = [one for one in records if one.getMessage() == "commit.retry"]
            shown = told.exc_info[1] if told.exc_info else None
            assert shown is (error if isinstance(error, ValueError) else None)
            assert here.row.version == 2

    in_virtual_time(run)


def test_a_session_that_was_purged_meanwhile_has_expired() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:

            async def purge() -> None:
                here.store._sessions.pop(here.session_id, None)

            one.wire.before["commit"] = purge
            await one.refresh()
            await one.settled()
            assert one.live.ended_reason == "expired"
            assert not here.alive_at_the_server

    in_virtual_time(run)


def test_newer_tokens_that_do_not_open_are_lost() -> None:
    async def run() -> None:
        async with fleet() as here, here.worker() as one:

            async def overtake() -> None:
                await here.commit_elsewhere(one)
                here.row.version += 1
                here.row.sealed_tokens = b"\x01" + bytes(60)

            one.wire.before["commit"] = overtake
            with logged() as records:
                await one.refresh()
            (told,) = [one for one in records if one.getMessage() == "session.seal_broken"]
            assert vars(told)["session"] == here.session_id
            assert vars(told)["version"] == 2
            assert one.live.ended_reason == "lost_rotation"

    in_virtual_time(run)
