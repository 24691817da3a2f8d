"""Attacks that a hostile review found, and that got somebody else's session at the time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.requests import Request

from atproto_oauth_asgi.errors import AddressRefused, CrossSiteRefused
from atproto_oauth_asgi.sessions import cookie_hash
from atproto_oauth_asgi.store import SessionFilter
from tests.app.world import World, world

pytestmark = pytest.mark.anyio


async def who(browser: httpx.AsyncClient) -> str | None:
    answer = await browser.get("/who")
    did: str | None = answer.json()["did"]
    return did


async def login_in(here: World, browser: httpx.AsyncClient, account: str, **form: str) -> str:
    """Log in with a browser of its own; return the callback's address."""
    begun = await browser.post(
        "/oauth/login", data={"identifier": account, **form}, headers={"origin": here.origin}
    )
    back = here.network.approve(begun.headers["location"], account)
    await browser.get(back)
    return back


def give_cookie(here: World, browser: httpx.AsyncClient, value: str) -> None:
    browser.cookies.set(here.oauth.cookies.session, value, domain="app.birdsong.dev")


@pytest.mark.spec("G9", "Q5")
@pytest.mark.parametrize("add", ["", "1"])
async def test_who_knew_the_cookie_before_a_login_gains_nothing_by_it(add: str) -> None:
    async with world() as here, here.another_browser() as attacker:
        await login_in(here, here.browser, "bob.test")
        known = here.browser.cookies[here.oauth.cookies.session]
        await login_in(here, here.browser, "alice.test", add=add)
        alice = here.network.account("alice.test").did
        assert await who(here.browser) == alice

        # Within the grace of the old cookie: look, join with a login of one's own, log out of it.
        give_cookie(here, attacker, known)
        assert await who(attacker) != alice
        session = (await attacker.get("/oauth/session")).json()
        assert alice not in [account["did"] for account in session["accounts"]]
        here.network.add_account("mallory.test")
        await login_in(here, attacker, "mallory.test", add="1")
        assert await who(attacker) == here.network.account("mallory.test").did
        await attacker.post("/oauth/logout", headers={"origin": here.origin})

        assert await who(attacker) is None
        assert await who(here.browser) == alice


@pytest.mark.spec("G4", "G9")
async def test_a_repeated_callback_gets_its_own_login_only() -> None:
    async with world() as here, here.another_browser() as attacker:
        back = await login_in(here, attacker, "bob.test")
        planted = attacker.cookies[here.oauth.cookies.session]
        give_cookie(here, here.browser, planted)
        await login_in(here, here.browser, "alice.test", add="1")

        again = await attacker.get(back)

        assert again.status_code == 400
        assert await who(attacker) != here.network.account("alice.test").did


async def test_ended_rows_never_crowd_out_live_ones() -> None:
    async with world() as here:
        for _ in range(60):
            await here.login()
        active = await here.oauth.core.store.list_sessions(
            SessionFilter(status="active"), limit=100
        )
        assert len(active) == 1
        await here.settled()
        assert len(here.network.sessions("alice.test")) == 1

        answer = await here.logout()

        assert "set-cookie" in answer.headers
        assert await who(here.browser) is None


async def test_accounts_are_switched_from_our_own_pages_only() -> None:
    async with world() as here:
        await here.login()
        await here.login("bob.test", add="1")
        alice = here.network.account("alice.test").did
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/switch",
            "headers": [
                (b"cookie", f"{here.oauth.cookies.session}={here.cookie}".encode()),
                (b"sec-fetch-site", b"same-site"),
                (b"origin", b"https://evil.birdsong.dev"),
            ],
        }

        with pytest.raises(CrossSiteRefused):
            await here.oauth.switch(Request(scope), alice)

        assert await who(here.browser) == here.network.account("bob.test").did


@pytest.mark.spec("I12", "P6")
async def test_a_flood_in_answer_to_the_primer_is_cut_off() -> None:
    sent = 0

    async def flood() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(400):
            sent += 1
            yield b"x" * 65_536

    async with world() as here:
        await here.login()
        loaded = await here.oauth.core.store.load(cookie_hash(str(here.cookie)))
        assert loaded is not None
        assert loaded.session is not None
        did = loaded.session.did

        def handler(request: httpx.Request) -> httpx.Response:
            if request.method == "GET":
                return httpx.Response(200, content=flood())
            return httpx.Response(200, json={})

        async def body() -> AsyncIterator[bytes]:
            yield b"body"

        async with (
            here.oauth.session_for(did) as session,
            httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client,
        ):
            url = f"{session.pds}/xrpc/com.atproto.repo.uploadBlob"
            await client.post(url, content=body(), auth=session.auth)

        assert sent <= 3


@pytest.mark.spec("I18")
async def test_an_answer_from_elsewhere_is_not_the_pdses() -> None:
    async with world() as here:
        await here.login()
        did = here.network.account("alice.test").did

        def handler(request: httpx.Request) -> httpx.Response:
            if request.url.host == "evil.birdsong.dev":
                return httpx.Response(200, headers={"dpop-nonce": "evil"})
            return httpx.Response(302, headers={"location": "https://evil.birdsong.dev/"})

        async with (
            here.oauth.session_for(did) as session,
            httpx.AsyncClient(
                transport=httpx.MockTransport(handler), follow_redirects=True
            ) as client,
        ):
            with pytest.raises(AddressRefused):
                await client.get(f"{session.pds}/xrpc/x.y.z", auth=session.auth)
            assert (await session.query("com.atproto.server.getSession"))["did"] == did


@pytest.mark.parametrize("scope", ["atproto \x00", "atproto\n", 'atproto "', "atproto é"])
@pytest.mark.spec("H4")
async def test_a_scope_that_no_database_takes_is_refused(scope: str) -> None:
    async with world() as here:
        begun = await here.begin()
        back = here.network.approve(begun.headers["location"], "alice.test")
        with here.network.alter("/oauth/token", lambda answer: answer.with_json(scope=scope)):
            answer = await here.browser.get(back)

        assert answer.status_code in {400, 502}
        await here.settled()
        assert here.network.sessions("alice.test") == []


@pytest.mark.parametrize("body", [b'{"identifier":"\\ud800"}', b'{"identifier":"a\\ud800.test"}'])
async def test_half_a_character_is_bad_input(body: bytes) -> None:
    async with world() as here:
        answer = await here.browser.post(
            "/oauth/login", content=body, headers={"content-type": "APPLICATION/JSON"}
        )

        assert answer.status_code == 400


@pytest.mark.spec("N3")
async def test_login_starts_with_the_account_whose_session_cannot_be_used() -> None:
    async with world() as here:
        await here.login()
        did = here.network.account("alice.test").did
        loaded = await here.oauth.core.store.load(cookie_hash(str(here.cookie)))
        assert loaded is not None
        assert loaded.session is not None
        await here.oauth.core.store.require_reauth(loaded.session.id, version=1)

        page = await here.browser.get(
            "/me", headers={"sec-fetch-mode": "navigate", "accept": "text/html"}
        )

        assert page.status_code == 303
        assert httpx.URL(page.headers["location"]).params["identifier"] == did


async def test_a_job_beside_a_request_does_not_cut_it_off() -> None:
    async with world(owned=False) as here:
        await here.login()
        did = here.network.account("alice.test").did
        async with here.network.hold("/xrpc/com.atproto.server.getSession") as pause:
            request = asyncio.create_task(here.browser.get("/me"))
            await pause.arrived()
            async with here.oauth.session_for(did):
                pass
            pause.release()
            answer = await request

        assert answer.json()["did"] == did
