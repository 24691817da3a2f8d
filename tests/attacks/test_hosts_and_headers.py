"""What a request says of itself: host, proxies, cookies in heaps."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from atproto_oauth_asgi.errors import CrossSiteRefused
from tests.app.world import PAGE, World, world

pytestmark = pytest.mark.anyio

SPOOFED = {
    "x-forwarded-host": "evil.example",
    "x-forwarded-proto": "http",
    "x-forwarded-port": "8080",
    "x-forwarded-prefix": "/evil",
    "x-forwarded-server": "evil.example",
    "x-original-url": "/oauth/logout",
    "x-rewrite-url": "/oauth/logout",
    "forwarded": "host=evil.example;proto=http",
}


@pytest.mark.spec("C6")
@pytest.mark.parametrize("host", ["evil.example", "app.birdsong.dev.evil.example", "evil:443", ""])
async def test_the_host_header_decides_nothing(host: str) -> None:
    async with world() as here:
        headers = {"host": host, **SPOOFED}
        begun = await here.browser.post(
            "/oauth/login",
            data={"identifier": "alice.test", "next": "/who"},
            headers={**headers, "origin": here.origin},
        )
        pushed = here.pushed(begun.headers["location"]).parameters
        assert pushed["redirect_uri"] == f"{here.origin}/oauth/callback"
        back = here.network.approve(begun.headers["location"], "alice.test")
        answer = await here.browser.get(back, headers=headers)
        assert answer.headers["location"] == f"{here.origin}/who"
        assert "Secure" in answer.headers["set-cookie"]

        metadata = await here.browser.get("/oauth-client-metadata.json", headers=headers)
        assert "evil" not in metadata.text
        moved = await here.browser.get("/oauth/login?next=/a", headers={**PAGE, **headers})
        assert moved.headers["location"].startswith(f"{here.origin}/oauth/login?")
        again = await here.browser.get(moved.headers["location"], headers={**PAGE, **headers})
        assert again.status_code == 421
        assert "evil.example" not in again.text


@pytest.mark.spec("C6")
async def test_an_origin_like_the_host_header_is_not_ours() -> None:
    async with world() as here:
        await here.login()
        answer = await here.browser.post(
            "/oauth/logout",
            headers={"host": "evil.example", "origin": "https://evil.example", **SPOOFED},
        )
        assert answer.status_code == 403
        assert CrossSiteRefused.sentence in answer.text
        assert await here.who() == here.did()


async def test_paths_from_headers_are_not_followed() -> None:
    async with world() as here:
        await here.login()
        answer = await here.browser.get("/who", headers={**PAGE, **SPOOFED})
        assert answer.json() == {"did": here.did()}


async def raw_who(here: World, *cookies: bytes) -> object:
    headers = [(b"cookie", one) for one in cookies]
    answer = await here.browser.get("/who", headers=headers)
    assert answer.status_code == 200
    return answer.json()["did"]


@pytest.mark.spec("Q1")
async def test_of_several_cookies_of_our_name_only_the_first_counts() -> None:
    # With the `__Host-` prefix no browser holds two; whoever sends two is no browser.
    async with world() as here, here.another_browser() as other:
        await here.login("alice.test")
        mine = f"{here.oauth.cookies.session}={here.cookie}".encode()
        here.browser.cookies.clear()
        assert other.cookies == httpx.Cookies()
        await here.login("bob.test")
        theirs = f"{here.oauth.cookies.session}={here.cookie}".encode()
        here.browser.cookies.clear()

        assert await raw_who(here, mine + b"; " + theirs) == here.did("alice.test")
        assert await raw_who(here, mine, theirs) == here.did("alice.test")
        # A broken one in front is not stepped over: the rest is not to be trusted either.
        broken = here.oauth.cookies.session.encode() + b"=x"
        assert await raw_who(here, broken + b"; " + mine) is None


@pytest.mark.spec("Q1")
@pytest.mark.parametrize(
    "name",
    ["__host-atproto-oauth", "__HOST-atproto-oauth", "atproto-oauth", "__Secure-atproto-oauth"],
)
async def test_a_name_that_a_sibling_could_set_is_not_ours(name: str) -> None:
    async with world() as here:
        await here.login()
        value = here.cookie
        here.browser.cookies.clear()
        assert await raw_who(here, f"{name}={value}".encode()) is None
        assert await raw_who(here, f"=__Host-atproto-oauth={value}".encode()) is None


@pytest.mark.parametrize(
    "heap", [b"a=b; " * 50_000, b"__Host-atproto-oauth" * 20_000, b";" * 200_000, b"=" * 200_000]
)
async def test_a_heap_of_cookies_is_read_quickly_and_changes_nothing(heap: bytes) -> None:
    async with world() as here:
        await here.login()
        mine = f"; {here.oauth.cookies.session}={here.cookie}".encode()
        here.browser.cookies.clear()
        async with asyncio.timeout(20):
            assert await raw_who(here, heap + mine) == here.did()


@pytest.mark.spec("K6")
async def test_a_slow_logout_of_one_tab_does_not_end_the_login_of_another() -> None:
    async with world() as here:
        await here.login("alice.test")
        async with here.network.hold("/oauth/revoke") as revocation:
            slow = asyncio.create_task(here.logout())
            await revocation.arrived()
            # Meanwhile another tab signs in, with the cookie that this logout is about.
            await here.login("bob.test")
            revocation.release()
            answer = await slow

        assert "set-cookie" not in answer.headers
        assert await here.who() == here.did("bob.test")


@pytest.mark.spec("G9")
async def test_an_answer_that_was_on_its_way_during_a_login_does_not_undo_it() -> None:
    async with world() as here:
        await here.login("alice.test")
        old = f"{here.oauth.cookies.session}={here.cookie}".encode()
        await here.login("bob.test")
        # The page of the other tab that was asked for before, with the cookie from before.
        late = await here.browser.get("/who", headers=[(b"cookie", old)])

        assert "set-cookie" not in late.headers
        assert late.json()["did"] != here.did("alice.test")
        assert await here.who() == here.did("bob.test")


@pytest.mark.spec("G4")
async def test_tabs_of_one_browser_log_in_at_once_as_the_same_and_as_other_accounts() -> None:
    async with world() as here:
        await here.begin()
        tabs = ["alice.test", "bob.test", "alice.test"]
        backs = [await here.approved(tab, add="1") for tab in tabs]
        answers = await asyncio.gather(*(here.browser.get(back) for back in backs))

        assert [answer.status_code for answer in answers] == [303, 303, 303]
        accounts = (await here.browser.get("/oauth/session")).json()["accounts"]
        # One browser row or several: nobody is listed twice, and who is active is one of them.
        dids = [account["did"] for account in accounts]
        assert len(dids) == len(set(dids))
        assert await here.who() in {here.did("alice.test"), here.did("bob.test")}
