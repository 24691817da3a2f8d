"""One visit, and what the network had to do with it: `python -m tests.browser.unplugged`."""

from __future__ import annotations

import json
import socket
from urllib.parse import urlsplit

from playwright.sync_api import sync_playwright

from tests.browser.screenshots import somebody
from tests.browser.story import visit

#: An address that is nobody's (RFC 5737).
NOBODY = ("192.0.2.1", 443)


def route() -> str:
    """Try the way to the internet, and return what became of it; UDP sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(NOBODY)
        except OSError as exc:
            return str(exc.strerror)
    return "there is one"


def main() -> None:
    with (
        sync_playwright() as playwright,
        somebody(playwright, "desktop", "light") as (one, network),
    ):
        visit(one, network, lambda _place: None)
        told = {
            "route": route(),
            "hosts": sorted({str(urlsplit(each.url).hostname) for each in one.requests}),
            "failed": [each.url for each in one.requests if each.failure],
            "violations": one.violations(),
        }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
