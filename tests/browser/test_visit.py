"""A newcomer's visit with the network unplugged, and whether everybody can use its pages."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Playwright, expect

from tests.browser.screenshots import KEPT, somebody
from tests.browser.story import visit

# A visit opens some fifty pages, and waits until a young token may be renewed.
pytestmark = pytest.mark.timeout(240)

ROOT = Path(__file__).parents[2]
#: A network of its own that leads nowhere.
NAMESPACE = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c"]
LOOPBACK = 'ip link set lo up && exec "$@"'
#: Finds every text that does not stand out from what lies behind it (WCAG 2.2, 1.4.3), every field
#: without a name, and how wide the page is.
FAULTS = """() => {
  const number = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => {
    const part = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const [r, g, b, a = 1] = number(getComputedStyle(each).backgroundColor);
      if (a === 1) return [r, g, b];
    }
    return matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
  };
  const faults = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const [x, y] = [light(number(style.color)), light(behind(element))];
    const ratio = (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
    if (ratio < 4.5) faults.push(`${ratio.toFixed(2)}: ${walker.currentNode.data.trim()}`);
  }
  for (const field of document.querySelectorAll("input:not([type=hidden]), textarea")) {
    if (!field.labels.length) faults.push(`no label: ${field.name}`);
  }
  const wide = document.documentElement.scrollWidth;
  if (wide > innerWidth) faults.push(`${wide} pixels wide`);
  if (document.querySelectorAll("h1").length !== 1) faults.push("not one heading");
  return faults;
}"""


def test_a_whole_visit_with_the_network_unplugged() -> None:
    own = shutil.which("unshare") and shutil.which("ip")
    permitted = (
        own and not subprocess.run([*NAMESPACE, "ip link set lo up"], check=False).returncode
    )
    prefix = [*NAMESPACE, LOOPBACK, "unplugged"] if permitted else []
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "tests.browser.unplugged"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["hosts"] == ["127.0.0.1", "localhost"]
    assert told["failed"] == []
    assert told["violations"] == []
    # Where no namespace is permitted, Chromium still could look no name up.
    assert told["route"] == ("Network is unreachable" if permitted else told["route"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_place_is_legible_on_the_smallest_phone(scheme: str, playwright: Playwright) -> None:
    faults: dict[str, list[str]] = {}
    with somebody(playwright, "smallest", scheme) as (person, network):
        visit(person, network, lambda place: faults.update({place: person.page.evaluate(FAULTS)}))

    assert faults.keys() >= KEPT.keys()
    assert {place: found for place, found in faults.items() if found} == {}


def test_the_keyboard_goes_through_a_page_as_the_eye_does(playwright: Playwright) -> None:
    with somebody(playwright, "phone", "light") as (person, _):
        page = person.page

        def stops(number: int) -> list[str]:
            """Press Tab, and return what it comes to."""
            found: list[str] = []
            for _ in range(number):
                page.keyboard.press("Tab")
                focused = page.locator(":focus")
                found.append(
                    focused.evaluate("e => e.ariaLabel || e.labels?.[0]?.innerText || e.innerText")
                )
                outline = focused.evaluate("e => getComputedStyle(e).outlineStyle")
                assert outline == "solid", found
            return found

        person.begin("alice.test")
        expect(page.get_by_label("Password")).to_be_focused()
        at_sign_in = stops(4)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Authorize")).to_be_visible()
        at_consent = stops(4)
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Newest posts")).to_be_visible()

    assert at_sign_in == [
        "Remember this account on this device",
        "Sign in",
        "Cancel",
        "Continue as alice.test",
    ]
    assert at_consent == [
        "See your e-mail address\nUntick it to keep it to yourself.",
        "Authorize",
        "Deny access",
        "Technical details",
    ]
