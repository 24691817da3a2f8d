from __future__ import annotations

import re

import httpx
import pytest

from tests.app.faulty_store import FaultyStore
from tests.app.world import BASE_URL, PAGE, World, world

pytestmark = pytest.mark.anyio

LOOPBACK = "http://127.0.0.1:8000"


def set_cookies(answer: httpx.Response) -> dict[str, str]:
    """Return name to attributes of the cookies that an answer sets, values left out."""
    found: dict[str, str] = {}
    for header in answer.headers.get_list("set-cookie"):
        name, _, rest = header.partition("=")
        found[name] = re.sub(r"^[A-Za-z0-9_-]{43}", "*", rest)
    return found


async def sees(here: World, cookie: str) -> str | None:
    """Return the DID that a request with just this Cookie header is given."""
    async with here.another_browser() as other:
        answer = await other.get("/who", headers={"cookie": cookie, **PAGE})
        assert "set-cookie" not in answer.headers
        did: str | None = answer.json()["did"]
        return did


@pytest.mark.spec("Q1", "Q2", "Q4")
async def test_both_cookies_are_host_only_and_out_of_reach() -> None:
    async with world() as here:
        begun = await here.begin()
        back = await here.browser.get(here.network.approve(begun.headers["location"], "alice.test"))

        flags = "Path=/; HttpOnly; SameSite=Lax; Max-Age={}; Secure"
        assert set_cookies(begun) == {"__Host-atproto-oauth-login": f"*; {flags.format(1800)}"}
        assert set_cookies(back) == {"__Host-atproto-oauth": f"*; {flags.format(14 * 86400)}"}


@pytest.mark.spec("Q6")
async def test_in_loopback_they_are_plain_and_named_after_the_port() -> None:
    async with world(base_url=LOOPBACK) as here:
        begun = await here.begin()
        back = await here.browser.get(here.network.approve(begun.headers["location"], "alice.test"))

        flags = "Path=/; HttpOnly; SameSite=Lax; Max-Age={}"
        assert set_cookies(begun) == {"atproto-oauth-login-8000": f"*; {flags.format(1800)}"}
        assert set_cookies(back) == {"atproto-oauth-8000": f"*; {flags.format(14 * 86400)}"}


async def test_name_and_age_can_be_set() -> None:
    async with world(cookie_name="birds", session_max_age=3600) as here:
        back = await here.login()

        (header,) = back.headers.get_list("set-cookie")
        assert header.startswith("__Host-birds=")
        assert "Max-Age=3600" in header


@pytest.mark.spec("Q5", "G9")
async def test_the_cookie_from_before_a_login_gains_nothing_by_it() -> None:
    async with world() as here:
        await here.login("alice.test")
        name, planted = here.oauth.cookies.session, here.cookie
        await here.login("bob.test")

        assert here.cookie != planted
        assert await sees(here, f"{name}={planted}") is None
        assert await sees(here, f"{name}={here.cookie}") == here.did("bob.test")


@pytest.mark.spec("G9")
async def test_a_cookie_that_was_planted_before_a_login_is_never_the_sessions() -> None:
    async with world() as here:
        name = here.oauth.cookies.session
        here.browser.cookies.set(name, "A" * 43, domain="app.birdsong.dev")
        await here.login()

        assert here.cookie != "A" * 43
        assert await sees(here, f"{name}={'A' * 43}") is None


@pytest.mark.spec("Q0")
@pytest.mark.parametrize(
    "name", ["did", "handle", "session", "atproto-oauth", "__Host-atproto-oauth"]
)
async def test_naming_an_account_is_not_being_it(name: str) -> None:
    async with world() as here:
        await here.login()
        async with here.oauth.session_for(here.did()) as session:
            values = [here.did(), "alice.test", session.id]
        for value in values:
            assert await sees(here, f"{name}={value}") is None


@pytest.mark.spec("Q4")
async def test_what_the_store_knows_is_no_cookie() -> None:
    store = FaultyStore()
    async with world(store=store) as here:
        await here.login()
        (browser,) = store.browsers

        assert (here.cookie or "").encode() not in repr(browser).encode()
        assert await sees(here, f"{here.oauth.cookies.session}={browser.cookie_hash.hex()}") is None


@pytest.mark.spec("Q0")
@pytest.mark.parametrize(
    "cookie",
    [
        "__Host-atproto-oauth=",
        "__Host-atproto-oauth",
        "__Host-atproto-oauth=" + "A" * 42,
        "__Host-atproto-oauth=" + "A" * 44,
        "__Host-atproto-oauth=" + "A" * 43 + "\u00e9",
        "__Host-atproto-oauth=" + "A" * 42 + "%",
        '__Host-atproto-oauth="' + "A" * 43 + '"',
        "=;;;==; ;",
        "x" * 20_000,
        "__Host-atproto-oauth-login=" + "A" * 43,
    ],
)
async def test_garbage_is_anonymous_and_asks_the_store_nothing(cookie: str) -> None:
    store = FaultyStore("load")
    async with world(store=store) as here:
        answer = await here.browser.get("/who", headers=[(b"cookie", cookie.encode("latin-1"))])

        assert answer.status_code == 200
        assert answer.json() == {"did": None}
        assert "set-cookie" not in answer.headers


@pytest.mark.spec("Q0")
async def test_an_unknown_cookie_is_left_alone_and_looked_up_once() -> None:
    store = FaultyStore()
    async with world(store=store) as here:
        cookie = f"{here.oauth.cookies.session}={'A' * 43}"
        assert await sees(here, cookie) is None
        store.failing = frozenset({"load"})
        assert await sees(here, cookie) is None


async def test_the_cookie_is_found_among_others() -> None:
    async with world() as here:
        await here.login()
        name = here.oauth.cookies.session

        assert await sees(here, f"a=b; x{name}={'B' * 43};{name}={here.cookie}; c=d") == here.did()


async def test_only_our_own_routes_set_cookies() -> None:
    async with world() as here:
        await here.login()
        for path in ("/who", "/me", "/oauth/session", "/oauth/login", "/nothing"):
            assert "set-cookie" not in (await here.browser.get(path)).headers


@pytest.mark.spec("Q8")
async def test_a_page_that_asked_who_is_there_is_kept_out_of_shared_caches() -> None:
    async with world() as here:
        for _ in range(2):
            answer = await here.browser.get("/who")
            assert answer.headers["cache-control"] == "private, no-store"
            assert answer.headers["vary"] == "Cookie"
            await here.login()
        assert "vary" not in (await here.browser.get("/nothing")).headers


@pytest.mark.spec("L2", "Q5")
async def test_a_session_ends_after_its_time_whatever_the_browser_keeps() -> None:
    store = FaultyStore()
    async with world(store=store, session_max_age=3600) as here:
        await here.login()
        store.clock.now += 3_599_000
        assert await here.who() == here.did()
        store.clock.now += 1_000
        assert await here.who() is None


async def test_the_login_cookie_outlives_a_callback_for_the_other_tabs() -> None:
    async with world() as here:
        back = await here.login()

        assert here.browser.cookies.get(here.oauth.cookies.login)
        assert BASE_URL in back.headers["location"]
        assert list(set_cookies(back)) == [here.oauth.cookies.session]
