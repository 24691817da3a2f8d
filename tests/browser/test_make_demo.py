"""What `make demo` starts, as its first visitor finds it."""

from __future__ import annotations

import re
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.chromium import Person
from tests.examples.process import demo, greeting


@pytest.fixture
def url(tmp_path: Path) -> Generator[str]:
    with demo(tmp_path, PORT="0") as process:
        yield re.findall(r"http://127\.0\.0\.1:\d+", greeting(process))[0]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


def test_a_newcomer_needs_nothing_but_the_pages(person: Person) -> None:
    page = person.page
    page.goto(person.url)
    handle, password = page.locator("ol li").last.locator("code").all_inner_texts()
    page.get_by_label("Handle").fill(handle)
    page.keyboard.press("Enter")
    expect(page.get_by_text(password).first).to_be_visible()
    person.sign_in(page, password)
    person.consent(page)
    person.post("First post")
    expect(page.locator("ol p")).to_have_text("First post")
    person.log_out()

    assert not person.signed_in()
