"""Makes the pictures in docs/screenshots again: `python -m tests.browser.screenshots`.

`--all FOLDER` makes one of every place, on a phone and a desktop, in light and in dark.
Chromium can look no name up; run it in a network namespace without a route to be sure.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Playwright, ViewportSize, sync_playwright

from atproto_oauth_asgi.testing import Network
from tests.browser.chromium import UNPLUGGED, Person, chromium
from tests.browser.serving import served_demo
from tests.browser.story import visit

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
SIZES: dict[str, ViewportSize] = {
    "phone": {"width": 360, "height": 740},
    "desktop": {"width": 1000, "height": 720},
    "smallest": {"width": 320, "height": 568},
}
LOOKS = [(size, scheme) for size in ("phone", "desktop") for scheme in ("light", "dark")]
#: Place → size and colours of the picture that is kept.
KEPT = {
    "welcome": "desktop-light",
    "sign-in": "phone-light",
    "wrong-password": "phone-dark",
    "consent": "phone-light",
    "not-shared": "desktop-light",
    "consent-more": "phone-dark",
    "home": "desktop-dark",
    "choose": "phone-dark",
    "cancelled": "phone-light",
    "sign-up-password": "phone-light",
    "cannot-go-on": "desktop-dark",
}


@contextmanager
def somebody(playwright: Playwright, size: str, scheme: str) -> Generator[tuple[Person, Network]]:
    """Give a person with a fresh browser, and a network nobody has been to."""
    network = Network(list_accounts=True).start()
    accounts = [(each.handle, each.password) for each in network.host.accounts]
    try:
        with served_demo(network, accounts) as url, chromium(playwright, UNPLUGGED) as browser:
            context = browser.new_context(
                viewport=SIZES[size], color_scheme="dark" if scheme == "dark" else "light"
            )
            yield Person(context, url), network
            context.close()
    finally:
        network.stop()


def main(arguments: list[str]) -> None:
    everything = arguments[:1] == ["--all"]
    folder = Path(arguments[1]) if everything else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        for size, scheme in LOOKS:
            with somebody(playwright, size, scheme) as (person, network):

                def look(
                    place: str, person: Person = person, kind: str = f"{size}-{scheme}"
                ) -> None:
                    if everything or KEPT.get(place) == kind:
                        path = folder / f"{place}-{kind}.png"
                        person.page.screenshot(path=path, full_page=True)
                        print(path.name)

                visit(person, network, look)


if __name__ == "__main__":
    main(sys.argv[1:])
