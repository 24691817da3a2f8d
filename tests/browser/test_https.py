"""The demo as in production: https without a port, and a server of its own for the account.

The embedded network stays in process for the app; the browser reaches the same servers over TLS.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
import trustme
from playwright.sync_api import Browser, Playwright, expect

from atproto_oauth_asgi import ATProtoOAuth
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.testing.demo.site import DEFAULTS, make_app
from atproto_oauth_asgi.testing.servers import PDS_ORIGIN
from tests.browser.chromium import Person, chromium
from tests.browser.serving import Served, serving

APP = "app.birdsong.dev"
PDS = PDS_ORIGIN.removeprefix("https://")


@pytest.fixture(scope="module")
def network() -> Network:
    return Network()


@pytest.fixture(scope="module")
def url() -> str:
    return f"https://{APP}"


@pytest.fixture(scope="module")
def browser(
    playwright: Playwright,
    network: Network,
    url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Generator[Browser]:
    certificate = tmp_path_factory.mktemp("tls") / "site.pem"
    issued = trustme.CA().issue_cert(APP, PDS)
    issued.private_key_and_cert_chain_pem.write_to_path(str(certificate))
    oauth = ATProtoOAuth(
        url,
        store="memory://",
        scope=DEFAULTS["ATPROTO_OAUTH_SCOPE"],
        secret_keys=(b"k" * 32,),
        net_policy=network.policy(),
    )
    demo = make_app(oauth)
    network.register_client_app(url, demo)
    site = Served(app=demo, certificate=certificate)
    server = Served(app=network.host.app, certificate=certificate)
    rules = f"MAP {APP}:443 127.0.0.1:{site.port},MAP {PDS}:443 127.0.0.1:{server.port}"
    with (
        serving(site, server),
        chromium(playwright, f"--host-resolver-rules={rules}", "--ignore-certificate-errors") as it,
    ):
        yield it


def test_a_whole_visit_over_https(person: Person, network: Network, tmp_path: Path) -> None:
    person.begin("bob.test")
    expect(person.page.get_by_text(APP)).to_be_visible()
    person.page.screenshot(path=tmp_path / "sign-in.png")
    person.sign_in(person.page)
    person.consent(person.page)
    person.post("Over TLS")
    expect(person.page.locator("ol p").first).to_have_text("Over TLS")
    person.log_out()

    assert network.sessions("bob.test") == []
    assert person.violations() == []
    (posted,) = person.sent("/oauth/login$", "POST")
    assert posted.all_headers()["origin"] == person.url
    assert "null" not in {one.all_headers().get("origin") for one in person.requests}


def test_cookies_belong_to_this_host_alone(person: Person) -> None:
    person.login()
    cookies = {one.get("name"): one for one in person.context.cookies(person.url)}

    assert set(cookies) == {"__Host-atproto-oauth", "__Host-atproto-oauth-login"}
    for cookie in cookies.values():
        assert cookie.get("secure") is True
        assert cookie.get("httpOnly") is True
        assert cookie.get("sameSite") == "Lax"
        assert cookie.get("path") == "/"
        # With a Domain attribute it would begin with a dot.
        assert cookie.get("domain") == APP
    assert person.page.evaluate("document.cookie") == ""


def test_each_login_gives_the_browser_another_cookie(person: Person) -> None:
    def cookie() -> str:
        found = {one.get("name"): one.get("value", "") for one in person.context.cookies()}
        return found["__Host-atproto-oauth"]

    person.login()
    first = cookie()
    person.page.goto(f"{person.url}/oauth/login?identifier=alice.test")
    person.page.get_by_role("button", name="Continue").click()
    person.sign_in(person.page)
    person.consent(person.page)

    assert cookie() != first


def test_only_https_servers_can_be_gone_to(person: Person) -> None:
    person.page.goto(person.url)
    answer = person.page.reload()

    assert answer is not None
    policy = answer.headers["content-security-policy"]
    assert "form-action 'self' https:;" in policy
