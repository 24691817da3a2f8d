"""Browsers read addresses by the WHATWG's rules, which node knows: both readers must agree."""

from __future__ import annotations

import json
import random
import subprocess
from ipaddress import ip_address

import pytest
from starlette.responses import RedirectResponse

from atproto_oauth_asgi.errors import AddressRefused
from atproto_oauth_asgi.net_dns import Resolver
from atproto_oauth_asgi.net_guard import Guard
from atproto_oauth_asgi.net_policy import NetPolicy
from atproto_oauth_asgi.next_url import safe_next
from atproto_oauth_asgi.origins import parse_address
from tests.fuzz import corpus
from tests.reference.install import Installed
from tests.test_next_url import LOCAL, ROOT, STRANGERS, TRUSTED, UNDER

# Reads [address, base] pairs and writes what a browser makes of each.
READER = """
let text = '';
process.stdin.on('data', piece => text += piece).on('end', () => {
  const read = ([address, base]) => {
    try {
      const url = new URL(address, base);
      return {origin: url.origin, host: url.hostname, path: url.pathname, href: url.href};
    } catch { return null; }
  };
  process.stdout.write(JSON.stringify(JSON.parse(text).map(read)));
});
"""
PIECES = [
    "/", "//", "\\", ".", "..", "%2e", "%2E", "%2f", "%5c", "%00", "%09", "@", ":", ":443", ":80",
    "?", "#", ";", "a", "app", "/app", "/app/", "/app2", "https:", "http:", "javascript:", "data:",
    "https://", "app.birdsong.dev", "www.birdsong.dev", "evil.example", "127.0.0.1:8000", "\t",
    "\n", "\r", " ", "\0", "\u200b", "\u3002", "\uff0f", "\uff0e", "\ufeff", "[", "]", "|", "^",
    "{", "'", '"', "<", "&", "=", "+", "~", "xn--", "\u00df", "\u212a", "\u2100",
]  # fmt: skip


def texts(count: int, *starts: str) -> list[str]:
    choose = random.Random(count)
    return [
        choose.choice(starts) + "".join(choose.choices(PIECES, k=choose.randrange(1, 9)))
        for _ in range(count)
    ]


def same_host(one: str, other: str) -> bool:
    """Tell whether two hosts are one; IPv6 addresses have several spellings."""
    if ":" in one and ":" in other:
        return ip_address(one) == ip_address(other)
    return one == other


def as_browsers_do(
    installed: Installed, pairs: list[tuple[str, str]]
) -> list[dict[str, str] | None]:
    done = subprocess.run(
        [str(installed.node), "-e", READER],
        input=json.dumps(pairs),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    answers: list[dict[str, str] | None] = json.loads(done.stdout)
    assert len(answers) == len(pairs)
    return answers


@pytest.mark.spec("F5")
@pytest.mark.parametrize("ours", [ROOT, UNDER, LOCAL], ids=["root", "under", "loopback"])
def test_no_next_leads_a_browser_away(ours: object, reference_install: Installed) -> None:
    settings = ROOT if ours is ROOT else UNDER if ours is UNDER else LOCAL
    base = settings.base_url
    targets = [
        *(target for target in STRANGERS if target is not None),
        *(data.decode("utf-8", "replace") for data in corpus.read("next_url")),
        *texts(8_000, "", "/", "/app/", "https://app.birdsong.dev", base, base + "/", TRUSTED),
    ]
    kept = 0
    urls = [safe_next(target, settings) for target in targets]
    # As it stands in the header of the redirect.
    locations = [RedirectResponse(url).headers["location"] for url in urls]
    read = as_browsers_do(
        reference_install, [(location, f"{base}/oauth/callback") for location in locations]
    )
    for target, url, found in zip(targets, urls, read, strict=True):
        assert found is not None, target
        kept += url not in {base, TRUSTED}
        if found["origin"] == TRUSTED:
            continue
        assert found["origin"] == settings.origin, target
        path = settings.base_path
        assert not path or found["path"] == path or found["path"].startswith(f"{path}/"), target
    # The test is about addresses that are kept: there have to be some.
    assert kept > 300


@pytest.mark.spec("B3", "B9", "P2", "P3")
def test_every_reader_finds_the_same_server(reference_install: Installed) -> None:
    guard = Guard(policy := NetPolicy(), Resolver(policy))
    targets = [
        *(data.decode("utf-8", "replace") for data in corpus.read("guarded_url")),
        *texts(
            8_000,
            "https://pds.example.com",
            "https://",
            "https://93.184.215.14",
            "https://[2606:4700::1]",
        ),
    ]
    agreed = 0
    for text, found in zip(
        targets,
        as_browsers_do(reference_install, [(text, "https://base.example") for text in targets]),
        strict=True,
    ):
        address = parse_address(text)
        if address is not None and found is not None:
            assert found["origin"] == address.origin, text
        try:
            url = guard.parse_url(text)
            guard.check_url(url)
        except AddressRefused:
            continue
        # What browsers cannot read, such as xn--a.com, the guard does not open either.
        assert found is not None, text
        assert same_host(found["host"].strip("[]"), url.raw_host.decode().lower()), text
        agreed += 1
    assert agreed > 200
