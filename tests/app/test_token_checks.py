from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import anyio
import pytest

from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.testing.web import Answer
from tests.app.faulty_store import FaultyStore
from tests.app.world import World, world
from tests.virtual_time import in_virtual_time

pytestmark = pytest.mark.anyio


def success(change: Callable[[Answer], Answer]) -> Callable[[Answer], Answer]:
    return lambda answer: change(answer) if answer.status == 200 else answer


async def login_with(
    here: World, change: Callable[[Answer], Answer], identifier: str = "alice.test"
) -> tuple[int, str]:
    """Log in while the token endpoint's answers are changed; return status and page."""
    callback = await here.approved(identifier)
    with here.network.alter("/oauth/token", success(change)):
        back = await here.browser.get(callback)
    assert here.cookie is None
    return back.status_code, back.text


@pytest.mark.spec("H3", "K5")
@pytest.mark.parametrize("token_type", ["Bearer", "bearer", "", "DPoP2", None, 1])
async def test_tokens_that_are_not_bound_are_refused_and_revoked(token_type: object) -> None:
    async with world() as here:
        status, page = await login_with(
            here, lambda answer: answer.with_json(token_type=token_type)
        )

        assert status == 502
        assert "refused the sign-in" in page
        assert await here.revoked()


@pytest.mark.spec("H3")
@pytest.mark.parametrize("token_type", ["DPoP", "dpop", "DPOP"])
async def test_the_token_types_case_does_not_matter(token_type: str) -> None:
    async with world() as here:
        callback = await here.approved()
        with here.network.alter(
            "/oauth/token", success(lambda answer: answer.with_json(token_type=token_type))
        ):
            assert (await here.browser.get(callback)).status_code == 303


@pytest.mark.spec("H4", "K5", "M1")
@pytest.mark.parametrize(
    "scope", [None, "", "transition:generic", "atprotox", "Atproto", ["atproto"]]
)
async def test_a_grant_without_atproto_is_refused_and_revoked(scope: object) -> None:
    async with world() as here:
        status, page = await login_with(here, lambda answer: answer.with_json(scope=scope))

        assert status == 400
        assert "did not grant the permissions" in page
        assert await here.revoked()


@pytest.mark.spec("H4", "H10")
async def test_the_granted_scope_counts_and_not_the_one_asked_for() -> None:
    async with world(scope="atproto repo:app.bsky.feed.post blob:image/*") as here:
        begun = await here.begin()
        back = await here.browser.get(
            here.network.approve(begun.headers["location"], "alice.test", scope="atproto")
        )
        answer = await here.browser.get("/oauth/session")

        assert back.status_code == 303
        assert answer.json()["scopes"] == ["atproto"]


@pytest.mark.spec("H10", "H4")
async def test_a_permission_set_comes_back_in_other_words() -> None:
    network = Network()
    network.add_permission_set("app.birdsong.basic", ["repo:app.birdsong.song"])
    async with world(network, scope="atproto include:app.birdsong.basic") as here:
        assert (await here.login()).status_code == 303
        async with here.oauth.session_for(here.did(), scopes="repo:app.birdsong.song") as session:
            assert session.scopes == {"atproto", "repo:app.birdsong.song"}


@pytest.mark.spec("H5", "K5")
@pytest.mark.parametrize(
    "sub", [None, "", "alice.test", "did:key:zQ3sh", "did:web:a.dev:path", "did:plc:short", 7]
)
@pytest.mark.parametrize("start", ["alice.test", "{pds}"])
async def test_a_sub_that_is_no_account_is_refused_and_revoked(sub: object, start: str) -> None:
    async with world() as here:
        begun = await here.begin(start.format(pds=here.network.host.origin))
        callback = here.network.approve(begun.headers["location"], "alice.test")
        with here.network.alter("/oauth/token", success(lambda answer: answer.with_json(sub=sub))):
            back = await here.browser.get(callback)

        assert back.status_code == 400
        assert "different account" in back.text
        assert await here.revoked()


@pytest.mark.spec("H6", "K5")
async def test_another_account_than_the_one_entered_is_refused_and_revoked() -> None:
    async with world() as here:
        begun = await here.begin("alice.test")
        back = await here.browser.get(here.network.approve(begun.headers["location"], "bob.test"))

        assert back.status_code == 400
        assert "a different account" in back.text
        assert await here.revoked()


@pytest.mark.spec("H7", "P10", "K5")
@pytest.mark.parametrize("start", ["server", "handle"])
async def test_a_server_cannot_give_tokens_for_an_account_that_lives_elsewhere(start: str) -> None:
    network = Network()
    evil = network.add_host("https://evil.example")
    network.add_account("mallory.test", host=evil)
    async with world(network) as here:
        begun = await here.begin(evil.origin if start == "server" else "mallory.test")
        callback = network.approve(begun.headers["location"], "mallory.test")
        with network.alter(
            "/oauth/token", success(lambda answer: answer.with_json(sub=here.did("alice.test")))
        ):
            back = await here.browser.get(callback)

        assert back.status_code == 400
        assert "a different account" in back.text
        assert here.cookie is None
        assert await here.revoked()
        # Its own account is welcome all the same.
        assert (await here.login(evil.origin, "mallory.test")).status_code == 303


@pytest.mark.spec("H7", "A18", "N3", "K5")
async def test_an_account_that_moved_in_mid_login_is_seen() -> None:
    network = Network()
    other = network.add_host("https://pds2.example")
    async with world(network) as here:
        callback = await here.approved()
        network.move_account("alice.test", other)
        back = await here.browser.get(callback)

        assert back.status_code == 400
        assert here.cookie is None
        assert await here.revoked()


@pytest.mark.spec("H7", "K5")
async def test_an_account_that_cannot_be_looked_up_after_the_exchange_is_refused_and_revoked() -> (
    None
):
    async with world() as here:
        callback = await here.approved()
        with here.network.outage(here.network.plc.origin):
            back = await here.browser.get(callback)

        assert back.status_code == 503
        assert "could not be looked up right now" in back.text
        assert await here.revoked()


@pytest.mark.spec("I13", "K5")
async def test_tokens_without_a_nonce_are_refused_and_revoked() -> None:
    async with world() as here:
        status, _ = await login_with(here, lambda answer: answer.with_header("dpop-nonce", None))

        assert status == 502
        assert await here.revoked()


@pytest.mark.spec("H2", "K5")
@pytest.mark.parametrize("token", [None, "", 1, "with space", "with\nline", "\u00e9", "x" * 40_000])
async def test_an_access_token_that_is_none_is_refused_and_the_grant_revoked(
    token: object,
) -> None:
    async with world() as here:
        status, _ = await login_with(here, lambda answer: answer.with_json(access_token=token))

        assert status == 502
        assert await here.revoked()


@pytest.mark.spec("H8")
@pytest.mark.parametrize("expires_in", [None, 3600, 0.5, -5, 10**12, "soon"])
async def test_unknown_members_and_odd_lifetimes_are_borne(expires_in: object) -> None:
    async with world() as here:
        callback = await here.approved()
        with here.network.alter(
            "/oauth/token",
            success(lambda answer: answer.with_json(expires_in=expires_in, new={"a": [1]})),
        ):
            back = await here.browser.get(callback)

        assert back.status_code == 303
        assert await here.who() == here.did()


@pytest.mark.spec("H9")
def test_a_session_without_refresh_token_ends_with_its_access_token() -> None:
    async def run() -> None:
        async with world() as here:
            callback = await here.approved()
            with here.network.alter(
                "/oauth/token",
                success(lambda answer: answer.with_json(refresh_token=None, expires_in=1)),
            ):
                back = await here.browser.get(callback)
            works = await here.browser.get("/me")
            await anyio.sleep(1.01)
            over = await here.browser.get("/me")

            assert back.status_code == 303
            assert works.status_code == 200
            assert (over.status_code, over.json()["error"]) == (401, "session_revoked")
            assert await here.who() is None
            assert not here.network.token_requests("refresh_token")

    in_virtual_time(run)


@pytest.mark.spec("H11", "K5")
async def test_tokens_that_cannot_be_stored_are_revoked() -> None:
    store = FaultyStore("create_session")
    async with world(store=store) as here:
        callback = await here.approved()
        back = await here.browser.get(callback)

        assert back.status_code == 503
        assert "set-cookie" not in back.headers
        assert await here.revoked()


@pytest.mark.spec("K5")
async def test_the_page_of_a_refused_login_does_not_wait_for_a_revocation_that_hangs() -> None:
    async with world() as here:
        callback = await here.approved()
        with ExitStack() as stack:
            stack.enter_context(
                here.network.alter(
                    "/oauth/token", success(lambda answer: answer.with_json(token_type="Bearer"))
                )
            )
            async with here.network.hold("/oauth/revoke") as pause:
                back = await here.browser.get(callback)
                await pause.arrived()

        assert back.status_code == 502
        assert await here.revoked()


@pytest.mark.spec("K5", "B13")
async def test_a_server_without_revocation_endpoint_is_no_trouble() -> None:
    network = Network()
    with network.alter(
        "/.well-known/oauth-authorization-server",
        lambda answer: answer.with_json(revocation_endpoint=None),
    ):
        async with world(network) as here:
            status, _ = await login_with(here, lambda answer: answer.with_json(scope=""))
            await here.settled()

            assert status == 400
            assert not network.log.of("revoke")


@pytest.mark.spec("H2")
@pytest.mark.parametrize("status", [201, 204, 302])
async def test_only_200_is_a_success(status: int) -> None:
    async with world() as here:
        assert (await login_with(here, lambda answer: replace(answer, status=status)))[0] == 502
