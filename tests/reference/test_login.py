from __future__ import annotations

from collections.abc import AsyncGenerator
from html import escape
from pathlib import Path

import pytest

from atproto_oauth_asgi import LoginRefused, OAuthSession
from atproto_oauth_asgi.core import Login
from atproto_oauth_asgi.errors import (
    InvalidCallback,
    IssuerMismatch,
    LoginCancelled,
    LoginError,
    LoginExpired,
    ScopeRefused,
    WrongAccount,
    XRPCError,
)
from atproto_oauth_asgi.scopes import covers
from tests.reference.network import ReferenceNetwork
from tests.reference.rows import Rows
from tests.reference.user import ApprovalRefused, HttpUser
from tests.reference.world import (
    SCOPE,
    Grant,
    World,
    refused_refresh,
    until,
    world,
)

pytestmark = pytest.mark.anyio

ALICE = "alice.test"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 50


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return Rows(tmp_path / "app.db")


@pytest.fixture
async def here(reference: ReferenceNetwork) -> AsyncGenerator[World]:
    async with world(reference) as here:
        yield here


def exchanges(network: ReferenceNetwork) -> int:
    """Count the codes that reached the server."""
    log = network.control.log("/oauth/token", grant_type="authorization_code")
    return sum(entry.error != "use_dpop_nonce" for entry in log)


def says(page: str, error: type[LoginError]) -> bool:
    return escape(error.sentence) in page


# --- Who may be typed, and what the session can do ---


@pytest.mark.spec("A20")
@pytest.mark.parametrize("typed", ["handle", "did", "pds"])
async def test_a_person_logs_in_by(reference: ReferenceNetwork, here: World, typed: str) -> None:
    alice = reference.account(ALICE)
    identifier = {"handle": "@Alice.test ", "did": alice.did, "pds": reference.pds}[typed]

    back = await here.login(identifier, account=ALICE, next="/who")
    session = (await here.browser.get("/oauth/session")).json()
    answer = await here.browser.get("/me")

    assert (back.status_code, back.headers["location"]) == (303, "http://127.0.0.1:8000/who")
    assert session["authenticated"]
    assert (session["did"], session["handle"]) == (alice.did, ALICE)
    assert answer.json()["handle"] == ALICE


async def test_the_pds_itself_can_resolve_the_handles(reference: ReferenceNetwork) -> None:
    async with world(reference, handle_resolver_url=reference.pds) as here:
        await here.login()

        assert await here.did() == reference.account(ALICE).did


async def test_a_session_writes_records_and_uploads_blobs(
    reference: ReferenceNetwork, here: World
) -> None:
    alice = reference.account(ALICE).did
    await here.login()
    written = await here.browser.post("/post")
    png = {"content-type": "image/png"}
    whole = await here.browser.post("/blob", content=PNG, headers=png)
    streamed = await here.browser.post("/blob?stream", content=pieces(), headers=png)
    async with here.oauth.session_for(alice) as session:
        listed = await session.query(
            "com.atproto.repo.listRecords",
            {"repo": session.did, "collection": "app.bsky.feed.post", "limit": 100},
        )

    uri: str = written.json()["uri"]
    assert uri.startswith(f"at://{alice}/app.bsky.feed.post/")
    assert uri in str(listed["records"])
    assert whole.json()["blob"]["size"] == len(PNG)
    assert streamed.json()["blob"]["ref"] == whole.json()["blob"]["ref"]


async def pieces() -> AsyncGenerator[bytes]:
    for start in range(0, len(PNG), 16):
        yield PNG[start : start + 16]


# --- What the person does ---


async def test_a_person_who_cancels_is_told_so_and_can_log_in_afterwards(here: World) -> None:
    begun = await here.begin()
    async with HttpUser() as person:
        back = await here.browser.get(await person.deny(begun.headers["location"]))

    assert back.status_code == 400
    assert says(back.text, LoginCancelled)
    assert await here.did() is None
    assert (await here.login()).status_code == 303


async def test_a_wrong_password_and_then_the_right_one_end_in_a_session(
    reference: ReferenceNetwork, here: World
) -> None:
    alice = reference.account(ALICE)
    begun = await here.begin()
    async with HttpUser() as person:
        await person.open(begun.headers["location"])
        with pytest.raises(ApprovalRefused):
            await person.sign_in(ALICE, "not the password")
        back = await person.consent(await person.sign_in(ALICE, alice.password))

    assert (await here.browser.get(back)).status_code == 303
    assert await here.did() == alice.did


async def test_a_page_opened_again_after_consent_cancels_the_login(
    reference: ReferenceNetwork, here: World
) -> None:
    """The server then answers twice, and has already burnt the code of the first answer."""
    begun = await here.begin()
    async with HttpUser() as person:
        password = reference.account(ALICE).password
        first = await person.approve(begun.headers["location"], ALICE, password)
        again = (await person.open(begun.headers["location"])).headers["location"]
    before = exchanges(reference)
    pages = [await here.browser.get(url) for url in (again, first)]

    assert [page.status_code for page in pages] == [400, 400]
    assert all(says(page.text, LoginCancelled) for page in pages)
    assert exchanges(reference) == before
    assert (await here.login()).status_code == 303


async def test_another_account_than_the_one_entered_is_refused_and_its_tokens_revoked(
    reference: ReferenceNetwork, here: World
) -> None:
    reference.control.clear_log()
    back = await here.login(ALICE, account="bob.test")

    assert says(back.text, WrongAccount)
    assert await here.did() is None
    await until(
        lambda: any(entry.status == 200 for entry in reference.control.log("/oauth/revoke"))
    )


async def test_whom_the_app_turns_away_keeps_no_grant(reference: ReferenceNetwork) -> None:
    grants: list[Grant] = []

    async def refuse(login: Login) -> None:
        await login.session.query("com.atproto.server.getSession")
        assert isinstance(login.session, OAuthSession)
        grants.append(Grant(app, login.session))
        raise LoginRefused("Members only.")

    reference.control.clear_log()
    async with world(reference, on_login=refuse) as app:
        back = await app.login()
        await until(
            lambda: any(entry.status == 200 for entry in reference.control.log("/oauth/revoke"))
        )

    assert back.status_code == 403
    assert "Members only." in back.text
    assert await refused_refresh(grants[0]) == "invalid_grant"


# --- Scopes ---


async def test_less_may_be_granted_than_was_asked_for(reference: ReferenceNetwork) -> None:
    async with world(reference, optional_scope="transition:email") as here:
        await here.login(scope=f"{SCOPE} transition:email", consent=SCOPE)
        async with here.oauth.session_for(reference.account(ALICE).did) as session:
            account = await session.query("com.atproto.server.getSession")

    assert session.scopes == frozenset(SCOPE.split())
    assert not covers(session.scopes, "transition:email")
    assert "email" not in account


async def test_a_grant_without_atproto_is_no_login(here: World) -> None:
    back = await here.login(consent="transition:generic")

    assert says(back.text, ScopeRefused)
    assert await here.did() is None


async def test_a_missing_scope_is_the_pds_s_error_and_ends_nothing(
    reference: ReferenceNetwork, here: World
) -> None:
    await here.login(consent="atproto")
    reference.control.clear_log()
    here.listen()
    async with here.oauth.session_for(reference.account(ALICE).did) as session:
        record = {"repo": session.did, "collection": "app.bsky.feed.post", "record": {"text": "no"}}
        with pytest.raises(XRPCError) as refused:
            await session.procedure("com.atproto.repo.createRecord", record)
    answer = await here.browser.get("/me")

    assert (refused.value.http_status, refused.value.error) == (403, "ScopeMissingError")
    assert [heard.status for heard in here.heard if heard.challenge is None] == [403, 200]
    assert answer.status_code == 200
    assert reference.control.refreshes() == []


# --- Callbacks that are not the one that was awaited ---


async def test_a_callback_repeated_by_its_browser_gives_the_first_outcome(
    reference: ReferenceNetwork, here: World
) -> None:
    callback = await here.approved(next="/who")
    first = await here.browser.get(callback)
    before = exchanges(reference)
    again = await here.browser.get(callback)

    assert first.status_code == again.status_code == 303
    assert first.headers["location"] == again.headers["location"]
    assert exchanges(reference) == before
    # The code was not used twice: that would have revoked the session.
    assert (await here.browser.get("/me")).status_code == 200


async def test_a_callback_in_another_browser_is_refused_and_the_code_never_sent(
    reference: ReferenceNetwork, here: World
) -> None:
    callback = await here.approved()
    before = exchanges(reference)
    async with here.another_browser() as stranger:
        stolen = await stranger.get(callback)
        assert not stranger.cookies

    assert stolen.status_code == 400
    assert says(stolen.text, InvalidCallback)
    assert exchanges(reference) == before


async def test_a_callback_replayed_in_another_browser_gives_nothing(here: World) -> None:
    callback = await here.approved()
    await here.browser.get(callback)
    async with here.another_browser() as stranger:
        stolen = await stranger.get(callback)
        assert not stranger.cookies

    assert says(stolen.text, InvalidCallback)
    assert (await here.browser.get("/me")).status_code == 200


@pytest.mark.spec("G5")
async def test_a_callback_with_a_foreign_issuer_is_refused_before_the_code_is_sent(
    reference: ReferenceNetwork, here: World
) -> None:
    callback = await here.approved()
    before = exchanges(reference)
    foreign = callback.replace("localhost", "evil.test")
    assert foreign != callback
    refused = await here.browser.get(foreign)
    late = await here.browser.get(callback)

    assert says(refused.text, IssuerMismatch)
    assert says(late.text, IssuerMismatch)
    assert exchanges(reference) == before
    assert await here.did() is None


async def test_a_callback_after_the_attempt_has_expired_says_so(
    reference: ReferenceNetwork, rows: Rows
) -> None:
    async with world(reference, store_url=rows.store_url) as here:
        callback = await here.approved()
        rows.expire_attempts()
        late = await here.browser.get(callback)

        assert says(late.text, LoginExpired)
        assert await here.did() is None
        assert (await here.login()).status_code == 303
