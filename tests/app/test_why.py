"""Why a login failed is told to whoever runs the app, in a sentence; the person is told less."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from html import escape

import httpx
import pytest
from starlette.requests import HTTPConnection

from atproto_oauth_asgi.errors import AuthorizationFailed, LoginError, PDSUnreachable
from atproto_oauth_asgi.instrumentation import Event
from atproto_oauth_asgi.keys import ClientKeys, generate_client_keys
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.testing.web import Answer
from tests.app.faulty_store import FaultyStore
from tests.app.world import BASE_URL, world
from tests.hostile.lies import honest_challenge, member, nonce, raw

pytestmark = [pytest.mark.anyio, pytest.mark.spec("E11")]

Change = Callable[[Answer], Answer]
CONNECTION = HTTPConnection({"type": "http", "headers": [], "client": ("198.51.100.1", 1)})
LACKS = "The answer to the pushed authorization request lacks request_uri or expires_in."
SCOPE = "A login's scope must name `atproto`, and nothing twice."


def refused(status: int = 400, **answer: str | None) -> Change:
    """Answer with an OAuth error (RFC 6749 §5.2)."""
    return honest_challenge(lambda given: replace(given, status=status).with_json(**answer))


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way in which a login fails, and what is said of it."""

    code: str
    why: str
    #: The OAuth error code that the app is told.
    error: str | None = None
    change: Change | None = None
    #: Arguments of a start.
    start: dict[str, str] = field(default_factory=dict[str, str])
    #: Parameters of a callback.
    query: dict[str, str] = field(default_factory=dict[str, str])


STARTS = {
    "no such prompt": Case(
        start={"prompt": "maybe"},
        code="login_failed",
        why="prompt must be one of consent, create, login, none, select_account.",
    ),
    "silently, in public": Case(
        start={"prompt": "none"},
        code="login_failed",
        why="Only a confidential client may log in silently; set CLIENT_KEYS, or drop the prompt.",
    ),
    "without atproto": Case(start={"scope": "repo:*"}, code="scope_refused", why=SCOPE),
    "twice": Case(start={"scope": "atproto atproto"}, code="scope_refused", why=SCOPE),
    "undeclared": Case(
        start={"scope": "atproto repo:*"},
        code="scope_refused",
        why="'repo:*' is in neither SCOPE nor OPTIONAL_SCOPE; add it to one of them.",
    ),
    "no address": Case(change=member("request_uri", None), code="authorization_failed", why=LACKS),
    "no life": Case(change=member("expires_in", 0), code="authorization_failed", why=LACKS),
    "no JSON": Case(
        change=raw(b"<html>"),
        code="authorization_failed",
        why="The answer of 'pds.example' is not valid JSON.",
    ),
    "too large": Case(
        change=raw(b"x" * 100_000),
        code="authorization_failed",
        why="The answer of 'pds.example' is larger than 65536 bytes or crumbled.",
    ),
    "no nonce": Case(
        change=nonce(),
        code="authorization_failed",
        why="The server takes DPoP proofs but gives no DPoP-Nonce (atproto OAuth: DPoP).",
        error="missing_dpop_nonce",
    ),
    "refused": Case(
        change=refused(401, error="invalid_client", error_description="no"),
        code="authorization_failed",
        why="The authorization server answered 401 invalid_client; see the log for its words.",
        error="invalid_client",
    ),
    "the scope refused": Case(
        change=refused(error="invalid_scope", error_description="no"),
        code="scope_refused",
        why=(
            "The authorization server answered 400 invalid_scope; it does not grant the scope that"
            " was asked for."
        ),
    ),
    "refused without a word": Case(
        change=refused(error=None),
        code="authorization_failed",
        why="The authorization server answered 400; see the log for its words.",
    ),
}


@pytest.mark.parametrize("case", STARTS.values(), ids=STARTS)
async def test_a_start_that_fails(case: Case) -> None:
    told: list[Event] = []
    change = honest_challenge(case.change) if case.change else None
    async with world(on_event=told.append) as here:
        with (
            here.network.alter("/oauth/par", change) if change else nullcontext(),
            pytest.raises(LoginError) as caught,
        ):
            await here.oauth.authorize_redirect(
                CONNECTION,
                "alice.test",
                prompt=case.start.get("prompt"),
                scope=case.start.get("scope"),
            )

    assert (caught.value.code, str(caught.value)) == (case.code, case.why)
    error = caught.value.error if isinstance(caught.value, AuthorizationFailed) else None
    assert error == case.error
    assert told[-1].name == "login.failed"
    assert told[-1].fields == {"error": case.code, "why": case.why}
    assert [event.name for event in told[:-1]] == (
        ["login.refused_by_server"] if "answered" in case.why else []
    )


async def test_a_refusal_is_told_in_the_servers_words() -> None:
    told: list[Event] = []
    async with world(on_event=told.append) as here:
        with here.network.alter("/oauth/par", refused(401, error="x", error_description="Nø\n")):
            await here.begin()

    assert told[0].name == "login.refused_by_server"
    assert told[0].fields == {"status": 401, "error": "x", "words": "'N\\xf8 '"}


async def test_a_server_that_is_away_at_the_start() -> None:
    async with world() as here:
        await here.login()
        # Who it is, and where, is remembered.
        with here.network.outage(), pytest.raises(PDSUnreachable) as caught:
            await here.oauth.authorize_redirect(CONNECTION, "alice.test")

        assert str(caught.value) == "The app gave no complete answer."
        assert caught.value.identifier == here.network.host.origin


@pytest.mark.parametrize(
    ("status", "error", "said"), [(429, "slow_down", "429 slow_down"), (503, None, "503")]
)
async def test_a_server_in_trouble_at_the_start(status: int, error: str | None, said: str) -> None:
    async with world() as here:
        with (
            here.network.alter("/oauth/par", refused(status, error=error)),
            pytest.raises(PDSUnreachable) as caught,
        ):
            await here.oauth.authorize_redirect(CONNECTION, "alice.test")

    words = f"The authorization server answered {said}; it may do so in a moment."
    assert (str(caught.value), caught.value.identifier) == (words, "pds.example")


async def test_a_start_that_succeeds() -> None:
    told: list[Event] = []
    async with world(on_event=told.append) as here:
        issuer = here.network.host.origin
        for typed, did in (("alice.test", here.did()), (issuer, None)):
            await here.begin(typed)

            assert told[-1].name == "login.begun"
            assert told[-1].fields == {"did": did, "issuer": issuer}


ENDS = {
    "another issuer": Case(
        query={"iss": "https://evil.example"},
        code="issuer_mismatch",
        why="The callback's iss is not the issuer this login began with.",
    ),
    "an error": Case(
        query={"error": "server_error"},
        code="authorization_failed",
        why="The authorization server answered server_error.",
    ),
    "no, in whatever words": Case(
        query={"error": "access_denied", "error_description": "No"},
        code="cancelled",
        why="Signing in was cancelled.",
    ),
    "no, it came too late": Case(
        query={"error": "access_denied", "error_description": "The request EXPIRED"},
        code="expired",
        why="This sign-in took too long and has expired. Please start again.",
    ),
    "no to the scope": Case(
        query={"error": "access_denied", "error_description": "Scope refused"},
        code="scope_refused",
        why="The account's server did not grant the permissions this site asked for.",
    ),
    "an error that is none": Case(
        query={"error": "<script>"},
        code="authorization_failed",
        why="The authorization server answered an unknown error.",
    ),
    "refused": Case(
        change=refused(401, error="invalid_grant", error_description="no"),
        code="authorization_failed",
        why="The authorization server answered 401 invalid_grant; see the log for its words.",
    ),
    "no JSON": Case(
        change=raw(b"<html>"),
        code="authorization_failed",
        why="The answer of 'pds.example' is not valid JSON.",
    ),
    "too large": Case(
        change=raw(b"x" * 100_000),
        code="authorization_failed",
        why="The answer of 'pds.example' is larger than 65536 bytes or crumbled.",
    ),
    "no nonce": Case(
        change=nonce(),
        code="authorization_failed",
        why="The server takes DPoP proofs but gives no DPoP-Nonce (atproto OAuth: DPoP).",
    ),
    "no token": Case(
        change=member("access_token", None),
        code="authorization_failed",
        why="The token response has no access_token; report this to the server's operator.",
    ),
}


@pytest.mark.parametrize("case", ENDS.values(), ids=ENDS)
async def test_an_end_that_fails(case: Case) -> None:
    told: list[Event] = []
    async with world(on_event=told.append) as here:
        callback = httpx.URL(await here.approved()).copy_merge_params(case.query)
        told.clear()
        change = honest_challenge(case.change) if case.change else None
        with here.network.alter("/oauth/token", change) if change else nullcontext():
            answer = await here.browser.get(callback)
        await here.settled()

        # The page leads back to where the person was.
        link = here.oauth.login_url(next=f"{BASE_URL}", identifier="alice.test")
        assert f'href="{escape(link)}">Try again</a>' in answer.text
    (failed,) = [event for event in told if event.name == "login.failed"]
    assert failed.fields == {"error": case.code, "why": case.why}


async def test_a_server_that_is_away_at_the_end() -> None:
    told: list[Event] = []
    async with world(on_event=told.append) as here:
        callback = await here.approved()
        with here.network.outage():
            await here.browser.get(callback)

    assert told[-1].fields == {
        "error": "pds_unreachable",
        "why": "The app gave no complete answer.",
    }


@pytest.mark.parametrize("base_url", [BASE_URL, f"{BASE_URL}/moved"])
async def test_an_end_in_an_app_that_was_set_up_anew(base_url: str) -> None:
    old, new = (ClientKeys(json.loads(generate_client_keys())) for _ in range(2))
    store, network, told = FaultyStore(), Network(), list[Event]()
    async with world(network, store=store, client_keys=old) as before:
        callback = await before.approved()
        jar = list(before.browser.cookies.jar)
    async with world(
        network, store=store, base_url=base_url, client_keys=new, on_event=told.append
    ) as after:
        await after.browser.get(
            callback.replace(BASE_URL, base_url),
            headers={"cookie": "; ".join(f"{one.name}={one.value}" for one in jar)},
        )

    moved = "The client_id has changed since this login began; start again."
    key = (
        f"The session is bound to the client key “{old.signing_kid}”, which CLIENT_KEYS lacks;"
        " put the key back, or let the person sign in again."
    )
    (failed,) = [event for event in told if event.name == "login.failed"]
    assert failed.fields == {"error": "expired", "why": key if base_url == BASE_URL else moved}


@pytest.mark.spec("K5")
@pytest.mark.parametrize("start", ["alice.test", "https://pds.example"])
async def test_the_revocation_of_refused_tokens_is_told_with_who_was_named(start: str) -> None:
    told: list[Event] = []
    async with world(on_event=told.append) as here:
        begun = await here.begin(start)
        callback = here.network.approve(begun.headers["location"], "alice.test")
        with here.network.alter("/oauth/token", honest_challenge(member("token_type", "Bearer"))):
            await here.browser.get(callback)
        await here.settled()

        did = here.did() if start == "alice.test" else "unknown"
        (done,) = [event for event in told if event.name == "revocation.done"]
        assert done.fields == {"did": did, "issuer": "https://pds.example"}


async def test_a_page_about_nobodys_callback_leads_to_an_empty_form() -> None:
    async with world() as here:
        answer = await here.browser.get("/oauth/callback?state=x")

        assert f'href="{BASE_URL}/oauth/login">Try again</a>' in answer.text
