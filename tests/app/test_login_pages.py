"""How a login begins for a page, a script, htmx and an app with a login page of its own."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from tests.app.world import BASE_URL, PAGE, SCRIPT, world

pytestmark = pytest.mark.anyio


@pytest.mark.spec("F2")
async def test_a_script_is_given_the_address_to_open() -> None:
    async with world() as here:
        answer = await here.browser.post(
            "/oauth/login", json={"identifier": "alice.test", "next": "/who"}, headers=SCRIPT
        )
        back = await here.browser.get(here.network.approve(answer.json()["url"], "alice.test"))

        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        assert back.headers["location"] == f"{BASE_URL}/who"


async def test_htmx_is_told_to_leave_the_page() -> None:
    async with world() as here:
        answer = await here.browser.post(
            "/oauth/login",
            data={"identifier": "alice.test"},
            headers={"hx-request": "true", "sec-fetch-site": "same-origin"},
        )
        back = await here.browser.get(
            here.network.approve(answer.headers["hx-redirect"], "alice.test")
        )

        assert answer.status_code == 204
        assert back.status_code == 303


async def test_an_interstitial_page_goes_on_where_a_policy_forbids_the_redirect() -> None:
    async with world() as here:
        answer = await here.begin(interstitial="1")

        assert answer.status_code == 200
        assert 'http-equiv="refresh"' in answer.text
        assert 'href="https://pds.example/oauth/authorize?client_id=' in answer.text
        assert here.oauth.cookies.login in answer.headers["set-cookie"]


@pytest.mark.spec("F4")
@pytest.mark.parametrize("query", ["", "?identifier=alice.test", "?identifier=https://10.0.0.1"])
async def test_opening_the_login_page_asks_nobody_and_sets_nothing(query: str) -> None:
    async with world() as here:
        answer = await here.browser.get(f"/oauth/login{query}", headers=PAGE)

        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers
        assert not len(here.network.log)


async def test_a_link_with_an_identifier_asks_for_one_click() -> None:
    async with world() as here:
        answer = await here.browser.get(
            "/oauth/login?identifier=alice.test&next=/who&scope=atproto&add=1&prompt=login"
        )

        assert "Continue as <b>alice.test</b>?" in answer.text
        for name, value in {
            "identifier": "alice.test",
            "next": "/who",
            "scope": "atproto",
            "add": "1",
            "prompt": "login",
        }.items():
            assert f'<input type="hidden" name="{name}" value="{value}">' in answer.text


@pytest.mark.spec("G6")
async def test_nothing_from_the_address_gets_into_the_page_unescaped() -> None:
    async with world() as here:
        evil = "%22%3E%3Cscript%3Ealert(1)%3C/script%3E"
        answer = await here.browser.get(
            f"/oauth/login?identifier={evil}&next={evil}&error={evil}&scope={evil}"
        )

        assert "<script" not in answer.text
        assert "Signing in did not work" in answer.text


async def test_the_page_after_a_failure_holds_what_was_typed_and_the_rest() -> None:
    async with world() as here:
        answer = await here.begin("nobody.test", next="/who", add="1")

        assert answer.status_code == 400
        assert "That handle was not found" in answer.text
        assert 'value="nobody.test"' in answer.text
        assert '<input type="hidden" name="next" value="/who">' in answer.text
        assert '<input type="hidden" name="add" value="1">' in answer.text


async def test_the_apps_own_login_page_gets_every_visit_and_every_failure() -> None:
    async with world(login_page="/sign-in?lang=en") as here:
        visit = await here.browser.get("/oauth/login?next=/who&identifier=alice.test")
        failed = await here.begin("nobody.test", next="/who")
        script = await here.browser.post(
            "/oauth/login", json={"identifier": "nobody.test"}, headers=SCRIPT
        )
        begun = await here.begin()
        back = await here.browser.get(here.network.deny(begun.headers["location"]))

        page = f"{BASE_URL}/sign-in?lang=en"
        assert visit.headers["location"] == f"{page}&next=%2Fwho&identifier=alice.test"
        assert failed.status_code == 303
        assert failed.headers["location"] == (
            f"{page}&next=%2Fwho&error=handle_not_found&identifier=nobody.test"
        )
        assert (script.status_code, script.json()["error"]) == (400, "handle_not_found")
        location = parse_qs(urlsplit(back.headers["location"]).query)
        assert location["error"] == ["cancelled"]
        assert location["identifier"] == ["alice.test"]
        assert back.headers["referrer-policy"] == "no-referrer"
