from __future__ import annotations

import asyncio
from dataclasses import replace

import httpx
import pytest
from starlette.responses import PlainTextResponse, Response

from atproto_oauth_asgi import Event, Login, LoginRefused
from atproto_oauth_asgi.sealing import KeyRing
from atproto_oauth_asgi.store import Consumed
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.vault import Vault
from tests.app.faulty_store import FaultyStore
from tests.app.world import BASE_URL, PAGE, changed, world

pytestmark = pytest.mark.anyio

GENERIC = "This sign-in link is not valid here. Please start again."


@pytest.mark.spec("G3", "G7", "G9")
async def test_a_reload_gets_the_first_outcome_and_the_same_cookie() -> None:
    async with world() as here:
        callback = await here.approved(next="/who")
        first = await here.browser.get(callback)
        one = here.cookie
        again = await here.browser.get(callback)
        two = here.cookie

        assert (first.status_code, again.status_code) == (303, 303)
        assert again.headers["location"] == first.headers["location"] == f"{BASE_URL}/who"
        assert None not in {one, two}
        assert one == two
        assert await here.who() == here.did()
        assert len(here.network.token_requests("authorization_code")) == 1
        assert len(here.network.sessions()) == 1


@pytest.mark.spec("G9")
async def test_answers_that_cross_leave_the_browser_signed_in() -> None:
    store = FaultyStore()
    async with world(store=store) as here:
        callback = await here.approved()
        cookies = httpx.Cookies(here.browser.cookies)
        first = await here.browser.get(callback)
        # It asked twice, and the first answer is the last to come.
        here.browser.cookies = cookies
        await here.browser.get(callback)
        here.browser.cookies.extract_cookies(first)
        store.clock.now += 61_000

        assert await here.who() == here.did()


async def test_a_reload_meets_a_process_whose_ring_has_another_order() -> None:
    store, network = FaultyStore(), Network()
    keys = (b"1" * 32, b"2" * 32)
    async with (
        world(network, store=store, secret_keys=keys) as one,
        world(network, store=store, secret_keys=keys[::-1]) as two,
    ):
        callback = await one.approved()
        two.browser.cookies.update(one.browser.cookies)
        await one.browser.get(callback)
        again = await two.browser.get(callback)

        assert again.status_code == 303
        assert one.cookie == two.cookie


async def test_without_the_ring_nobody_can_make_the_cookie() -> None:
    made = {
        cookie
        for key in (b"1", b"2")
        for secret in ("browser", "another")
        for state in (b"state", b"other")
        for cookie in Vault(KeyRing([key * 32])).cookies_of(state, secret)
    }
    assert len(made) == 8
    assert all(len(cookie) == 43 for cookie in made)


async def test_a_reload_after_a_failure_gets_the_same_failure() -> None:
    async def refuse(_: Login) -> None:
        raise LoginRefused("Only birds may come in.")

    async with world(on_login=refuse) as here:
        callback = await here.approved(next="/who")
        first = await here.browser.get(callback)
        again = await here.browser.get(callback)

        assert (first.status_code, again.status_code) == (403, 403)
        assert "Only birds may come in." in first.text
        assert first.text == again.text
        assert len(here.network.token_requests("authorization_code")) == 1


@pytest.mark.parametrize("parameters", [{"code": "other"}, {"iss": "https://evil.example"}])
async def test_a_reload_is_answered_by_the_attempt_and_not_by_what_it_brings(
    parameters: dict[str, str],
) -> None:
    async with world() as here:
        callback = await here.approved()
        await here.browser.get(callback)
        again = await here.browser.get(changed(callback, **parameters))

        assert again.status_code == 303
        assert len(here.network.token_requests("authorization_code")) == 1


@pytest.mark.spec("G3")
async def test_after_a_minute_a_reload_is_refused() -> None:
    store = FaultyStore()
    async with world(store=store) as here:
        callback = await here.approved()
        await here.browser.get(callback)
        store.clock.now += 60_000
        within = await here.browser.get(callback)
        store.clock.now += 1
        after = await here.browser.get(callback)

        assert within.status_code == 303
        assert after.status_code == 400
        assert GENERIC in after.text


@pytest.mark.spec("G3", "G7")
async def test_parallel_callbacks_make_one_token_request_and_have_one_outcome() -> None:
    async with world() as here:
        callback = await here.approved()
        async with here.network.pause_token_endpoint() as pause:
            backs = [asyncio.create_task(here.browser.get(callback)) for _ in range(5)]
            await pause.arrived()
            pause.release()
            answers = await asyncio.gather(*backs)

        assert [answer.status_code for answer in answers] == [303] * 5
        assert len(here.network.token_requests("authorization_code")) == 1
        assert await here.who() == here.did()


class Watched(FaultyStore):
    """Counts how often an attempt is asked for."""

    def __init__(self, *failing: str) -> None:
        super().__init__(*failing)
        self.asked = 0
        self.often = asyncio.Event()

    async def consume(self, key_hash: bytes, /, *, kind: str) -> Consumed | None:
        self.asked += 1
        if self.asked >= 5:
            self.often.set()
        return await super().consume(key_hash, kind=kind)


async def test_another_process_waits_for_the_first_outcome_too() -> None:
    store, network = Watched(), Network()
    async with (
        world(network, store=store) as one,
        world(network, store=store) as two,
    ):
        callback = await one.approved(next="/who")
        two.browser.cookies.update(one.browser.cookies)
        async with network.pause_token_endpoint() as pause:
            first = asyncio.create_task(one.browser.get(callback))
            await pause.arrived()
            second = asyncio.create_task(two.browser.get(callback))
            async with asyncio.timeout(20):
                await store.often.wait()
            pause.release()
            answers = await asyncio.gather(first, second)

        assert [answer.status_code for answer in answers] == [303, 303]
        assert {answer.headers["location"] for answer in answers} == {f"{BASE_URL}/who"}
        assert await two.who() == one.did()


async def test_an_attempt_that_is_cleared_away_meanwhile_is_over() -> None:
    class Cleared(Watched):
        async def consume(self, key_hash: bytes, /, *, kind: str) -> Consumed | None:
            found = await super().consume(key_hash, kind=kind)
            return None if self.asked > 2 else found

    store, network = Cleared("record_outcome", "create_session"), Network()
    async with world(network, store=store) as one, world(network, store=store) as two:
        callback = await one.approved()
        two.browser.cookies.update(one.browser.cookies)
        await one.browser.get(callback)
        back = await two.browser.get(callback, headers=PAGE)

        assert back.status_code == 400
        assert "took too long" in back.text
        assert store.asked == 3


async def test_a_browser_that_goes_away_interrupts_nothing_and_comes_back_for_the_outcome() -> None:
    async with world() as here:
        callback = await here.approved()
        async with here.network.pause_token_endpoint() as pause:
            gone = asyncio.create_task(here.browser.get(callback))
            await pause.arrived()
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            pause.release()
        back = await here.browser.get(callback)

        assert back.status_code == 303
        assert await here.who() == here.did()
        assert len(here.network.token_requests("authorization_code")) == 1


async def test_a_response_of_the_apps_own_is_given_once() -> None:
    calls: list[str] = []

    async def welcome(login: Login) -> Response:
        calls.append(login.did)
        return PlainTextResponse("Welcome!", status_code=201)

    async with world(on_login=welcome) as here:
        callback = await here.approved(next="/who")
        first = await here.browser.get(callback)
        again = await here.browser.get(callback)

        assert (first.status_code, first.text) == (201, "Welcome!")
        assert first.headers["referrer-policy"] == "no-referrer"
        assert again.status_code == 303
        assert again.headers["location"] == f"{BASE_URL}/who"
        assert calls == [here.did()]


async def test_a_reload_gives_nobody_the_account_that_the_browser_has_switched_to() -> None:
    store = FaultyStore()
    async with world(store=store) as here:
        await here.login("alice.test")
        callback = await here.approved("bob.test", add="1")
        assert (await here.browser.get(callback)).status_code == 303
        (alices,) = [row for row in store.sessions if row.did == here.did("alice.test")]
        assert await store.switch_active(alices.browser_id or "", alices.id)
        again = await here.browser.get(callback, headers=PAGE)

        assert again.status_code == 400
        assert "set-cookie" not in again.headers


async def test_a_reload_gives_nobody_a_session_that_the_operator_ended() -> None:
    store = FaultyStore()
    async with world(store=store) as here:
        callback = await here.approved()
        await here.browser.get(callback)
        (row,) = store.sessions
        await store.end_session(row.id, "by_operator")
        again = await here.browser.get(callback, headers=PAGE)

        assert again.status_code == 400
        assert "set-cookie" not in again.headers


async def test_a_reload_after_logout_signs_nobody_in_again() -> None:
    async with world() as here:
        callback = await here.approved(next="/who")
        await here.browser.get(callback)
        await here.logout()
        again = await here.browser.get(callback, headers=PAGE)

        assert again.status_code == 400
        assert "set-cookie" not in again.headers
        # Who starts again comes to where they wanted to be.
        assert "next=https%3A%2F%2Fapp.birdsong.dev%2Fwho" in again.text
        assert await here.who() is None


async def test_a_reload_after_a_defect_of_the_app_leads_to_a_new_start() -> None:
    async def broken(_: Login) -> None:
        raise ZeroDivisionError

    told: list[Event] = []
    async with world(on_login=broken, on_event=told.append) as here:
        callback = await here.approved(next="/who")
        with pytest.raises(ZeroDivisionError):
            await here.browser.get(callback)
        again = await here.browser.get(callback)
        await here.settled()

        assert again.status_code == 400
        assert "Signing in did not work. Please try again." in again.text
        assert "next=https%3A%2F%2Fapp.birdsong.dev%2Fwho" in again.text
        assert "identifier=alice.test" in again.text
        # A task's defect is told by the task's name.
        (failed,) = [event for event in told if event.name == "task.failed"]
        assert failed.fields["task"] == "login"


@pytest.mark.spec("G7")
async def test_a_store_that_gives_the_attempt_out_twice_does_not_get_the_code_sent_twice() -> None:
    class Generous(FaultyStore):
        given: bytes | None = None

        async def consume(self, key_hash: bytes, /, *, kind: str) -> Consumed | None:
            consumed = await super().consume(key_hash, kind=kind)
            if consumed is None:
                return None
            self.given = consumed.sealed or self.given
            return replace(consumed, sealed=self.given)

    async with world(store=Generous()) as here:
        callback = await here.approved()
        await here.browser.get(callback)
        again = await here.browser.get(callback)

        assert again.status_code == 303
        assert len(here.network.token_requests("authorization_code")) == 1


async def test_a_browser_that_goes_while_the_attempt_is_used_up_comes_back_for_its_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = FaultyStore()
    async with world(store=store) as here:
        callback = await here.approved(next="/who")
        consume = store.consume
        used, answers = asyncio.Event(), asyncio.Event()

        async def slowly(key_hash: bytes, *, kind: str) -> Consumed | None:
            consumed = await consume(key_hash, kind=kind)
            used.set()
            await answers.wait()
            return consumed

        with monkeypatch.context() as patch:
            patch.setattr(store, "consume", slowly)
            gone = asyncio.create_task(here.browser.get(callback))
            await used.wait()
            gone.cancel()
            await asyncio.wait({gone})
            answers.set()
        again = await here.browser.get(callback)

        assert gone.cancelled()
        assert (again.status_code, again.headers["location"]) == (303, f"{BASE_URL}/who")
        assert await here.who() == here.did()
        assert len(store.sessions) == 1
