"""The limit at the door: what a person, a script and an app see of it."""

from __future__ import annotations

import httpx
import pytest
from starlette.requests import HTTPConnection

from atproto_oauth_asgi.errors import TooManyLogins
from tests.app.world import World, world

pytestmark = [pytest.mark.anyio, pytest.mark.spec("P9")]


def from_address(here: World, address: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(here.app, client=(address, 4711)), base_url=here.origin
    )


async def exhaust(here: World, browser: httpx.AsyncClient, **headers: str) -> httpx.Response:
    for _ in range(30):
        answer = await browser.post(
            "/oauth/login",
            data={"identifier": "alice.test", "next": "/who"},
            headers={"origin": here.origin, **headers},
        )
        if answer.status_code != 303 or "error=" in answer.headers["location"]:
            return answer
    raise AssertionError("never refused")


async def test_a_person_is_told_to_wait_and_can_go_on_from_there() -> None:
    async with world() as here, from_address(here, "203.0.113.7") as browser:
        answer = await exhaust(here, browser, accept="text/html")

        assert answer.status_code == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 20
        assert TooManyLogins.sentence in answer.text
        assert 'value="alice.test"' in answer.text
        assert 'name="next" value="/who"' in answer.text
        # Nobody else is concerned, and this address neither with another account.
        assert (await here.begin()).status_code == 303
        async with from_address(here, "203.0.113.8") as neighbour:
            other = await neighbour.post(
                "/oauth/login", data={"identifier": "alice.test"}, headers={"origin": here.origin}
            )
        assert other.status_code == 303


async def test_a_script_gets_a_code_and_when_to_come_back() -> None:
    async with world() as here, from_address(here, "203.0.113.7") as browser:
        await exhaust(here, browser, accept="text/html")
        answer = await browser.post("/oauth/login", json={"identifier": "alice.test"})

        assert answer.status_code == 429
        assert answer.json() == {"error": "too_many_logins", "message": TooManyLogins.sentence}
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["cache-control"] == "no-store"


async def test_the_apps_own_page_is_told_by_the_code() -> None:
    async with world(login_page="/sign-in") as here, from_address(here, "203.0.113.7") as browser:
        await exhaust(here, browser, accept="text/html")
        answer = await browser.post(
            "/oauth/login",
            data={"identifier": "alice.test"},
            headers={"origin": here.origin, "accept": "text/html"},
        )
        assert answer.status_code == 303
        assert answer.headers["location"].startswith(f"{here.origin}/sign-in?error=too_many_logins")


async def test_refused_logins_ask_no_other_server() -> None:
    async with world() as here, from_address(here, "203.0.113.7") as browser:
        await exhaust(here, browser)
        before = len(here.network.log.of("par"))
        await browser.post(
            "/oauth/login", data={"identifier": "alice.test"}, headers={"origin": here.origin}
        )
        assert before > 0
        assert len(here.network.log.of("par")) == before


async def test_an_app_can_have_a_rule_of_its_own() -> None:
    seen: list[tuple[str, str]] = []

    async def rule(conn: HTTPConnection, identifier: str) -> None:
        assert conn.client is not None
        seen.append((conn.client.host, identifier))
        if len(seen) > 1:
            raise TooManyLogins("only once", retry_after=77)

    async with world(limit_logins=rule) as here, from_address(here, "203.0.113.7") as browser:
        answer = await exhaust(here, browser)

        assert answer.headers["retry-after"] == "77"
        assert seen == [("203.0.113.7", "alice.test")] * 2
