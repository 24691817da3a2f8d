"""What a failed refresh does to a session, and what it does not."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import json
import time
from collections.abc import Callable
from email.utils import formatdate

from atproto_oauth_asgi.errors import ATProtoOAuthError, SessionRevoked
from atproto_oauth_asgi.testing.web import Answer
from tests.refresh.fleet import (
    Fleet,
    Worker,
    fleet,
    logged,
    within,
)
from tests.refresh.sentences import shows

# --- Backoff ---


def _pause(here: Fleet) -> float:
    return (here.row.refresh_after - here.clock()) / 1000


async def _fail(here: Fleet, worker: Worker, retry_after: int | None = None) -> float:
    here.network.faults.fail(503, retry_after=retry_after)
    here.row.refresh_after = 0
    await worker.look_again()
    await worker.refresh()
    return _pause(here)


@shows("6.7.backoff", without=("no backoff", "the pause never grows", "the pause grows for ever"))
async def each_failure_doubles_the_pause_up_to_a_minute() -> None:
    async with fleet() as here, here.worker() as one, here.worker() as two:
        for failures in range(1, 5):
            pause = await _fail(here, one if failures % 2 else two)
            assert here.row.failures == failures
            assert 2**failures * 0.8 - 0.001 <= pause <= 2**failures * 1.2
        for failures in (6, 30):
            here.row.failures = failures - 1
            pause = await _fail(here, one)
            assert 48 - 0.001 <= pause <= 72
        assert here.row.status == "active"


@shows("6.7.jitter", without=("no jitter",))
async def pauses_vary() -> None:
    async with fleet() as here, here.worker() as one:
        pauses: list[float] = []
        for _ in range(6):
            here.row.failures = 4
            pauses.append(await _fail(here, one))
        assert max(pauses) - min(pauses) > 0.5
        assert all(32 * 0.8 - 0.001 <= pause <= 32 * 1.2 for pause in pauses)


@shows("6.7.retry-after", without=("Retry-After is ignored", "Retry-After is not capped"))
async def a_server_may_ask_for_more_patience() -> None:
    async with fleet() as here, here.worker() as one:
        assert await _fail(here, one, retry_after=120) == 120
        assert await _fail(here, one, retry_after=90_000) == 300
        assert here.row.status == "active"


@shows("6.7.retry-after", without=("Retry-After is ignored",))
async def a_server_may_ask_for_patience_until_a_date() -> None:
    # By its own clock, where it shows one.
    for ahead, shown, pause in ((0, False, 120), (3600, True, 120), (0, True, -60)):

        def busy(_: Answer, ahead: int = ahead, shown: bool = shown, pause: int = pause) -> Answer:
            now = time.time() + ahead
            headers = [("retry-after", formatdate(now + pause, usegmt=True))]
            if shown:
                headers.append(("date", formatdate(now, usegmt=True)))
            return Answer(status=503, headers=tuple(headers), body=b"busy")

        async with fleet() as here, here.worker() as one:
            with here.network.alter("/oauth/token", busy):
                await one.refresh()
            assert abs(_pause(here) - max(1, pause)) <= 1
            assert here.row.failures == 1


# --- invalid_grant ---


@shows("6.7.revoked", "5.gone", without=("every mark counts twice", "the end is not noticed"))
async def a_grant_that_the_person_revoked_ends_the_session() -> None:
    async with fleet() as here, here.worker() as one:
        here.network.revoke_sessions()
        await one.refresh()

        assert (here.row.status, here.row.ended_reason) == ("ended", "revoked")
        try:
            await one.get()
        except SessionRevoked as exc:
            if exc.reason != "revoked":
                raise AssertionError(exc.reason) from exc
        except ATProtoOAuthError as exc:
            raise AssertionError("a gone grant was not called so") from exc
        else:
            raise AssertionError("a gone grant was used")
        assert (await one.browser.get("/who")).json()["did"] is None


@shows("6.7.lost", "6.2.journal", without=("the journal is wiped", "ends are not explained"))
async def a_replay_after_a_lost_answer_is_called_by_its_name() -> None:
    async with fleet() as here, here.worker() as one, here.worker() as two:
        here.network.faults.lose_answer()
        await one.refresh()
        here.row.refresh_after = 0
        here.clock.move(30)
        await two.look_again()
        with logged() as records:
            await two.refresh()

        assert (here.row.status, here.row.ended_reason) == ("ended", "lost_rotation")
        ended = [vars(one) for one in records if one.getMessage() == "session.ended"]
        assert [one["attempts"] for one in ended] == [2]
        assert ended[0]["first_sent_ago_ms"] == 30_000


@shows("6.7.ended", "6.7.first-reason", without=("the row is not read again",))
async def a_logout_stays_a_logout_when_the_server_refuses_too() -> None:
    async with fleet() as here, here.worker() as one:
        async with here.network.pause_token_endpoint("refresh_token") as pause:
            flight = one.start()
            await within(2, pause.arrived())
            await here.store.end_session(here.session_id, "logout")
            here.network.revoke_sessions()
            pause.release()
            await one.done(flight)
            await one.settled()

        assert here.row.ended_reason == "logout"
        assert one.live.ended_reason == "logout"
        assert here.revocations == 0


@shows("6.7.newer", without=("the attempt is not counted", "old refusals end newer sessions"))
async def a_refusal_of_an_old_token_adopts_the_newer_and_marks_it() -> None:
    async with fleet() as here, here.worker() as one:
        async with here.network.pause_token_endpoint("refresh_token") as pause:
            flight = one.start()
            await within(2, pause.arrived())
            newer = await here.commit_elsewhere(one)
            # Ours is the replay that kills the grant.
            here.network.revoke_sessions()
            pause.release()
            await one.done(flight)

        assert here.row.status == "active"
        assert one.live.tokens == newer
        assert here.row.attempts == 1
        assert here.revocations == 0

        here.expire()
        await one.look_again()
        await one.refresh()
        assert here.row.ended_reason == "lost_rotation"


@shows("6.7.guarded", "6.7.first-reason", without=("ending ignores the version",))
async def tokens_that_arrive_while_the_end_is_decided_are_kept() -> None:
    async with fleet() as here, here.worker() as one:
        here.network.revoke_sessions()
        flight = one.start()

        async def overtaken() -> None:
            await here.commit_elsewhere(one)
            one.wire.before.clear()

        one.wire.before["end"] = overtaken
        await one.done(flight)

        assert (here.row.status, here.row.version) == ("active", 2)
        assert one.live.version == 2
        assert one.live.ended_reason is None


@shows("6.7.first-reason", without=("the last reason wins",))
async def a_logout_while_the_end_is_decided_stays_a_logout() -> None:
    async with fleet() as here, here.worker() as one:
        here.network.revoke_sessions()
        flight = one.start()

        async def leaves() -> None:
            await here.store.end_session(here.session_id, "logout")

        one.wire.before["end"] = leaves
        await one.done(flight)

        assert here.row.ended_reason == "logout"
        assert one.live.ended_reason == "logout"


# --- Everything else ---


def _json(status: int, **members: str) -> Callable[[Answer], Answer]:
    def change(answer: Answer) -> Answer:
        nonce = ("dpop-nonce", answer.header("dpop-nonce") or "n")
        headers = (("content-type", "application/json"), nonce)
        return Answer(status=status, headers=headers, body=json.dumps(members).encode())

    return change


def _body(status: int, body: bytes, kind: str = "text/html") -> Callable[[Answer], Answer]:
    def change(_: Answer) -> Answer:
        return Answer(status=status, headers=(("content-type", kind),), body=body)

    return change


def _without(member: str) -> Callable[[Answer], Answer]:
    def change(answer: Answer) -> Answer:
        return answer.with_json(**{member: None}) if answer.status == 200 else answer

    return change


#: What ends no session, by name.
TROUBLE: dict[str, Callable[[Answer], Answer]] = {
    "500": _json(500, error="server_error"),
    "502 with a page": _body(502, b"<html>Bad Gateway</html>"),
    "503": _json(503, error="temporarily_unavailable"),
    "429": _json(429, error="slow_down"),
    "403 with a page": _body(403, b"<html>blocked</html>"),
    "a redirect": lambda _: Answer(status=302, headers=(("location", "https://e.example/"),)),
    "200 with a page": _body(200, b"<html>hello</html>"),
    "200 with broken JSON": _body(200, b'{"access_token": ', "application/json"),
    "200 with a list": _body(200, b"[]", "application/json"),
    "200 without a token": _without("access_token"),
    "400 with a page that says invalid_grant": _body(400, b"<html>invalid_grant</html>"),
    "invalid_client": _json(401, error="invalid_client"),
    "invalid_client_metadata": _json(400, error="invalid_client_metadata"),
    "unauthorized_client": _json(400, error="unauthorized_client"),
    "invalid_dpop_proof": _json(401, error="invalid_dpop_proof"),
    "invalid_request": _json(400, error="invalid_request"),
    "a nonce challenge without a nonce": _body(
        400, b'{"error":"use_dpop_nonce"}', "application/json"
    ),
    "500 that says invalid_grant": _json(500, error="invalid_grant"),
}


async def _survives(here: Fleet, worker: Worker, what: str) -> None:
    flight = await worker.refresh()
    await worker.settled()
    assert here.row.status == "active", what
    assert worker.live.ended_reason is None, what
    assert flight.error is not None, what
    assert here.row.failures == 1, what
    assert here.row.lease_until is None, what
    assert here.revocations == 0, what


@shows("6.7.never", without=("every failure ends the session",))
async def no_answer_but_invalid_grant_ends_a_session() -> None:
    for what, change in TROUBLE.items():
        async with fleet() as here, here.worker() as one:
            with here.network.alter("/oauth/token", change):
                await _survives(here, one, what)


@shows("6.7.never", without=("every failure ends the session",))
async def no_silence_ends_a_session() -> None:
    async with fleet() as here, here.worker() as one:  # noqa: SIM117
        async with here.network.pause_token_endpoint("refresh_token"):
            await _survives(here, one, "no answer")
    async with fleet() as here, here.worker() as one:
        here.network.faults.lose_answer()
        await _survives(here, one, "a dropped connection")
    async with fleet() as here, here.worker() as one:
        with here.network.outage():
            await _survives(here, one, "an outage")


@shows("6.7.jti", without=("a re-used jti ends the session",))
async def a_reused_assertion_jti_ends_no_session() -> None:
    change = _json(400, error="invalid_grant", error_description='Client assertion "jti" reused')
    async with fleet() as here, here.worker() as one:
        with here.network.alter("/oauth/token", change):
            await _survives(here, one, "jti reuse")
        assert here.row.attempts == 0, "a refusal before the token is looked at was counted"
