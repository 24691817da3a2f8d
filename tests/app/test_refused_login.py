"""A server that sends the browser back with an error is told to the person in a sentence."""

from __future__ import annotations

import time

import pytest

from atproto_oauth_asgi.testing import Network
from tests.app.world import changed, world

pytestmark = pytest.mark.anyio


@pytest.mark.spec("G6")
@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("login_required", "Please sign in again."),
        ("consent_required", "Please sign in again."),
        ("interaction_required", "Please sign in again."),
        ("account_selection_required", "Please sign in again."),
        ("invalid_scope", "did not grant the permissions"),
        ("server_error", "refused the sign-in"),
    ],
)
async def test_each_kind_of_error_has_its_sentence(error: str, sentence: str) -> None:
    async with world() as here:
        callback = here.network.deny((await here.begin()).headers["location"])
        back = await here.browser.get(changed(callback, error=error, error_description=None))

        assert sentence in back.text


@pytest.mark.spec("F3")
async def test_a_request_that_expired_at_the_server_is_told_as_such() -> None:
    now = time.time()
    network = Network(clock=lambda: now)
    async with world(network) as here:
        location = (await here.begin()).headers["location"]
        now += 400
        back = await here.browser.get(network.approve(location, "alice.test"))

        assert back.status_code == 400
        assert "has expired" in back.text


@pytest.mark.spec("G3", "G6")
async def test_a_refusal_uses_the_attempt_up_too() -> None:
    async with world() as here:
        begun = await here.begin()
        refused = here.network.deny(begun.headers["location"])
        first = await here.browser.get(refused)
        second = await here.browser.get(changed(refused, error=None, code="cod-forged"))

        assert first.status_code == 400
        assert second.status_code == 400
        assert not here.network.token_requests()
        assert here.cookie is None


@pytest.mark.spec("M9")
@pytest.mark.parametrize("error", ["invalid_scope"])
async def test_a_scope_that_the_server_refuses_late_is_said_as_such(error: str) -> None:
    async with world() as here:
        callback = changed(await here.approved(), code=None, error=error)
        back = await here.browser.get(callback)

        assert back.status_code == 400
        assert "permission" in back.text.lower()
