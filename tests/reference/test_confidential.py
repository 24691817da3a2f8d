"""A confidential client: `private_key_jwt` over TLS, and keys that come and go."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from html import escape
from http.cookiejar import CookieJar
from pathlib import Path

import pytest
from joserfc.jwk import ECKey

from atproto_oauth_asgi import ClientKeys
from atproto_oauth_asgi.errors import InteractionRequired
from atproto_oauth_asgi.keys import generate_client_keys
from atproto_oauth_asgi.net_policy import NetPolicy
from atproto_oauth_asgi_migrations import migrate_empty
from tests.reference.conftest import ReferenceFactory
from tests.reference.network import ReferenceNetwork
from tests.reference.rows import Rows
from tests.reference.tls import CLIENT_HOST, LoopbackTransport, ThrowawayCA, TLSSite
from tests.reference.user import HttpUser
from tests.reference.world import World, grant_of, refused_refresh, world

pytestmark = pytest.mark.anyio

ALICE = "alice.test"

PrivateJWK = dict[str, str]


def new_key() -> PrivateJWK:
    keys: list[PrivateJWK] = json.loads(generate_client_keys())["keys"]
    return keys[0]


class Deployment:
    """One app at one https address, started with these or those keys."""

    def __init__(
        self, network: ReferenceNetwork, ca: ThrowawayCA, site: TLSSite, rows: Rows
    ) -> None:
        self.network = network
        self.rows = rows
        self.site = site
        self._ca = ca
        network.control.clear_log()

    @asynccontextmanager
    async def running(
        self, *keys: PrivateJWK, cookies: CookieJar | None = None
    ) -> AsyncGenerator[World]:
        policy = NetPolicy(
            allow_insecure_loopback=True,
            ports=None,
            plc_url=self.network.plc,
            any_client_id=True,
        )
        async with (
            world(
                self.network,
                base_url=self.site.origin,
                store_url=self.rows.store_url,
                cookies=cookies,
                transport=LoopbackTransport(self._ca),
                client_keys=ClientKeys({"keys": list(keys)}),
                secret_keys=(b"k" * 32,),
                net_policy=policy,
            ) as here,
            self.site.serve(here.app),
        ):
            yield here

    def kids(self, path: str, grant_type: str | None = None) -> list[str | None]:
        """Return the keys of the requests that the server granted."""
        return [
            entry.kid
            for entry in self.network.control.log(grant_type=grant_type)
            if entry.path == path and entry.status in {200, 201}
        ]


@pytest.fixture
async def deployment(
    reference_factory: ReferenceFactory, throwaway_ca: ThrowawayCA, tmp_path: Path
) -> AsyncGenerator[Deployment]:
    network = reference_factory(
        map_hosts=(CLIENT_HOST,), ca_file=throwaway_ca.file, no_client_cache=True
    )
    rows = Rows(tmp_path / "app.db")
    # Only on loopback does the app do this by itself.
    await migrate_empty(rows.store_url)
    with TLSSite(throwaway_ca) as site:
        yield Deployment(network, throwaway_ca, site, rows)


async def test_a_confidential_client_logs_in_refreshes_and_logs_out(
    deployment: Deployment,
) -> None:
    key = new_key()
    alice = deployment.network.account(ALICE).did
    async with deployment.running(key) as first:
        back = await first.login(next="/who")
        assert back.headers["location"] == f"{deployment.site.origin}/who"
        assert {cookie.name for cookie in first.browser.cookies.jar} == {
            "__Host-atproto-oauth",
            "__Host-atproto-oauth-login",
        }
        before = await grant_of(first, alice)
    deployment.rows.token_life(-1)
    async with deployment.running(key, cookies=first.browser.cookies.jar) as here:
        answer = await here.browser.get("/me")
        grant = await grant_of(here, alice)
        out = await here.logout()
        gone = await here.browser.get("/me")
        client_key = ECKey.import_key(dict(key))
        refused = await refused_refresh(grant, client_key=client_key)

    assert answer.json()["did"] == alice
    assert grant.refresh_token != before.refresh_token
    assert (out.status_code, gone.status_code) == (303, 401)
    assert refused == "invalid_grant"
    kid = key["kid"]
    assert deployment.kids("/oauth/par") == [kid]
    assert deployment.kids("/oauth/token", "authorization_code") == [kid]
    assert deployment.kids("/oauth/token", "refresh_token") == [kid]
    assert deployment.kids("/oauth/revoke") == [kid]
    assert deployment.rows.session()["client_kid"] == kid


async def test_a_session_keeps_its_key_after_a_newer_one_is_put_first(
    deployment: Deployment,
) -> None:
    old, new = new_key(), new_key()
    async with deployment.running(old) as first:
        await first.login()
    deployment.rows.token_life(-1)
    async with deployment.running(new, old, cookies=first.browser.cookies.jar) as here:
        kept = await here.browser.get("/me")
        here.browser.cookies.clear()
        await here.login()
        fresh = await here.browser.get("/me")

    assert (kept.status_code, fresh.status_code) == (200, 200)
    assert deployment.kids("/oauth/token", "refresh_token") == [old["kid"]]
    assert deployment.kids("/oauth/token", "authorization_code") == [old["kid"], new["kid"]]


async def test_a_session_whose_key_was_removed_waits_for_it_unspent(
    deployment: Deployment,
) -> None:
    old, new = new_key(), new_key()
    async with deployment.running(old) as first:
        await first.login()
    cookies = first.browser.cookies.jar
    deployment.rows.token_life(-1)
    async with deployment.running(new, cookies=cookies) as here:
        without = await here.browser.get("/me")
        seen = (await here.browser.get("/oauth/session")).json()
    assert without.status_code == 401
    assert [account["reason"] for account in seen["accounts"]] == ["key_removed"]
    assert deployment.network.control.refreshes() == []

    async with deployment.running(new, old, cookies=cookies) as here:
        put_back = await here.browser.get("/me")
    assert put_back.status_code == 200


async def test_a_login_begun_with_the_old_key_is_finished_with_it(deployment: Deployment) -> None:
    old, new = new_key(), new_key()
    async with deployment.running(old) as first:
        callback = await first.approved()
    async with deployment.running(new, old, cookies=first.browser.cookies.jar) as here:
        assert (await here.browser.get(callback)).status_code == 303
        assert (await here.browser.get("/me")).status_code == 200

    assert deployment.kids("/oauth/token", "authorization_code") == [old["kid"]]


async def test_a_silent_login_needs_a_person_who_is_not_remembered(deployment: Deployment) -> None:
    async with deployment.running(new_key()) as here:
        begun = await here.begin(prompt="none")
        async with HttpUser() as person:
            page = await person.open(begun.headers["location"])
        back = await here.browser.get(page.headers["location"])

    assert escape(InteractionRequired.sentence) in back.text


async def test_a_remembered_person_logs_in_without_a_page(deployment: Deployment) -> None:
    alice = deployment.network.account(ALICE)
    async with deployment.running(new_key()) as here, HttpUser() as person:
        begun = await here.begin()
        back = await person.approve(begun.headers["location"], ALICE, alice.password, remember=True)
        await here.browser.get(back)
        await here.logout()
        begun = await here.begin(prompt="none")
        page = await person.open(begun.headers["location"])
        await here.browser.get(page.headers["location"])

        assert await here.did() == alice.did
