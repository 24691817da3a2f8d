"""Verify and POST: deadlines, answers that come late, and what is never repeated."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

import pytest
from starlette.types import Receive, Scope, Send

from atproto_oauth_asgi.net import Net
from atproto_oauth_asgi.testing.site import Site
from atproto_oauth_asgi.testing.web import Answer
from tests.net_server import LOOPBACK, serving
from tests.refresh import fleet as fleets
from tests.refresh.fleet import fleet, within
from tests.refresh.sentences import shows

# --- Verify ---


@shows("6.3.verify", without=("verify has no deadline",))
async def servers_that_hang_are_not_waited_for_for_ever() -> None:
    async with fleet() as here, here.worker() as one:
        async with here.network.hold(f"/{one.live.did}"):
            start = time.monotonic()
            flight = one.start()
            await within(60, flight.wait(60))

        assert flight.error is not None
        assert abs(time.monotonic() - start - 8) < 0.001
        assert here.sent == 0


@shows("6.3.unspent", without=("the lease is kept on failure",))
async def a_failed_check_gives_the_lease_back_unspent() -> None:
    async with fleet() as here, here.worker() as one:
        with here.network.outage():
            flight = await one.refresh()

        assert flight.error is not None
        assert flight.error.retryable
        assert here.row.status == "active"
        assert (here.row.lease_owner, here.row.lease_until) == (None, None)
        assert (here.row.attempts, here.row.first_sent, here.row.failures) == (0, None, 1)
        assert here.sent == 0
        assert 1.6 <= (here.row.refresh_after - here.clock()) / 1000 <= 2.4


@shows("6.3.fresh", "J6.issuer", without=("verify skipped", "the issuer is not compared"))
async def an_account_that_moved_logs_in_anew() -> None:
    async with fleet() as here, here.worker() as one:
        other = here.network.add_host()
        here.network.move_account("alice.test", other)
        await one.refresh()
        await one.settled()

        assert here.row.status == "reauth_required"
        assert here.sent == 0, "the refresh token went to some server"
        assert here.revocations == 1
        assert not here.alive_at_the_server
        answer = await one.browser.get("/who")
        assert answer.json()["did"] is None


@shows("J6.pds", without=("the old PDS is kept",))
async def an_account_on_a_new_pds_of_the_same_server_is_served_from_there() -> None:
    async with fleet() as here, here.worker() as one:
        other = here.network.add_host()
        issuer = here.network.host.origin

        def same_server(answer: Answer) -> Answer:
            return answer.with_json(authorization_servers=[issuer])

        here.network.move_account("alice.test", other)

        def both(answer: Answer) -> Answer:
            return answer.with_json(protected_resources=[issuer, other.origin])

        with (
            here.network.alter("/.well-known/oauth-protected-resource", same_server),
            here.network.alter("/.well-known/oauth-authorization-server", both),
        ):
            await one.refresh()
        await one.get()

        assert one.live.version == 2
        assert one.session.pds == other.origin
        assert here.row.pds == other.origin
        assert here.network.log.of("xrpc")[-1].server == other.origin


# --- POST ---


@shows("6.3.post", without=("POSTs are given up early",))
async def a_slow_server_is_waited_for() -> None:
    async with fleet() as here, here.worker() as one:
        here.network.faults.delay(59.5, grant="refresh_token")
        await one.refresh()

        assert one.live.version == 2
        assert here.refreshes == 1


@shows("6.3.own", without=("one deadline for all",))
async def each_post_has_its_whole_deadline() -> None:
    async with fleet() as here, here.worker() as one:
        async with (
            here.network.hold(f"/{one.live.did}") as looking,
            here.network.hold("/oauth/token") as challenge,
        ):
            flight = one.start()
            await within(2, looking.arrived())
            await asyncio.sleep(7)
            looking.release()
            for number in (1, 2):
                await within(2, challenge.arrived(number))
                await asyncio.sleep(59)
                challenge.release(1)
            await one.done(flight)

        assert one.live.version == 2


@shows("6.3.late", without=("late answers are dropped",))
async def a_process_that_stood_still_takes_the_answer_that_came_meanwhile() -> None:
    async with fleet() as here, here.worker() as one:
        async with here.network.pause_token_endpoint("refresh_token") as pause:
            flight = one.start()
            await within(2, pause.arrived())
            pause.release()
            time.sleep(300)  # noqa: ASYNC251 - every deadline has passed
            await one.done(flight)

        assert flight.error is None
        assert one.live.version == 2
        assert here.refreshes == 1


@shows("6.3.late", without=("late answers are dropped",), real_time="a socket")
async def an_answer_that_lies_in_the_socket_is_taken() -> None:
    with fleets.timing(post=1.0, late_answer=20.0):
        async with (
            fleet(served=True) as here,
            here.worker() as one,
            here.network.pause_token_endpoint("refresh_token") as pause,
        ):
            flight = one.start()
            await within(30, pause.arrived())
            pause.release()
            # The process stands still, past every deadline, while the answer comes.
            time.sleep(1.3)  # noqa: ASYNC251
            await one.done(flight, 60)

    assert flight.error is None
    assert one.live.version == 2
    assert here.refreshes == 1


@shows("6.3.drop", without=("POSTs have no deadline",))
async def a_post_without_an_answer_is_dropped_in_the_end() -> None:
    async with fleet() as here, here.worker() as one:
        async with here.network.pause_token_endpoint("refresh_token") as pause:
            start = time.monotonic()
            flight = one.start()
            await within(2, pause.arrived())
            await one.done(flight)
            taken = time.monotonic() - start
            held = pause.waiting

        assert held == 1
        assert abs(taken - (60 + 1)) < 0.001
        assert flight.error is not None
        # It may have been processed: that is in the journal, and nobody is signed out.
        assert (here.row.attempts, here.row.status, here.row.failures) == (1, "active", 1)
        assert here.row.lease_until is None


@shows("6.3.blind", without=("blind retry",))
async def a_lost_answer_is_not_asked_for_again() -> None:
    async with fleet() as here, here.worker() as one:
        here.network.faults.lose_answer()
        flight = await one.refresh()

        assert here.refreshes == 1
        assert flight.error is not None
        assert here.row.status == "active"
        assert not one.live.allowed


@shows("6.3.nonce", without=("nonces are chased for ever", "one mark for two POSTs"))
async def a_nonce_challenge_is_answered_once_after_another_mark() -> None:
    challenges = 0

    def again(answer: Answer) -> Answer:
        nonlocal challenges
        challenges += 1
        body = b'{"error": "use_dpop_nonce"}'
        return Answer(
            status=400,
            headers=(("content-type", "application/json"), ("dpop-nonce", f"n{challenges}")),
            body=body,
        )

    async with fleet() as here, here.worker() as one:
        with here.network.alter("/oauth/token", again):
            await one.refresh()

        assert challenges == 2
        assert len(one.wire.won("mark")) == 2
        assert here.row.status == "active"


@shows("6.3.idle", without=("a connection may be idle for long",), real_time="sockets")
async def no_post_goes_over_a_connection_that_was_idle_for_two_seconds() -> None:
    stopped, ahead = time.monotonic(), 0.0
    async with serving() as server, aclosing(Net(LOOPBACK)) as net:
        with pytest.MonkeyPatch.context() as patch:
            # A clock that stands still in between: a machine that stalls is no idleness.
            patch.setattr(time, "monotonic", lambda: stopped + ahead)
            for idle in (0.0, 1.5, 2.1):
                ahead += idle
                await net.post_form(server.url, {})

        assert [connection for connection, _ in server.requests] == [1, 1, 2]


@shows("6.3.idle", without=("idle connections are used",), real_time="a served network")
async def each_post_has_a_connection_of_its_own() -> None:
    async with fleet(served=True) as here:
        ports: list[int] = []
        answer = Site.__call__

        async def noting(self: Site, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] == "/oauth/token":
                ports.append(scope["client"][1])
            await answer(self, scope, receive, send)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Site, "__call__", noting)
            async with here.worker() as one:
                await one.refresh()

        assert len(ports) == 2
        assert len(set(ports)) == 2
