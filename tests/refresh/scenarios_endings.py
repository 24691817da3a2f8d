"""Sessions that must not be refreshed any more, and processes that end."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

from atproto_oauth_asgi.errors import ATProtoOAuthError, NoSession
from atproto_oauth_asgi.refresh_timing import RefreshTiming
from atproto_oauth_asgi.testing.web import Answer
from tests.app.world import world
from tests.refresh import fleet as fleets
from tests.refresh.fleet import (
    LOOPBACK_URL,
    SECRET_KEYS,
    events,
    fleet,
    logged,
    within,
)
from tests.refresh.sentences import shows

ROOT = Path(__file__).parents[2]

# --- Tokens that nobody may use ---


@shows("J5", without=("the subject is not compared", "nothing is revoked"))
async def tokens_for_somebody_else_end_the_session_and_are_revoked() -> None:
    async with fleet() as here, here.worker() as one:
        bob = here.network.account("bob.test").did

        def other(answer: Answer) -> Answer:
            return answer.with_json(sub=bob) if answer.status == 200 else answer

        with here.network.alter("/oauth/token", other):
            await one.refresh()
        await one.settled()

        assert (here.row.status, here.row.version) == ("ended", 1)
        assert here.revocations == 1
        assert not here.alive_at_the_server


@shows("J5", without=("the token type is not compared", "nothing is revoked"))
async def bearer_tokens_end_the_session_and_are_revoked() -> None:
    def bearer(answer: Answer) -> Answer:
        return answer.with_json(token_type="Bearer") if answer.status == 200 else answer

    async with fleet() as here, here.worker() as one:
        with here.network.alter("/oauth/token", bearer):
            await one.refresh()
        await one.settled()

        assert here.row.status == "ended"
        assert here.revocations == 1


# --- Client id ---


@shows("6.8.never", "6.8.back", without=("client ids are not compared",))
async def a_changed_client_id_costs_no_session() -> None:
    async with fleet() as here, here.worker() as one:
        did = one.live.did
        async with here.worker(base_url="https://new.birdsong.dev") as other:
            pair = "; ".join(f"{name}={value}" for name, value in here.cookies.items())
            answer = await other.browser.get("/who", headers={"cookie": pair})
            assert answer.json()["did"] is None
            cookie = other.oauth.cookies.read_session([(b"cookie", pair.encode())])
            assert cookie is not None
            listed = await other.runtime.sessions.accounts(cookie)
            assert [account.reason for account in listed] == ["client_changed"]
            try:
                async with other.oauth.session_for(did) as session:
                    await session.get("/xrpc/com.atproto.server.getSession")
            except NoSession:
                pass
            else:
                raise AssertionError("a session of another client id was used")
        assert here.sent == 0
        assert here.alive_at_the_server

        await one.refresh()
        assert (await one.get()).status_code == 200


@shows("6.8.port", without=("the port is in the client id",), real_time="a served network")
async def a_development_app_on_a_new_port_keeps_its_sessions() -> None:
    async with fleet(served=True) as here:
        other = LOOPBACK_URL.replace("8123", "9321")
        async with here.worker(base_url=other) as two:
            try:
                async with two.oauth.session_for(two.live.did) as session:
                    answer = await session.get("/xrpc/com.atproto.server.getSession")
            except NoSession as exc:
                raise AssertionError("the session was left behind") from exc
            assert answer.status_code == 200
        assert here.refreshes == 1


# --- Logout and shutdown ---


@shows("6.9.first", without=("logout revokes first",))
async def logout_ends_the_row_before_it_revokes() -> None:
    async with fleet(expired=False) as here, here.worker() as one:
        async with here.network.hold("/oauth/revoke") as revoking:
            leaving = one.call(one.session.logout())
            await within(2, revoking.arrived())
            assert (here.row.status, here.row.ended_reason) == ("ended", "logout")
            assert here.row.sealed_tokens is None
            revoking.release()
            await within(3, leaving)
        await one.settled()
        # It still had them in memory.
        assert not here.alive_at_the_server


@shows("6.9.unreachable", without=("logout needs the server",))
async def logout_needs_no_server() -> None:
    async with fleet(expired=False) as here, here.worker() as one:
        with here.network.outage():
            try:
                await within(3, one.session.logout())
            except ATProtoOAuthError as exc:
                raise AssertionError("logout failed") from exc
        assert (here.row.status, here.row.ended_reason) == ("ended", "logout")
        assert one.live.ended_reason == "logout"


@shows("6.9.drain", "6.task", without=("shutdown drains nothing",))
async def shutdown_waits_for_the_answer_and_stores_it() -> None:
    async with fleet() as here, here.network.pause_token_endpoint("refresh_token") as pause:
        async with here.worker() as one:
            one.start()
            await within(2, pause.arrived())
            asyncio.get_running_loop().call_later(59, pause.release)
        assert here.row.version == 2
        assert here.row.sealed_tokens is not None


@shows("6.9.grace", "6.5.loud", without=(
    "a mark outlives the documented grace", "going takes longer than the grace",
))  # fmt: skip
async def the_documented_grace_is_enough_whatever_happens() -> None:
    stopped = 0.0
    with logged() as records:
        async with fleet() as here, here.network.pause_token_endpoint("refresh_token") as pause:
            async with here.worker() as one:

                async def hangs() -> None:
                    await asyncio.Event().wait()

                one.wire.before["commit"] = hangs
                one.start()
                await within(2, pause.arrived())
                # The answer comes with the last moment of its deadline, the database never.
                asyncio.get_running_loop().call_later(60.9, pause.release)
                stopped = time.monotonic()
            taken = time.monotonic() - stopped

    assert here.refreshes == 1
    assert "session.lost_rotation" in events(records)
    assert taken <= 75
    for document in ("SECURITY.md", "README.md"):
        said = re.findall(r"(\d+) seconds between\s+the signal", (ROOT / document).read_text())
        assert said == [str(round(RefreshTiming().marked_lease))], document
        assert fleets.TIMING.marked_lease <= float(said[0]), document


@shows("6.9.said", without=("nobody says it",))
async def an_app_without_lifespan_is_told_once() -> None:
    with logged() as records:
        async with world(owned=False, secret_keys=SECRET_KEYS) as here:
            await here.login()
            await here.browser.get("/who")
            await here.browser.get("/who")
            runtime = here.oauth.runtime()
            await runtime.aclose()
    assert events(records).count("oauth.no_lifespan") == 1
