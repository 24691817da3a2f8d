"""What becomes of sessions when the app's own keys change."""

from __future__ import annotations

import json

import pytest

from atproto_oauth_asgi.errors import NoSession
from atproto_oauth_asgi.keys import ClientKeys, generate_client_keys
from atproto_oauth_asgi.testing import Network
from tests.app.faulty_store import FaultyStore
from tests.app.wire import Tap
from tests.app.world import PAGE, World, world

pytestmark = pytest.mark.anyio

SESSION = "/xrpc/com.atproto.server.getSession"
TOKEN, REVOKE = "/oauth/token", "/oauth/revoke"


def key_set(*texts: str) -> ClientKeys:
    return ClientKeys({"keys": [json.loads(text)["keys"][0] for text in texts]})


async def refreshed(here: World, store: FaultyStore) -> None:
    """Let the session's token be refused, and see the session go on."""
    here.network.expire_access_tokens()
    store.allow_refresh()
    async with here.oauth.session_for(here.did()) as session:
        assert (await session.get(SESSION)).status_code == 200


@pytest.mark.spec("O2", "O3", "O5")
async def test_a_key_that_is_taken_away_takes_its_sessions_along_until_it_is_back() -> None:
    old, new = generate_client_keys(), generate_client_keys()
    store, network = FaultyStore(), Network()
    async with world(network, store=store, client_keys=key_set(old, new)) as here:
        await here.login()
        cookie = here.cookie or ""
    async with world(network, store=store, client_keys=key_set(new)) as here:
        here.browser.cookies.set(here.oauth.cookies.session, cookie)
        seen = (await here.browser.get("/oauth/session")).json()
        published = (await here.browser.get("/oauth/jwks.json")).json()["keys"]

        assert (await here.browser.get("/me")).status_code == 401
        assert seen["authenticated"] is False
        assert [account["reason"] for account in seen["accounts"]] == ["key_removed"]
        assert [key["kid"] for key in published] == [key_set(new).signing_kid]
        with pytest.raises(NoSession):
            async with here.oauth.session_for(here.did()):
                pass
    async with world(network, store=store, client_keys=key_set(new, old)) as here:
        here.browser.cookies.set(here.oauth.cookies.session, cookie)

        assert (await here.browser.get("/me", headers=PAGE)).status_code == 200


@pytest.mark.spec("O6", "E26")
async def test_sessions_outlive_the_change_to_a_confidential_client_and_keep_its_first_key() -> (
    None
):
    first, second = generate_client_keys(), generate_client_keys()
    store, network = FaultyStore(), Network()
    tap = Tap(network)
    async with world(network, store=store, net_policy=tap.policy()) as here:
        await here.login()
    for keys in (key_set(first), key_set(second, first)):
        network.forget_clients()
        async with world(network, store=store, client_keys=keys, net_policy=tap.policy()) as here:
            await refreshed(here, store)
    (row,) = store.sessions

    login, *renewals = tap.to(TOKEN)
    kid = key_set(first).signing_kid
    assert "client_assertion" not in login.form
    assert [one.assertion.header["kid"] for one in renewals] == [kid, kid]
    assert row.client_kid == kid
    assert len(network.sessions()) == 1


@pytest.mark.spec("O6", "K2")
async def test_a_session_from_before_the_change_can_be_logged_out_at_the_server() -> None:
    keys = key_set(generate_client_keys())
    store, network = FaultyStore(), Network()
    async with world(network, store=store) as here:
        await here.login()
        cookie = here.cookie or ""
    network.forget_clients()
    async with world(network, store=store, client_keys=keys) as here:
        here.browser.cookies.set(here.oauth.cookies.session, cookie)
        await here.logout()

        assert await here.revoked()


@pytest.mark.spec("O6")
async def test_a_login_under_way_outlives_the_change() -> None:
    keys = key_set(generate_client_keys())
    store, network = FaultyStore(), Network()
    async with world(network, store=store) as before:
        callback = await before.approved()
        cookies = before.browser.cookies
    network.forget_clients()
    async with world(network, store=store, client_keys=keys) as here:
        for cookie in cookies.jar:
            here.browser.cookies.set(cookie.name, cookie.value or "")
        back = await here.browser.get(callback)
        (row,) = store.sessions

        assert back.status_code == 303
        assert row.client_kid == keys.signing_kid
        await refreshed(here, store)


@pytest.mark.spec("O6")
async def test_sessions_of_a_confidential_client_are_kept_and_not_used_by_a_public_one() -> None:
    keys = key_set(generate_client_keys())
    store, network = FaultyStore(), Network()
    async with world(network, store=store, client_keys=keys) as here:
        await here.login()
        cookie = here.cookie or ""
    async with world(network, store=store) as here:
        here.browser.cookies.set(here.oauth.cookies.session, cookie)
        seen = (await here.browser.get("/oauth/session")).json()

        assert [account["reason"] for account in seen["accounts"]] == ["key_removed"]
        assert len(network.sessions()) == 1


@pytest.mark.spec("E10", "E26")
@pytest.mark.parametrize("account", ["alice.test", "bob.test"])
async def test_a_login_under_way_keeps_its_key_when_another_comes_first(account: str) -> None:
    old, new = generate_client_keys(), generate_client_keys()
    store, network = FaultyStore(), Network()
    tap = Tap(network)
    async with world(
        network, store=store, client_keys=key_set(old, new), net_policy=tap.policy()
    ) as before:
        begun = await before.begin("alice.test")
        callback = network.approve(begun.headers["location"], account)
        cookies = before.browser.cookies
    async with world(
        network, store=store, client_keys=key_set(new, old), net_policy=tap.policy()
    ) as here:
        for cookie in cookies.jar:
            here.browser.cookies.set(cookie.name, cookie.value or "")
        back = await here.browser.get(callback)
        # The wrong account's tokens are revoked, and with the same key.
        assert account == "alice.test" or await here.revoked()

    assert back.status_code == (303 if account == "alice.test" else 400)
    sent = tap.to(TOKEN) + tap.to(REVOKE)
    assert {one.assertion.header["kid"] for one in sent} == {key_set(old).signing_kid}
