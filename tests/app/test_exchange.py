"""A code is sent once, and only to the server that the login began with."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.testing.web import Answer
from tests.app.world import changed, world

pytestmark = pytest.mark.anyio


@pytest.mark.spec("H12")
async def test_a_code_that_expired_is_refused_by_the_server() -> None:
    now = time.time()
    network = Network(clock=lambda: now)
    async with world(network) as here:
        callback = await here.approved()
        now += 400
        back = await here.browser.get(callback)

        assert back.status_code == 502
        assert "refused the sign-in" in back.text


@pytest.mark.spec("G7")
async def test_a_server_that_is_away_at_the_exchange_is_said() -> None:
    async with world() as here:
        callback = await here.approved()
        with here.network.outage():
            back = await here.browser.get(callback)

        assert back.status_code == 502
        assert "could not be reached" in back.text


@pytest.mark.spec("G7")
async def test_a_server_that_never_answers_the_exchange_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("atproto_oauth_asgi.callback.EXCHANGE_DEADLINE", 0.05)
    async with world() as here:
        callback = await here.approved()
        with here.network.hanging():
            back = await here.browser.get(callback)

        assert back.status_code == 502
        assert "could not be reached" in back.text


@pytest.mark.spec("G7", "H12")
@pytest.mark.parametrize("status", [400, 429, 500, 503])
async def test_the_code_is_never_sent_twice_whatever_the_server_answers(status: int) -> None:
    async with world() as here:
        callback = await here.approved()
        here.network.faults.fail(status, grant="authorization_code", times=5)
        back = await here.browser.get(callback)

        assert back.status_code == 502
        assert len(here.network.token_requests("authorization_code")) == 1


@pytest.mark.spec("H1", "H2")
@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'"x"', b"<html>", b"[" * 5000])
async def test_an_answer_that_is_no_json_object_ends_the_login(body: bytes) -> None:
    async with world() as here:
        callback = await here.approved()
        with here.network.alter(
            "/oauth/token",
            lambda answer: replace(answer, body=body) if answer.status == 200 else answer,
        ):
            back = await here.browser.get(callback)

        assert back.status_code == 502
        assert here.cookie is None


@pytest.mark.spec("G7")
async def test_a_code_whose_answer_was_lost_is_not_sent_again() -> None:
    async with world() as here:
        callback = await here.approved()
        here.network.faults.lose_answer(grant="authorization_code")
        back = await here.browser.get(callback)
        again = await here.browser.get(callback)

        assert (back.status_code, again.status_code) == (502, 502)
        assert len(here.network.token_requests("authorization_code")) == 1
        assert here.cookie is None


@pytest.mark.spec("P10", "G5")
async def test_a_code_of_one_server_is_never_sent_to_another() -> None:
    network = Network()
    evil = network.add_host("https://evil.example")
    async with world(network) as here:
        # The evil server, chosen for the login, sends the browser on to the honest one.
        mixed_up = await here.begin(evil.origin)
        at_evil = here.pushed(mixed_up.headers["location"]).parameters["state"]
        honest = await here.approved()
        stolen = changed(honest, state=at_evil)
        back = await here.browser.get(stolen)

        assert back.status_code == 400
        assert not network.token_requests()
        assert here.cookie is None


@pytest.mark.spec("P10", "H1")
async def test_the_code_goes_to_the_server_that_the_login_began_with() -> None:
    network = Network()
    other = network.add_host("https://pds2.example")
    async with world(network) as here:
        callback = await here.approved()
        network.move_account("alice.test", other)
        back = await here.browser.get(callback)

        assert back.status_code >= 400
        assert {one.server for one in network.log.of("token")} == {network.host.origin}


@pytest.mark.spec("K5", "H2")
async def test_tokens_with_another_status_than_200_are_refused_and_revoked() -> None:
    def created(answer: Answer) -> Answer:
        return replace(answer, status=201) if answer.status == 200 else answer

    async with world() as here:
        callback = await here.approved()
        with here.network.alter("/oauth/token", created):
            back = await here.browser.get(callback)

        assert back.status_code == 502
        assert here.cookie is None
        assert await here.revoked()
