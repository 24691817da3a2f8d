from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright

from tests.browser.chromium import Person, chromium

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)


# One per module: while it runs, no test of another module may need an event loop in this thread.
@pytest.fixture(scope="module")
def playwright() -> Generator[Playwright]:
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Generator[Browser]:
    with chromium(playwright) as started:
        yield started


@pytest.fixture
def person(browser: Browser, url: str) -> Generator[Person]:
    """A person with a fresh browser window; `url` is a fixture of each module."""
    context = browser.new_context()
    yield Person(context, url)
    context.close()
