"""A newcomer's visit to the demo, step by step, on the pages of the embedded network."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Locator, Page, expect

from atproto_oauth_asgi.testing import Network
from tests.browser.chromium import Person

#: Is called with the name of every place that the visit comes to.
Look = Callable[[str], None]


def visit(person: Person, network: Network, look: Look) -> None:
    """Sign in, keep a permission back, give it, post, add an account, switch, sign up, leave."""
    _sign_in(person, look)
    _permissions(person, look)
    _posts(person, look)
    _accounts(person, network, look)
    _trouble(person, look)
    _sign_up(person, look)


def _sign_in(person: Person, look: Look) -> None:
    page = person.page
    page.goto(person.url)
    look("welcome")
    person.begin("alice.test")
    person.sign_in(page, "wrong")
    expect(page.get_by_role("alert")).to_have_text("Wrong identifier or password")
    look("wrong-password")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert")).to_have_text("Signing in was cancelled.")
    look("cancelled")
    page.get_by_role("link", name="Try again").click()
    look("confirm")
    page.get_by_role("button", name="Continue").click()
    look("sign-in")
    page.get_by_role("button", name="Continue as alice.test").click()
    expect(page.get_by_role("button", name="Authorize")).to_be_visible()
    look("consent")
    page.get_by_role("button", name="Deny access").click()
    expect(page.get_by_role("alert")).to_have_text("Signing in was cancelled.")
    person.try_again()
    page.get_by_role("button", name="Continue as alice.test").click()
    page.get_by_role("checkbox").uncheck()
    person.consent(page)


def _permissions(person: Person, look: Look) -> None:
    page = person.page
    expect(page.get_by_text("you did not share it")).to_be_visible()
    look("not-shared")
    page.get_by_role("link", name="Ask me again").click()
    page.get_by_role("button", name="Continue").click()
    person.sign_in(page)
    person.consent(page)
    expect(page.get_by_text("alice@mail.test")).to_be_visible()


def _posts(person: Person, look: Look) -> None:
    page = person.page
    for text in ("Hello, this is my first post.", "And the second one, to be deleted."):
        person.post(text)
        expect(page.locator("ol p").first).to_have_text(text)
    expect(page.get_by_text("The demo may not delete posts.")).to_be_visible()
    page.get_by_role("link", name="Allow it").click()
    page.get_by_role("button", name="Continue").click()
    person.sign_in(page)
    expect(page.get_by_text("Create and delete Bluesky posts")).to_be_visible()
    look("consent-more")
    person.consent(page)
    page.get_by_role("button", name="Delete").first.click()
    expect(page.locator("ol p")).to_have_text("Hello, this is my first post.")


def _accounts(person: Person, network: Network, look: Look) -> None:
    page = person.page
    page.get_by_role("link", name="Add another account").click()
    # With the address of a server, the server asks who it is.
    page.get_by_label("Handle").fill(network.host.origin)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_label("Handle").fill("bob.test")
    page.get_by_label("Remember").check()
    person.sign_in(page)
    person.consent(page)
    expect(page.get_by_role("heading", name="bob.test")).to_be_visible()
    page.get_by_role("button", name="Switch to alice.test").click()
    expect(page.get_by_role("heading", name="alice.test")).to_be_visible()
    look("home")
    page.get_by_role("link", name="Add another account").click()
    page.get_by_label("Handle").fill(network.host.origin)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Choose an account")).to_be_visible()
    look("choose")
    page.get_by_role("button", name="bob.test", exact=True).click()
    person.consent(page)
    expect(page.get_by_role("heading", name="bob.test")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="alice.test")).to_be_visible()


def _trouble(person: Person, look: Look) -> None:
    page = person.page
    page.get_by_role("button", name="Expire it").click()
    _reload_until(page, page.get_by_role("status"))
    look("expired")
    page.get_by_role("button", name="Revoke it").click()
    expect(page.get_by_role("alert")).to_be_visible()
    look("revoked")
    _reload_until(page, page.get_by_label("Handle"))
    page.goto(f"{person.url}/nowhere")
    look("nothing-here")
    page.goto(person.url)


def _reload_until(page: Page, shown: Locator) -> None:
    """Do as the page says while a token is too young to be renewed."""
    for _ in range(60):
        expect(page.get_by_role("alert").or_(shown).first).to_be_visible()
        if shown.count():
            return
        page.wait_for_timeout(250)
        page.reload()
    expect(shown).to_be_visible()


def _sign_up(person: Person, look: Look) -> None:
    page = person.page
    page.get_by_role("button", name="Create an account").click()
    page.get_by_label("Choose a handle").fill("carol")
    look("sign-up-handle")
    page.keyboard.press("Enter")
    page.get_by_label("E-mail").fill("carol@mail.test")
    page.get_by_label("Password").fill("only for this")
    look("sign-up-password")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Authorize")).to_be_visible()
    consent_page = page.url
    person.consent(page)
    expect(page.get_by_role("heading", name="carol.test")).to_be_visible()
    page.goto(consent_page)
    expect(page.get_by_role("heading", name="Sign-in cannot go on")).to_be_visible()
    look("cannot-go-on")
    page.goto(person.url)
    person.log_out()
