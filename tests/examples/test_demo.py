from __future__ import annotations

import importlib
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import httpx
import pytest

from atproto_oauth_asgi import ATProtoOAuth
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.testing.demo.posts import COLLECTION, DELETE_SCOPE, LONGEST_POST
from atproto_oauth_asgi.testing.demo.site import DEFAULTS, make_app
from atproto_oauth_asgi.testing.web import Answer

pytestmark = pytest.mark.anyio

BASE_URL = "http://127.0.0.1:8000"
OURS = {"origin": BASE_URL, "sec-fetch-site": "same-origin", "sec-fetch-mode": "navigate"}
FOREIGN = {"origin": "https://evil.dev", "sec-fetch-site": "cross-site"}


@dataclass
class Demo:
    network: Network
    browser: httpx.AsyncClient

    async def login(
        self, handle: str = "alice.test", *, granted: str | None = None, **fields: str
    ) -> None:
        form = {"identifier": handle, **fields}
        begun = await self.browser.post("/oauth/login", data=form, headers=OURS)
        back = self.network.approve(begun.headers["location"], handle, scope=granted)
        assert (await self.browser.get(back)).status_code == 303

    def posts(self, handle: str = "alice.test") -> list[str]:
        return list(self.records(handle).values())

    def keys(self) -> list[str]:
        return list(self.records("alice.test"))

    def records(self, handle: str) -> dict[str, str]:
        """Return what the PDS holds: record key → text."""
        did = self.network.account(handle).did
        repository = self.network.host.pds.repository(did)
        found = repository.list(COLLECTION, limit=100, cursor=None, reverse=False)
        return {key: str(record.value["text"]) for key, record in found}


@asynccontextmanager
async def running(
    network: Network | None = None,
    scope: str = DEFAULTS["ATPROTO_OAUTH_SCOPE"],
    *,
    tricks: bool = False,
) -> AsyncGenerator[Demo]:
    network = network or Network()
    oauth = ATProtoOAuth(
        BASE_URL,
        store="memory://",
        scope=scope,
        optional_scope=DEFAULTS["ATPROTO_OAUTH_OPTIONAL_SCOPE"],
        net_policy=network.policy(),
    )
    transport = httpx.ASGITransport(make_app(oauth, network=network if tricks else None))
    async with oauth, httpx.AsyncClient(transport=transport, base_url=BASE_URL) as browser:
        yield Demo(network, browser)


@pytest.fixture
async def demo() -> AsyncGenerator[Demo]:
    async with running() as here:
        yield here


async def test_me_is_what_the_pds_says(demo: Demo) -> None:
    anonymous = await demo.browser.get("/api/me")
    await demo.login()
    signed_in = await demo.browser.get("/api/me")

    assert anonymous.status_code == 401
    assert anonymous.json()["error"] == "not_authenticated"
    assert signed_in.json() == {
        "did": demo.network.account("alice.test").did,
        "handle": "alice.test",
        "email": "alice@mail.test",
        "emailConfirmed": False,
        "active": True,
    }


async def test_a_post_is_written_and_its_uri_returned(demo: Demo) -> None:
    anonymous = await demo.browser.post("/api/post", json={"text": "no"})
    await demo.login()
    written = await demo.browser.post("/api/post", json={"text": "  Hello, wörld 🦋 "})

    assert anonymous.status_code == 401
    assert written.status_code == 200
    did = demo.network.account("alice.test").did
    assert written.json()["uri"].startswith(f"at://{did}/{COLLECTION}/")
    assert demo.posts() == ["Hello, wörld 🦋"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"text": 1}',
        b'{"text": null}',
        b'{"text": ""}',
        b'{"text": " \\n"}',
        b'{"text": "\\ud83e"}',
        b'{"text": "\xff"}',
        b"[" * 10_000,
        b'{"text": "%s"}' % (b"x" * (LONGEST_POST + 1)),
        b'{"text": "%s"}' % (b"x" * 20_000),
    ],
    ids=range(14),
)
async def test_bad_input_is_answered_with_a_sentence(body: bytes, demo: Demo) -> None:
    await demo.login()
    answer = await demo.browser.post(
        "/api/post", content=body, headers={"content-type": "application/json"}
    )

    assert answer.status_code == 400
    assert answer.json()["error"] == "bad_input"
    assert answer.json()["message"].endswith(".")
    assert demo.posts() == []


async def test_the_page_shows_who_is_signed_in_and_what_they_wrote(demo: Demo) -> None:
    welcome = await demo.browser.get("/")
    await demo.login()
    posted = await demo.browser.post("/post", data={"text": "One\r\ntwo"}, headers=OURS)
    home = await demo.browser.get("/")

    account = demo.network.account("alice.test")
    assert "Sign in" in welcome.text
    assert posted.status_code == 303
    assert posted.headers["location"] == BASE_URL
    for shown in (account.handle, account.did, account.pds, "repo:app.bsky.feed.post", "expires"):
        assert shown in home.text
    assert "<p>One\ntwo</p>" in home.text
    assert "no-store" in home.headers["cache-control"]


async def test_no_secret_is_shown(demo: Demo) -> None:
    secrets: list[str] = []

    def note(answer: Answer) -> Answer:
        tokens = json.loads(answer.body)
        secrets.extend(tokens[name] for name in ("access_token", "refresh_token") if name in tokens)
        return answer

    with demo.network.alter("/oauth/token", note):
        await demo.login()
    shown = [(await demo.browser.get(path)).text for path in ("/", "/api/me", "/oauth/session")]
    shown.append(repr(dict(demo.browser.cookies)))

    assert len(secrets) == 2
    assert not any(secret in text for secret in secrets for text in shown)


async def test_a_form_that_cannot_be_posted_keeps_its_text(demo: Demo) -> None:
    await demo.login()
    text = "<textarea>" + "x" * LONGEST_POST
    answer = await demo.browser.post("/post", data={"text": text}, headers=OURS)

    assert answer.status_code == 400
    assert 'role="alert"' in answer.text
    assert "&lt;textarea&gt;xxx" in answer.text


async def test_markup_from_the_pds_stays_text(demo: Demo) -> None:
    hostile = "</p><script>alert(1)</script>"
    records = [
        {"value": {"text": hostile, "createdAt": hostile}},
        {"value": {"text": 7, "createdAt": ["2026"]}},
        {"value": None},
        "not a record",
    ]
    await demo.login()
    with demo.network.alter(
        "/xrpc/com.atproto.repo.listRecords", lambda answer: answer.with_json(records=records)
    ):
        page = await demo.browser.get("/")

    assert page.status_code == 200
    assert "<script" not in page.text
    assert "&lt;script&gt;" in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


async def test_another_site_can_write_nothing_and_sign_nobody_out(demo: Demo) -> None:
    await demo.login()
    form = await demo.browser.post("/post", data={"text": "spam"}, headers=FOREIGN)
    call = await demo.browser.post("/api/post", json={"text": "spam"}, headers=FOREIGN)
    logout = await demo.browser.post("/oauth/logout", headers=FOREIGN)

    assert form.headers["location"] == f"{BASE_URL}/oauth/login"
    assert call.status_code == 401
    assert logout.status_code == 403
    assert demo.posts() == []
    assert (await demo.browser.get("/api/me")).status_code == 200


async def test_signing_out_ends_the_session_at_the_server_too(demo: Demo) -> None:
    await demo.login()
    out = await demo.browser.post("/oauth/logout", headers=OURS)

    assert out.headers["location"] == BASE_URL
    assert (await demo.browser.get("/api/me")).status_code == 401


async def test_a_pds_that_is_away_costs_the_list_and_not_the_page(demo: Demo) -> None:
    await demo.login()
    with demo.network.outage():
        page = await demo.browser.get("/")
        post = await demo.browser.post("/post", data={"text": "later"}, headers=OURS)

    assert page.status_code == 200
    assert "alice.test" in page.text
    assert 'role="alert"' in page.text
    assert "They cannot be shown right now." in page.text
    assert post.status_code >= 500
    assert ">later</textarea>" in post.text


async def test_a_session_that_was_revoked_is_said_so_once() -> None:
    async with running(network=Network(token_life=2.0)) as demo:
        await demo.login()
        demo.network.revoke_sessions("alice.test")
        # A token younger than a second is not doubted yet.
        page = await demo.browser.get("/")
        for _ in range(200):
            if "alice.test" not in page.text:
                break
            await anyio.sleep(0.05)
            page = await demo.browser.get("/")
        again = await demo.browser.get("/")

        assert "You have been signed out. Please sign in again." in page.text
        assert 'role="alert"' not in again.text


async def test_without_the_permission_to_write_there_is_no_form() -> None:
    async with running(scope="atproto") as demo:
        await demo.login()
        page = await demo.browser.get("/")
        call = await demo.browser.post("/api/post", json={"text": "x"})

        assert "<textarea" not in page.text
        assert call.status_code == 403
        assert call.json()["error"] == "insufficient_scope"


async def test_localhost_is_sent_to_the_address_that_cookies_belong_to(demo: Demo) -> None:
    answer = await demo.browser.get("http://localhost:8000/")

    assert answer.status_code == 307
    assert answer.headers["location"] == BASE_URL
    assert "set-cookie" not in answer.headers


async def test_the_app_is_configured_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATPROTO_OAUTH_BASE_URL", "http://127.0.0.1:8123")
    monkeypatch.setenv("ATPROTO_OAUTH_STORE_URL", "memory://")
    monkeypatch.setenv("ATPROTO_OAUTH_CLIENT_NAME", "Another name")
    monkeypatch.delitem(sys.modules, "examples.demo.app", raising=False)
    module = importlib.import_module("examples.demo.app")
    monkeypatch.delitem(sys.modules, "examples.demo.app")

    transport = httpx.ASGITransport(module.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8123") as browser:
        page = await browser.get("/oauth/login")

    assert "Sign in to Another name" in page.text
    assert "repo:app.bsky.feed.post" in module.oauth.settings.scope


async def test_deleting_takes_a_permission_of_its_own(demo: Demo) -> None:
    await demo.login()
    await demo.browser.post("/post", data={"text": "One"}, headers=OURS)
    page = await demo.browser.get("/")
    (key,) = demo.keys()
    refused = await demo.browser.post("/delete", data={"key": key}, headers=OURS)
    kept = demo.posts()
    await demo.login(scope=f"{DEFAULTS['ATPROTO_OAUTH_SCOPE']} {DELETE_SCOPE}")
    done = await demo.browser.post("/delete", data={"key": key}, headers=OURS)

    assert "The demo may not delete posts." in page.text
    assert refused.status_code == 303
    assert "action%3Ddelete" in refused.headers["location"]
    assert kept == ["One"]
    assert done.headers["location"] == BASE_URL
    assert demo.posts() == []


async def test_an_address_that_was_kept_back_can_be_asked_for_again(demo: Demo) -> None:
    await demo.login(granted="atproto repo:app.bsky.feed.post?action=create")
    page = (await demo.browser.get("/")).text

    assert "you did not share it" in page
    assert "alice@mail.test" not in page
    assert "account%3Aemail" in page


async def test_accounts_are_listed_and_switched(demo: Demo) -> None:
    await demo.login()
    await demo.login("bob.test", add="1")
    did = demo.network.account("alice.test").did
    before = (await demo.browser.get("/api/me")).json()["handle"]
    switched = await demo.browser.post("/switch", data={"did": did}, headers=OURS)
    after = (await demo.browser.get("/api/me")).json()["handle"]
    nobody = await demo.browser.post("/switch", data={"did": "did:plc:nobody"}, headers=OURS)

    assert (before, after) == ("bob.test", "alice.test")
    assert switched.status_code == 303
    assert nobody.status_code in {303, 401}


async def test_tricks_are_played_on_servers_of_its_own_alone() -> None:
    async with running(tricks=True) as demo:
        await demo.login()
        page = await demo.browser.get("/")
        foreign = await demo.browser.post("/trick", data={"what": "revoke"}, headers=FOREIGN)
        untouched = len(demo.network.sessions())
        await demo.browser.post("/trick", data={"what": "revoke"}, headers=OURS)
        revoked = len(demo.network.sessions())
    async with running() as demo:
        await demo.login()
        without = await demo.browser.get("/")
        await demo.browser.post("/trick", data={"what": "revoke"}, headers=OURS)
        left = len(demo.network.sessions())

    assert "See what happens" in page.text
    assert "See what happens" not in without.text
    assert foreign.status_code == 303
    assert (untouched, revoked, left) == (1, 0, 1)


async def test_what_is_not_there_is_a_page_too(demo: Demo) -> None:
    answer = await demo.browser.get("/nowhere")

    assert answer.status_code == 404
    assert "Back to the start" in answer.text
