"""The pages as a browser without JavaScript uses them."""

from __future__ import annotations

import html
import re
from urllib.parse import urljoin

import httpx
import pytest

from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.testing.accounts import DEFAULT_PASSWORD
from tests.network.walker import REDIRECT_URI, Walker, loopback_client_id, parameters

pytestmark = pytest.mark.anyio

NAVIGATION = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


class Browser:
    """Opens pages, keeps cookies and sends forms with their hidden fields."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.url = ""
        self.answer = httpx.Response(0)

    async def open(self, url: str) -> httpx.Response:
        self.url = url
        self.answer = await self.http.get(url, headers=NAVIGATION)
        return self.answer

    async def send(self, action: str, **fields: str | list[str]) -> httpx.Response:
        forms = re.findall(r'<form method="post" action="([^"]*)">(.*?)</form>', self.answer.text)
        inner = next((body for path, body in forms if path.endswith(action)), forms[0][1])
        hidden = dict(re.findall(r'type="hidden" name="([^"]*)" value="([^"]*)"', inner))
        form = {name: html.unescape(value) for name, value in hidden.items()}
        url = urljoin(self.url, f"/oauth/authorize/{action}")
        self.answer = await self.http.post(url, data={**form, **fields}, headers=NAVIGATION)
        location = self.answer.headers.get("location", "")
        if location.startswith("/"):
            await self.open(urljoin(self.url, location))
        return self.answer

    async def sign_in(self, username: str, password: str = DEFAULT_PASSWORD) -> httpx.Response:
        return await self.send("sign-in", username=username, password=password)


@pytest.fixture
def browser(http: httpx.AsyncClient) -> Browser:
    return Browser(http)


async def test_a_person_signs_in_and_consents(
    browser: Browser, walker: Walker, network: Network
) -> None:
    shown = await browser.open(await walker.authorize_url(login_hint="alice.test"))
    consent = await browser.sign_in("alice.test")
    done = await browser.send("consent", decision="allow")
    callback = done.headers["location"]
    tokens = (await walker.exchange(parameters(callback)["code"])).json()

    assert "evelopment network" in shown.text
    assert 'value="alice.test"' in shown.text
    assert "alice.test" in consent.text
    assert done.status_code == 303
    assert callback.startswith(REDIRECT_URI)
    assert tokens["sub"] == network.account("alice.test").did


async def test_pages_are_locked_down(browser: Browser, walker: Walker) -> None:
    shown = await browser.open(await walker.authorize_url())
    cookie = shown.headers["set-cookie"]

    assert "default-src 'none'" in shown.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in shown.headers["content-security-policy"]
    assert shown.headers["cache-control"] == "no-store"
    assert shown.headers["referrer-policy"] == "same-origin"
    assert all(word in cookie for word in ("HttpOnly", "SameSite=Lax", "Secure"))


async def test_a_wrong_password_then_the_right_one(browser: Browser, walker: Walker) -> None:
    await browser.open(await walker.authorize_url())
    wrong = await browser.sign_in("alice.test", "wrong")
    right = await browser.sign_in("alice.test")

    assert wrong.status_code == 400
    assert 'role="alert"' in wrong.text
    assert "Authorize" in right.text


@pytest.mark.parametrize("before", ["sign-in", "consent"])
async def test_cancel_and_deny(before: str, browser: Browser, walker: Walker) -> None:
    await browser.open(await walker.authorize_url())
    if before == "consent":
        await browser.sign_in("alice.test")
    done = await browser.send("consent", decision="deny")

    assert parameters(done.headers["location"])["error"] == "access_denied"


async def test_another_account_can_be_chosen(
    browser: Browser, walker: Walker, network: Network
) -> None:
    await browser.open(await walker.authorize_url())
    await browser.sign_in("alice.test")
    await browser.send("consent", decision="switch")
    await browser.sign_in("bob@mail.test")
    done = await browser.send("consent", decision="allow")
    tokens = (await walker.exchange(parameters(done.headers["location"])["code"])).json()

    assert tokens["sub"] == network.account("bob.test").did


async def test_an_unticked_permission_is_not_granted(browser: Browser, walker: Walker) -> None:
    walker.scope = "atproto transition:email"
    walker.client_id = loopback_client_id(scope=walker.scope)
    await browser.open(await walker.authorize_url())
    await browser.sign_in("alice.test")
    done = await browser.send("consent", decision="allow")
    tokens = (await walker.exchange(parameters(done.headers["location"])["code"])).json()

    assert tokens["scope"] == "atproto"


async def test_consent_without_signing_in_gives_nothing(browser: Browser, walker: Walker) -> None:
    await browser.open(await walker.authorize_url())
    answer = await browser.send("consent", decision="allow")

    assert answer.status_code == 200
    assert "Password" in answer.text


async def test_forms_of_another_site_or_browser_are_refused(
    browser: Browser, walker: Walker, http: httpx.AsyncClient
) -> None:
    await browser.open(await walker.authorize_url())
    forged = await browser.send("sign-in", csrf="0" * 64, username="alice.test")
    await browser.open(await walker.authorize_url())
    http.cookies.clear()
    no_cookie = await browser.sign_in("alice.test")

    assert forged.status_code == 403
    assert no_cookie.status_code == 403


async def test_a_request_belongs_to_the_browser_that_opened_it(
    browser: Browser, walker: Walker, http: httpx.AsyncClient
) -> None:
    url = await walker.authorize_url()
    await browser.open(url)
    http.cookies.clear()
    other = await browser.open(url)

    assert "another+device" in other.headers["location"]


@pytest.mark.parametrize(
    "query", ["", "?client_id=x", "?client_id=x&request_uri=urn:x", "?request_uri=req-0"]
)
async def test_unknown_requests_get_a_page_and_no_redirect(
    query: str, browser: Browser, walker: Walker
) -> None:
    answer = await browser.open(walker.url(f"/oauth/authorize{query}"))

    assert answer.status_code == 400
    assert answer.headers["content-type"].startswith("text/html")


async def test_scripts_cannot_open_the_page(walker: Walker, http: httpx.AsyncClient) -> None:
    url = await walker.authorize_url()
    answer = await http.get(url, headers={"sec-fetch-mode": "cors"})

    assert answer.status_code == 400
    assert "Forbidden sec-fetch-mode header" in answer.text


@pytest.mark.parametrize("mode", ["fragment", "form_post"])
async def test_other_response_modes(mode: str, browser: Browser, walker: Walker) -> None:
    await browser.open(await walker.authorize_url(response_mode=mode))
    await browser.sign_in("alice.test")
    done = await browser.send("consent", decision="allow")

    if mode == "fragment":
        assert done.headers["location"].startswith(f"{REDIRECT_URI}#state=")
    else:
        assert f'action="{REDIRECT_URI}"' in done.text
        assert 'name="code" value="cod-' in done.text


async def test_markup_in_a_login_hint_stays_text(browser: Browser, walker: Walker) -> None:
    await browser.open(await walker.authorize_url())
    shown = await browser.sign_in('"><script>x</script>', "wrong")

    assert "<script>x" not in shown.text
    assert "&lt;script&gt;" in shown.text
