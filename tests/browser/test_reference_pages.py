"""A person at the demo, on the pages that a real PDS shows."""

from __future__ import annotations

import re
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.chromium import Person
from tests.browser.serving import served_demo
from tests.examples.process import demo, greeting
from tests.reference.install import ReferenceUnavailable, ensure_installed, is_installed
from tests.reference.network import ReferenceNetwork
from tests.rings import skip_ring

# The first test installs and compiles where that was not done yet.
pytestmark = [pytest.mark.reference, pytest.mark.timeout(60 if is_installed() else 900)]


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    try:
        ensure_installed()
    except ReferenceUnavailable as exc:
        skip_ring(f"the reference server ({exc.reason})", exc.mend)


@pytest.fixture(scope="module")
def network(installed: None) -> Generator[ReferenceNetwork]:
    with ReferenceNetwork() as network:
        yield network


@pytest.fixture
def url(network: ReferenceNetwork) -> Generator[str]:
    with served_demo(network) as url:
        yield url


def sign_in(page: Page, password: str) -> None:
    page.locator("input[type=password]").fill(password)
    page.keyboard.press("Enter")


def authorize(page: Page) -> None:
    page.get_by_role("button", name="Authorize", exact=True).click()
    expect(page.get_by_role("heading", name="Newest posts")).to_be_visible()


def test_a_person_signs_in_posts_and_signs_out(person: Person, network: ReferenceNetwork) -> None:
    account = network.account("alice.test")
    person.begin()
    sign_in(person.page, account.password)
    authorize(person.page)
    expect(person.page.get_by_text(account.did)).to_be_visible()
    person.post("Hello from a browser")
    expect(person.page.locator("ol p").first).to_have_text("Hello from a browser")
    person.log_out()

    assert not person.signed_in()
    ours = [each for each in person.violations() if person.url in each]
    assert ours == []
    for path in ("/oauth/login$", "/post$", "/oauth/logout$"):
        (posted,) = person.sent(person.url + path, "POST")
        assert posted.all_headers()["origin"] == person.url
    assert not any("code=" in one.all_headers().get("referer", "") for one in person.requests)


def test_make_demo_starts_the_real_servers_beside_it(browser: Browser, tmp_path: Path) -> None:
    with demo(tmp_path, PORT="0", NETWORK="reference") as process:
        said = greeting(process)
        (url,) = re.findall(r"http://127\.0\.0\.1:\d+", said)
        ((handle, password), _) = re.findall(r"(\S+\.test) +password (\S+)", said)
        person = Person(browser.new_context(), url)
        person.begin(handle)
        sign_in(person.page, password)
        authorize(person.page)
        signed_in = person.signed_in()
        person.context.close()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)

    assert signed_in
    assert process.returncode == 0
    assert errors == ""


def test_a_wrong_password_then_the_right_one(person: Person, network: ReferenceNetwork) -> None:
    person.begin()
    sign_in(person.page, "wrong-password")
    expect(person.page.get_by_text("Wrong identifier or password")).to_be_visible()
    sign_in(person.page, network.account("alice.test").password)
    authorize(person.page)

    assert person.signed_in()


def test_denying_says_so_and_can_be_undone(person: Person, network: ReferenceNetwork) -> None:
    person.begin()
    sign_in(person.page, network.account("alice.test").password)
    person.page.get_by_role("button", name="Deny access", exact=True).click()
    expect(person.page.get_by_role("alert")).to_have_text("Signing in was cancelled.")
    person.try_again()
    sign_in(person.page, network.account("alice.test").password)
    authorize(person.page)

    assert person.signed_in()


def test_the_old_page_of_the_server_harms_nothing(
    person: Person, network: ReferenceNetwork
) -> None:
    person.begin()
    person.page.wait_for_url("**/oauth/authorize?**")
    old = person.page.url
    sign_in(person.page, network.account("alice.test").password)
    authorize(person.page)
    person.page.goto(old)
    person.page.goto(person.url)

    expect(person.page.get_by_role("heading", name="alice.test")).to_be_visible()
    assert "/oauth/authorize?" in old
    assert person.signed_in()


def test_the_callback_opened_again_leads_to_the_same_place(
    person: Person, network: ReferenceNetwork
) -> None:
    person.begin()
    sign_in(person.page, network.account("alice.test").password)
    authorize(person.page)
    (callback,) = person.sent(f"{person.url}/oauth/callback")
    person.page.goto(callback.url)

    expect(person.page.get_by_role("heading", name="alice.test")).to_be_visible()
    assert person.page.url == f"{person.url}/"
    assert person.signed_in()


def test_two_tabs_both_come_to_an_end(person: Person, network: ReferenceNetwork) -> None:
    second = person.context.new_page()
    person.begin("alice.test")
    person.begin("bob.test", second)
    sign_in(person.page, network.account("alice.test").password)
    authorize(person.page)
    sign_in(second, network.account("bob.test").password)
    authorize(second)
    person.page.reload()

    expect(person.page.get_by_role("heading", name="bob.test")).to_be_visible()
    expect(second.get_by_role("heading", name="bob.test")).to_be_visible()
