"""A machine whose clock is wrong: against servers that look at it, and servers that lie."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from email.utils import formatdate

import pytest

from atproto_oauth_asgi.errors import XRPCError
from atproto_oauth_asgi.instrumentation import Event
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.testing.web import Answer
from tests.app.faulty_store import FaultyStore
from tests.app.world import World, world

pytestmark = [pytest.mark.anyio, pytest.mark.spec("I16")]

WRONG = 250.0


@contextmanager
def dated(network: Network, offset: float | None) -> Generator[None]:
    """Let every answer of a network bear another Date than its servers go by, or none."""

    def add(answer: Answer) -> Answer:
        date = None if offset is None else formatdate(time.time() + offset, usegmt=True)
        return answer.with_header("date", date)

    with (
        network.alter("/oauth/par", add),
        network.alter("/oauth/token", add),
        network.alter("/oauth/revoke", add),
        network.alter("/xrpc/com.atproto.server.getSession", add),
    ):
        yield


def skewed(seconds: float) -> Network:
    return Network(clock=lambda: time.time() + seconds)


async def called(here: World) -> int:
    return (await here.browser.get("/me")).status_code


@pytest.mark.parametrize("seconds", [WRONG, -WRONG])
async def test_login_call_refresh_and_logout_work_with_a_wrong_clock(seconds: float) -> None:
    told: list[Event] = []
    network = skewed(seconds)
    store = FaultyStore()
    async with world(network, store=store, on_event=told.append) as here:
        finished = await here.login()
        assert finished.status_code == 303, finished.text
        assert await called(here) == 200
        network.expire_access_tokens()
        store.allow_refresh()
        assert await called(here) == 200
        await here.logout()
        assert await here.revoked()
    names = [event.name for event in told]
    assert names.count("session.refreshed") == 1
    # Once per origin and not once per request.
    assert names.count("dpop.clock_skew") == 1


async def test_without_a_date_it_fails_and_says_so() -> None:
    network = skewed(WRONG)
    async with world(network) as here:
        with dated(network, None):
            begun = await here.begin()
        assert begun.status_code == 502
        assert len(network.log.of("par")) <= 2


@pytest.mark.parametrize("lie", [600.0, -600.0, 1e9])
async def test_a_server_that_lies_about_the_time_gets_no_second_try(lie: float) -> None:
    network = skewed(WRONG)
    async with world(network) as here:
        with dated(network, lie):
            begun = await here.begin()
        assert begun.status_code == 502
        assert here.oauth.runtime().sessions.nonces.clocks.offset(network.host.origin) == 0


async def test_a_date_is_only_looked_at_after_a_refused_proof() -> None:
    network = Network()
    async with world(network) as here:
        with dated(network, 200):
            await here.login()
            assert await called(here) == 200
        assert here.oauth.runtime().sessions.nonces.clocks.offset(network.host.origin) == 0


async def test_a_server_that_refuses_for_ever_is_not_asked_for_ever() -> None:
    async with world() as here:
        await here.login()
        asked = 0

        def refuse(answer: Answer) -> Answer:
            nonlocal asked
            asked += 1
            # Another time with each answer.
            now = formatdate(time.time() + 20 * (asked % 9), usegmt=True)
            return Answer(
                status=401,
                headers=(
                    ("content-type", "application/json"),
                    ("www-authenticate", 'DPoP error="invalid_dpop_proof"'),
                    ("date", now),
                ),
                body=b'{"error":"invalid_dpop_proof","message":"no"}',
            )

        async with here.oauth.session_for(here.did()) as session:
            with (
                here.network.alter("/xrpc/com.atproto.server.getSession", refuse),
                pytest.raises(XRPCError),
            ):
                await session.query("com.atproto.server.getSession")
        assert asked == 2
