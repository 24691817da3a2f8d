"""A person at the demo, on the pages of the embedded network."""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from starlette.responses import HTMLResponse

from atproto_oauth_asgi.testing import Network
from tests.browser.chromium import Person
from tests.browser.serving import Served, served_demo, serving


@pytest.fixture
def network() -> Generator[Network]:
    network = Network(list_accounts=True).start()
    yield network
    network.stop()


@pytest.fixture
def url(network: Network) -> Generator[str]:
    with served_demo(network, [("alice.test", "dev-password")]) as url:
        yield url


def test_a_person_signs_in_posts_and_signs_out(person: Person, network: Network) -> None:
    person.login()
    expect(person.page.get_by_role("heading", name="alice.test")).to_be_visible()
    expect(person.page.get_by_text(network.account("alice.test").did)).to_be_visible()
    person.post("Hello <b>world</b>")
    expect(person.page.locator("ol p").first).to_have_text("Hello <b>world</b>")
    person.post("Again")
    expect(person.page.locator("ol p").first).to_have_text("Again")
    person.log_out()

    assert not person.signed_in()
    assert network.sessions("alice.test") == []
    assert person.violations() == []


def test_cookies_are_ours_alone_and_hold_no_meaning(person: Person) -> None:
    person.login()
    port = person.url.rpartition(":")[2]
    cookies = {one.get("name"): one for one in person.context.cookies(person.url)}

    assert {f"atproto-oauth-{port}", f"atproto-oauth-login-{port}"} == set(cookies)
    for cookie in cookies.values():
        assert cookie.get("httpOnly") is True
        assert cookie.get("sameSite") == "Lax"
        assert cookie.get("path") == "/"
        assert cookie.get("domain") == "127.0.0.1"
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", cookie.get("value", ""))
    assert person.page.evaluate("document.cookie") == ""
    assert person.page.evaluate("localStorage.length + sessionStorage.length") == 0


def test_signing_out_clears_the_cookie_and_leaves_nothing_to_go_back_to(person: Person) -> None:
    person.login()
    person.post("For my eyes only")
    expect(person.page.locator("ol p")).to_have_text("For my eyes only")
    person.log_out()
    person.page.go_back()

    port = person.url.rpartition(":")[2]
    names = [one.get("name") for one in person.context.cookies(person.url)]
    assert f"atproto-oauth-{port}" not in names
    assert "For my eyes only" not in person.page.content()


def test_the_form_says_where_it_comes_from_and_the_server_learns_nothing(person: Person) -> None:
    person.login()
    person.post("Hello")
    expect(person.page.locator("ol p")).to_have_text("Hello")
    person.log_out()

    for path in ("/oauth/login$", "/post$", "/oauth/logout$"):
        (posted,) = person.sent(path, "POST")
        assert posted.all_headers()["origin"] == person.url
    (asked,) = [
        one
        for one in person.sent(r"/oauth/authorize\?")
        if one.redirected_from is not None and one.redirected_from.url.startswith(person.url)
    ]
    assert "referer" not in asked.all_headers()
    assert "null" not in {one.all_headers().get("origin") for one in person.requests}


def test_the_address_with_the_code_is_told_to_nobody(person: Person) -> None:
    person.login()
    (callback,) = person.sent("/oauth/callback")
    answer = callback.response()
    after = callback.redirected_to

    assert answer is not None
    assert after is not None
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    assert not any("code=" in one.all_headers().get("referer", "") for one in person.requests)
    assert person.page.url == f"{person.url}/"


def test_localhost_becomes_the_address_of_the_cookies_before_there_is_one(person: Person) -> None:
    other = person.url.replace("127.0.0.1", "localhost")
    person.page.goto(f"{other}/oauth/login?next=/")
    login = person.page.url
    none_yet = person.context.cookies()
    person.page.goto(other)
    home = person.page.url
    person.page.goto(f"{other}/oauth/login?next=/")
    person.page.get_by_label("Handle").fill("alice.test")
    person.page.get_by_role("button", name="Sign in").click()
    person.sign_in(person.page)
    person.consent(person.page)

    assert login.startswith(f"{person.url}/oauth/login")
    assert none_yet == []
    assert home == f"{person.url}/"
    # The network's own pages are on localhost, and have a cookie there.
    ours = [one for one in person.context.cookies() if "atproto" in one.get("name", "")]
    assert {one.get("domain") for one in ours} == {"127.0.0.1"}
    assert person.signed_in()


def test_a_form_left_open_under_another_name_links_to_the_right_one(person: Person) -> None:
    other = person.url.replace("127.0.0.1", "localhost")
    person.page.goto(f"{other}/oauth/session")
    person.page.set_content(
        f'<form method="post" action="{other}/oauth/login">'
        '<input name="identifier" value="alice.test"><button>Go</button></form>'
    )
    person.page.get_by_role("button", name="Go").click()
    person.page.get_by_role("link").click()

    expect(person.page.get_by_label("Handle")).to_be_visible()
    assert person.page.url == f"{person.url}/"


def test_going_back_after_consent_harms_nothing(person: Person) -> None:
    person.login()
    person.page.go_back()
    went_back_to = person.page.url
    person.page.goto(person.url)

    expect(person.page.get_by_role("heading", name="alice.test")).to_be_visible()
    assert "/oauth/authorize" in went_back_to
    assert person.signed_in()


def test_the_callback_opened_again_leads_to_the_same_place(
    person: Person, network: Network
) -> None:
    person.login()
    (callback,) = person.sent("/oauth/callback")
    person.page.goto(callback.url)

    expect(person.page.get_by_role("heading", name="alice.test")).to_be_visible()
    assert person.page.url == f"{person.url}/"
    assert len(network.sessions("alice.test")) == 1
    assert person.signed_in()


def test_the_callback_in_another_browser_is_worth_nothing(person: Person, browser: Browser) -> None:
    person.login()
    (callback,) = person.sent("/oauth/callback")
    thief = Person(browser.new_context(), person.url)
    thief.page.goto(callback.url)

    expect(thief.page.get_by_role("alert")).to_have_text(
        "This sign-in link is not valid here. Please start again."
    )
    assert not thief.signed_in()
    assert person.signed_in()
    thief.context.close()


def test_two_tabs_both_come_to_an_end(person: Person, network: Network) -> None:
    second = person.context.new_page()
    person.begin("alice.test")
    person.begin("bob.test", second)
    person.sign_in(person.page)
    person.consent(person.page)
    person.sign_in(second)
    person.consent(second)
    person.page.reload()

    expect(person.page.get_by_role("heading", name="bob.test")).to_be_visible()
    expect(second.get_by_role("heading", name="bob.test")).to_be_visible()
    assert len(network.sessions("bob.test")) == 1
    # The first was replaced, and is revoked without anybody waiting for it.
    for _ in range(100):
        if not network.sessions("alice.test"):
            break
        second.wait_for_timeout(50)
    assert network.sessions("alice.test") == []


def test_cancelling_says_so_and_can_be_undone(person: Person, network: Network) -> None:
    person.begin()
    person.page.get_by_role("button", name="Cancel").click()
    expect(person.page.get_by_role("alert")).to_have_text("Signing in was cancelled.")
    assert not person.signed_in()
    person.try_again()
    person.sign_in(person.page)
    person.page.get_by_role("button", name="Deny").click()
    expect(person.page.get_by_role("alert")).to_have_text("Signing in was cancelled.")
    person.page.get_by_role("link", name="Back to the demo").click()
    expect(person.page.get_by_role("heading", name="Accounts to try")).to_be_visible()

    assert network.sessions() == []
    assert person.violations() == []
    assert "null" not in {one.all_headers().get("origin") for one in person.requests}


def test_after_cancelling_another_account_can_be_taken(person: Person) -> None:
    person.begin()
    person.page.get_by_role("button", name="Cancel").click()
    person.page.get_by_role("link", name="Try again").click()
    person.page.get_by_role("link", name="Use another account").click()
    person.page.get_by_label("Handle").fill("bob.test")
    person.page.keyboard.press("Enter")
    person.sign_in(person.page)
    person.consent(person.page)

    expect(person.page.get_by_role("heading", name="bob.test")).to_be_visible()
    assert person.page.url == f"{person.url}/"


def test_a_wrong_handle_and_a_wrong_password_can_be_corrected(person: Person) -> None:
    person.begin("nobody.test")
    expect(person.page.get_by_role("alert")).to_have_text(
        "That handle was not found. Please check the spelling."
    )
    person.page.get_by_label("Handle").fill("@Alice.test ")
    person.page.keyboard.press("Enter")
    person.sign_in(person.page, "wrong")
    expect(person.page.get_by_role("alert")).to_be_visible()
    person.sign_in(person.page)
    person.consent(person.page)

    assert person.signed_in()


def test_pages_work_without_javascript(browser: Browser, url: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    person = Person(context, url)
    person.login()
    person.post("No scripts")
    expect(person.page.locator("ol p")).to_have_text("No scripts")
    person.log_out()
    context.close()


def test_a_link_with_a_name_asks_before_it_does_anything(person: Person, network: Network) -> None:
    person.page.goto(f"{person.url}/oauth/login?identifier=alice.test")
    expect(person.page.get_by_text("Continue as alice.test?")).to_be_visible()
    asked_before = network.log.of("par")
    person.page.get_by_role("button", name="Continue").click()
    person.sign_in(person.page)
    person.consent(person.page)

    assert list(asked_before) == []
    assert person.signed_in()


def test_a_page_of_another_site_can_do_nothing(person: Person) -> None:
    forms = "".join(
        f'<form method="post" action="{person.url}{path}"><input name="text" value="spam">'
        f'<input name="identifier" value="bob.test"><button>{path}</button></form>'
        for path in ("/post", "/oauth/logout", "/oauth/login")
    )
    hostile = Served(app=HTMLResponse(forms))
    person.login()
    with serving(hostile):
        for path in ("/post", "/oauth/logout", "/oauth/login"):
            # Another port is another origin of the same site; localhost is another site.
            for host in ("127.0.0.1", "localhost"):
                person.page.goto(f"http://{host}:{hostile.port}/")
                person.page.get_by_role("button", name=path, exact=True).click()
                assert "localhost" not in person.page.url
                assert "authorize" not in person.page.url
    person.page.goto(person.url)

    expect(person.page.get_by_role("heading", name="alice.test")).to_be_visible()
    assert person.posts() == []


def test_every_page_fits_a_small_screen(browser: Browser, url: str, tmp_path: Path) -> None:
    context = browser.new_context(viewport={"width": 320, "height": 640}, color_scheme="dark")
    person = Person(context, url)

    def fits(name: str) -> None:
        person.page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
        width = person.page.evaluate("document.documentElement.scrollWidth")
        assert width <= 320, name

    person.page.goto(person.url)
    fits("welcome")
    person.page.goto(f"{person.url}/oauth/login?identifier={'x' * 200}.test&error=cancelled")
    fits("login")
    person.page.goto(f"{person.url}/oauth/login?identifier={'x' * 200}.test")
    fits("confirmation")
    person.begin()
    fits("sign-in")
    person.sign_in(person.page)
    expect(person.page.get_by_role("button", name="Authorize")).to_be_visible()
    fits("consent")
    person.consent(person.page)
    person.post("w" * 300)
    expect(person.page.locator("ol p")).to_have_text("w" * 300)
    fits("home")
    context.close()
