"""Whom a login can begin with, and what for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from atproto_oauth_asgi.testing import Network
from tests.app.world import SCRIPT, world

pytestmark = pytest.mark.anyio

SCOPE = "atproto repo:app.bsky.feed.post"
OPTIONAL = "blob:image/*"


async def test_a_person_logs_in_and_the_app_acts_for_them() -> None:
    async with world() as here:
        back = await here.login()
        answer = await here.browser.get("/me")

        assert back.status_code == 303
        assert back.headers["location"] == "https://app.birdsong.dev"
        assert answer.json()["handle"] == "alice.test"


@pytest.mark.spec("A20")
@pytest.mark.parametrize("start", ["handle", "did", "pds"])
async def test_a_login_starts_from_a_handle_a_did_or_a_servers_address(start: str) -> None:
    async with world() as here:
        identifier = {
            "handle": "alice.test",
            "did": here.did(),
            "pds": here.network.host.origin,
        }[start]
        back = await here.login(identifier, "alice.test")

        assert back.status_code == 303
        assert await here.who() == here.did()


@pytest.mark.spec("A20", "I19")
async def test_a_login_starts_from_the_address_of_an_authorization_server_that_is_no_pds() -> None:
    network = Network()
    server, pds = network.host, network.add_host("https://pds2.example")
    carol = network.add_account("carol.test", host=pds)
    server.accounts.add(carol)

    resource = network.alter(
        "/.well-known/oauth-protected-resource",
        lambda answer: (
            answer.with_json(authorization_servers=[server.origin])
            if answer.json()["resource"] == pds.origin
            else replace(answer, status=404)
        ),
    )
    metadata = network.alter(
        "/.well-known/oauth-authorization-server",
        lambda answer: answer.with_json(protected_resources=None),
    )
    with resource, metadata:
        async with world(network) as here:
            by_server = await here.login(server.origin, "carol.test")
            by_handle = await here.login("carol.test")
            async with here.oauth.session_for(carol.did) as session:
                assert (session.issuer, session.pds) == (server.origin, pds.origin)

            assert (by_server.status_code, by_handle.status_code) == (303, 303)
            assert await here.who() == carol.did


@pytest.mark.spec("A2")
@pytest.mark.parametrize(
    "typed",
    [
        "@alice.test",
        "  Alice.Test ",
        "alice.test\u200b",
        "\u202aalice.test\u202c",
        "at://alice.test",
        "at://alice.test/app.bsky.feed.post/3k",
        "https://bsky.app/profile/alice.test",
        "\uff41lice\uff0etest",
    ],
)
async def test_what_people_really_type_is_understood(typed: str) -> None:
    async with world() as here:
        assert (await here.login(typed, "alice.test")).status_code == 303


@pytest.mark.parametrize(
    "typed", ["", " ", "alice", "alice@mail.test", "did:plc:", "https://a.test/x", "x" * 5000]
)
async def test_what_cannot_be_an_account_is_said_and_nobody_is_asked(typed: str) -> None:
    async with world() as here:
        answer = await here.begin(typed)

        assert answer.status_code == 400
        assert 'role="alert"' in answer.text
        assert not len(here.network.log)


async def test_in_development_a_server_may_be_typed_with_http() -> None:
    async with world(base_url="http://127.0.0.1:8000", allow_insecure_loopback=True) as here:
        begun = await here.browser.post(
            "/oauth/login", json={"identifier": "http://127.0.0.1:1"}, headers=SCRIPT
        )

        assert begun.json()["error"] != "invalid_identifier"


@pytest.mark.spec("E6", "A20")
async def test_a_login_from_a_servers_address_gives_no_hint() -> None:
    async with world() as here:
        begun = await here.begin(here.network.host.origin)

        assert "login_hint" not in here.pushed(begun.headers["location"]).parameters


@pytest.mark.parametrize("scope", [SCOPE, f"atproto {OPTIONAL}", f"{SCOPE} {OPTIONAL}", "atproto"])
async def test_a_login_asks_for_any_of_the_declared_scopes(scope: str) -> None:
    async with world(scope=SCOPE, optional_scope=OPTIONAL) as here:
        begun = await here.begin(scope=scope)

        assert here.pushed(begun.headers["location"]).parameters["scope"] == scope


@pytest.mark.spec("E2", "M2", "M1")
@pytest.mark.parametrize(
    "scope",
    [
        "atproto transition:generic",
        OPTIONAL,
        "repo:app.bsky.feed.post",
        "atproto atproto",
        "atproto rpc:*?aud=*",
    ],
)
async def test_a_scope_that_is_not_declared_is_refused_before_anybody_is_asked(scope: str) -> None:
    async with world(scope=SCOPE, optional_scope=OPTIONAL) as here:
        page = await here.begin(scope=scope)
        script = await here.browser.post(
            "/oauth/login", json={"identifier": "alice.test", "scope": scope}, headers=SCRIPT
        )

        assert page.status_code == script.status_code == 400
        assert script.json()["error"] == "scope_refused"
        assert not here.network.log.of("par")


@pytest.mark.spec("E3", "E6")
async def test_prompt_is_passed_on_and_checked() -> None:
    async with world() as here:
        begun = await here.begin(prompt="login")
        create = await here.begin(prompt="create")
        before = len(here.network.log)
        refused = await here.begin(prompt="maybe")
        silent = await here.begin(prompt="none")

        assert here.pushed(begun.headers["location"]).parameters["prompt"] == "login"
        assert "login_hint" not in here.pushed(create.headers["location"]).parameters
        assert (refused.status_code, silent.status_code) == (400, 400)
        assert len(here.network.log) == before


async def test_a_form_that_is_too_large_or_no_form_is_refused() -> None:
    async with world() as here:
        headers = {"origin": here.origin}
        large = await here.browser.post(
            "/oauth/login", data={"identifier": "x" * 70_000}, headers=headers
        )
        broken = await here.browser.post(
            "/oauth/login",
            content=b"\xff\xfe",
            headers={**headers, "content-type": "application/x-www-form-urlencoded"},
        )
        lists = await here.browser.post("/oauth/login", json=["alice.test"], headers=headers)
        nested = await here.browser.post(
            "/oauth/login",
            content=b"[" * 60_000,
            headers={**headers, "content-type": "application/json"},
        )

        assert {large.status_code, broken.status_code, lists.status_code, nested.status_code} == {
            400
        }


@pytest.mark.spec("E6", "H6")
async def test_who_signs_up_comes_back_with_another_account_than_the_one_typed() -> None:
    async with world() as here:
        here.network.add_account("newcomer.test")
        begun = await here.begin(prompt="create")
        back = here.network.approve(begun.headers["location"], "newcomer.test")

        assert (await here.browser.get(back)).status_code == 303
        assert await here.who() == here.did("newcomer.test")
