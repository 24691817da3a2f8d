"""Chromium without a window, and what a person does in it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Playwright,
    Request,
    expect,
)

from tests.rings import require_tool

INSTALL = "apt-get install --no-install-recommends chromium fonts-dejavu-core"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
#: No name leads anywhere but to this computer.
UNPLUGGED = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"
SECONDS = 15_000
# What is expected takes no less time than what is clicked, and that is five seconds otherwise.
expect.set_options(timeout=SECONDS)


@contextlib.contextmanager
def chromium(playwright: Playwright, *arguments: str) -> Generator[Browser]:
    """Start Chromium, or skip the calling test with the line that installs it."""
    path = require_tool("chromium", INSTALL)
    browser = playwright.chromium.launch(
        executable_path=path, headless=True, args=[*ARGUMENTS, *arguments]
    )
    try:
        yield browser
    finally:
        browser.close()


class Person:
    """A person with a browser window, at the demo.

    Whatever the pages complain about is kept in `complaints`, every request in `requests`.
    """

    def __init__(self, context: BrowserContext, url: str) -> None:
        context.set_default_timeout(SECONDS)
        self.context = context
        self.url = url
        self.complaints: list[str] = []
        self.requests: list[Request] = []
        context.on("console", self._hear)
        context.on("request", self._note)
        self.page = context.new_page()

    def _hear(self, message: ConsoleMessage) -> None:
        self.complaints.append(message.text)

    def _note(self, request: Request) -> None:
        self.requests.append(request)

    def begin(self, handle: str = "alice.test", page: Page | None = None) -> Page:
        """Type a handle on the demo's own page; the next page is the server's."""
        page = page or self.page
        page.goto(self.url)
        page.get_by_label("Handle").fill(handle)
        page.get_by_role("button", name="Sign in").click()
        return page

    def login(self, handle: str = "alice.test", page: Page | None = None) -> None:
        """Sign in at the embedded network."""
        page = self.begin(handle, page)
        self.sign_in(page)
        self.consent(page)

    def sign_in(self, page: Page, password: str = "dev-password") -> None:
        page.get_by_label("Password").fill(password)
        page.keyboard.press("Enter")

    def consent(self, page: Page) -> None:
        page.get_by_role("button", name="Authorize").click()
        expect(page.get_by_role("heading", name="Newest posts")).to_be_visible()

    def try_again(self) -> None:
        """Go on from the page that says why a login failed, as the same account."""
        self.page.get_by_role("link", name="Try again").click()
        self.page.get_by_role("button", name="Continue").click()

    def post(self, text: str) -> None:
        self.page.get_by_label("New post").fill(text)
        self.page.get_by_role("button", name="Post").click()

    def log_out(self) -> None:
        self.page.get_by_role("button", name="Sign out").click()
        expect(self.page.get_by_label("Handle")).to_be_visible()

    def signed_in(self) -> bool:
        """Ask the app, with the cookies of this browser."""
        return self.context.request.get(f"{self.url}/api/me").status == 200

    def posts(self) -> list[str]:
        return self.page.locator("ol p").all_inner_texts()

    def sent(self, pattern: str, method: str = "GET") -> list[Request]:
        """Return the requests that were sent to addresses like this."""
        return [
            one for one in self.requests if one.method == method and re.search(pattern, one.url)
        ]

    def violations(self) -> list[str]:
        """Return what was blocked by a policy of a page."""
        return [each for each in self.complaints if "Content Security Policy" in each]
