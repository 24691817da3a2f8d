"""What a callback must be to finish a login, and whose."""

from __future__ import annotations

import asyncio
from urllib.parse import urlencode

import httpx
import pytest

from atproto_oauth_asgi.testing import Network
from tests.app.faulty_store import FaultyStore
from tests.app.world import BASE_URL, World, changed, world

pytestmark = pytest.mark.anyio

GENERIC = "This sign-in link is not valid here. Please start again."


async def used_up(here: World, callback: str) -> bool:
    """Say whether the right callback in the right browser does not work any more."""
    # At once: whoever began it must not wait for an outcome that never comes.
    async with asyncio.timeout(5):
        answer = await here.browser.get(callback)
    return answer.status_code == 400 and not here.network.token_requests()


@pytest.mark.spec("G8")
async def test_the_answer_keeps_code_and_state_from_others() -> None:
    async with world() as here:
        back = await here.login(next="/who")

        assert back.status_code == 303
        assert back.headers["location"] == f"{BASE_URL}/who"
        assert back.headers["cache-control"] == "no-store"
        assert back.headers["referrer-policy"] == "no-referrer"


@pytest.mark.spec("G6")
async def test_cancelling_leads_back_with_a_sentence_and_signs_nobody_in() -> None:
    async with world() as here:
        begun = await here.begin()
        back = await here.browser.get(here.network.deny(begun.headers["location"]))

        assert back.status_code == 400
        assert "Signing in was cancelled." in back.text
        assert "identifier=alice.test" in back.text
        assert back.headers["referrer-policy"] == "no-referrer"
        assert here.cookie is None


@pytest.mark.spec("G6")
async def test_the_servers_words_are_never_shown() -> None:
    async with world() as here:
        callback = here.network.deny((await here.begin()).headers["location"])
        back = await here.browser.get(
            changed(
                callback,
                error="<script>alert(1)</script>",
                error_description="<b>call 0900</b>",
                error_uri="https://evil.example",
            )
        )

        assert back.status_code == 502
        for text in ("script", "0900", "evil.example"):
            assert text not in back.text.replace("<style>", "")


@pytest.mark.spec("G1")
@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
async def test_only_get_is_a_callback(method: str) -> None:
    async with world() as here:
        callback = await here.approved()
        answer = await here.browser.request(method, callback, headers={"origin": BASE_URL})
        back = await here.browser.get(callback)

        assert answer.status_code == 405
        assert answer.headers["allow"] == "GET"
        assert back.status_code == 303


@pytest.mark.spec("G1")
@pytest.mark.parametrize("header", ["sec-purpose", "purpose"])
async def test_a_prefetch_uses_nothing_up(header: str) -> None:
    async with world() as here:
        callback = await here.approved()
        answer = await here.browser.get(callback, headers={header: "prefetch;prerender"})
        back = await here.browser.get(callback)

        assert answer.status_code == 503
        assert answer.headers["cache-control"] == "no-store"
        assert "set-cookie" not in answer.headers
        assert back.status_code == 303


@pytest.mark.spec("G2")
@pytest.mark.parametrize("name", ["state", "iss", "code", "error", "error_description"])
async def test_a_parameter_given_twice_is_refused(name: str) -> None:
    async with world() as here:
        callback = await here.approved()
        value = httpx.URL(callback).params.get(name, "x")
        back = await here.browser.get(
            f"{callback}&{urlencode({name: value})}&{urlencode({name: value})}"
        )

        assert back.status_code == 400
        assert GENERIC in back.text
        assert not here.network.token_requests()


@pytest.mark.spec("G2")
async def test_a_jarm_response_is_refused_and_other_parameters_are_ignored() -> None:
    async with world() as here:
        callback = await here.approved()
        jarm = await here.browser.get(f"{callback}&response=ey")
        back = await here.browser.get(f"{callback}&session_state=x&session_state=y&new=1")

        assert jarm.status_code == 400
        assert back.status_code == 303


@pytest.mark.spec("G3")
@pytest.mark.parametrize("state", [None, "", "unknown", "\u0000", "x" * 10_000])
async def test_a_state_that_nobody_knows_is_refused_without_details(state: str | None) -> None:
    async with world() as here:
        back = await here.browser.get(changed(await here.approved(), state=state))

        assert back.status_code == 400
        assert GENERIC in back.text


@pytest.mark.spec("G3", "G4")
async def test_another_browser_gets_nothing_and_the_attempt_is_gone() -> None:
    async with world() as here:
        callback = await here.approved()
        async with here.another_browser() as stranger:
            back = await stranger.get(callback)
            again = await stranger.get(callback)
        own = await here.browser.get(callback)

        assert {back.status_code, again.status_code, own.status_code} == {400}
        assert GENERIC in back.text
        # Whose it is learns at once that it is over, and why.
        assert GENERIC in own.text
        assert "alice" not in back.text
        assert "set-cookie" not in back.headers
        assert await used_up(here, callback)


async def test_another_browser_is_refused_also_where_that_cannot_be_noted() -> None:
    store = FaultyStore("record_outcome")
    async with world(store=store) as here:
        callback = await here.approved()
        async with here.another_browser() as stranger:
            back = await stranger.get(callback)

        assert back.status_code == 400
        assert GENERIC in back.text


@pytest.mark.spec("G4")
async def test_a_victim_with_a_login_cookie_of_their_own_is_not_logged_in_as_the_attacker() -> None:
    async with world() as here:
        attackers = await here.approved("bob.test")
        async with here.another_browser() as victim:
            await victim.post(
                "/oauth/login", data={"identifier": "alice.test"}, headers={"origin": BASE_URL}
            )
            back = await victim.get(attackers)

            assert back.status_code == 400
            assert here.oauth.cookies.session not in victim.cookies
        assert await used_up(here, attackers)


@pytest.mark.spec("G4", "Q7")
async def test_parallel_logins_in_tabs_of_one_browser_all_work() -> None:
    async with world() as here:
        callbacks = [await here.approved("alice.test"), await here.approved("bob.test")]
        backs = [await here.browser.get(callback) for callback in callbacks]

        assert [back.status_code for back in backs] == [303, 303]
        assert await here.who() == here.did("bob.test")


@pytest.mark.spec("G5")
@pytest.mark.parametrize(
    "iss", [None, "", "https://pds.example/", "https://PDS.example", "https://evil.example"]
)
@pytest.mark.parametrize("outcome", ["approve", "deny"])
async def test_a_foreign_or_missing_issuer_is_refused_also_on_errors(
    iss: str | None, outcome: str
) -> None:
    async with world() as here:
        location = (await here.begin()).headers["location"]
        callback = (
            here.network.approve(location, "alice.test")
            if outcome == "approve"
            else here.network.deny(location)
        )
        back = await here.browser.get(changed(callback, iss=iss))

        assert back.status_code == 400
        assert "unexpected server" in back.text
        assert not here.network.token_requests()
        assert await used_up(here, callback)


@pytest.mark.spec("G7")
async def test_a_callback_without_code_is_refused() -> None:
    async with world() as here:
        back = await here.browser.get(changed(await here.approved(), code=None))

        assert back.status_code == 400
        assert GENERIC in back.text


@pytest.mark.spec("G3", "L4")
async def test_an_attempt_lives_thirty_minutes() -> None:
    store = FaultyStore()
    async with world(store=store) as here:
        in_time, late = await here.approved(), await here.approved()
        store.clock.now += 30 * 60_000 - 1
        back = await here.browser.get(in_time)
        store.clock.now += 1
        expired = await here.browser.get(late)

        assert back.status_code == 303
        assert expired.status_code == 400
        assert "has expired" in expired.text


@pytest.mark.spec("J10")
async def test_changing_the_client_id_in_mid_login_asks_for_a_new_start() -> None:
    store, network = FaultyStore(), Network()
    async with world(network, store=store) as before:
        callback = await before.approved()
        cookies = before.browser.cookies
    async with world(network, store=store, base_url=f"{BASE_URL}/moved") as after:
        back = await after.browser.get(
            callback.replace("/oauth/callback", "/moved/oauth/callback"),
            headers={"cookie": "; ".join(f"{one.name}={one.value}" for one in cookies.jar)},
        )

        assert back.status_code == 400
        assert "has expired" in back.text


async def test_a_store_that_does_not_answer_leaves_the_attempt_for_a_reload() -> None:
    store = FaultyStore()
    async with world(store=store) as here:
        callback = await here.approved()
        store.failing = frozenset({"consume"})
        trouble = await here.browser.get(callback)
        store.failing = frozenset()
        back = await here.browser.get(callback)

        assert trouble.status_code == 503
        assert "Sign-in is not available right now" in trouble.text
        assert "set-cookie" not in trouble.headers
        assert trouble.headers["referrer-policy"] == "no-referrer"
        assert back.status_code == 303


async def test_an_outcome_that_cannot_be_noted_does_not_spoil_the_login() -> None:
    store = FaultyStore("record_outcome")
    async with world(store=store) as here:
        back = await here.login()

        assert back.status_code == 303
        assert await here.who() == here.did()


async def test_a_login_whose_attempt_was_edited_in_the_store_is_refused() -> None:
    store = FaultyStore()
    async with world(store=store) as here:
        callback = await here.approved()
        for row in store.attempts:
            assert row.sealed is not None
            row.sealed = row.sealed[:-1] + bytes([row.sealed[-1] ^ 1])
        back = await here.browser.get(callback)

        assert back.status_code >= 400
        assert not here.network.token_requests()
        assert here.cookie is None
