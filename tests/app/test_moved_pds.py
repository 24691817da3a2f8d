"""An account that moves to another PDS of the same authorization server, between two calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import pytest

from atproto_oauth_asgi import OAuthSession
from atproto_oauth_asgi.errors import AddressRefused, RefreshFailed
from atproto_oauth_asgi.testing import Network
from tests.app.faulty_store import FaultyStore
from tests.app.world import PAGE, World, live_of, world

pytestmark = [pytest.mark.anyio, pytest.mark.spec("N2")]

SESSION = "/xrpc/com.atproto.server.getSession"
SCOPE = "atproto repo:app.bsky.feed.post blob:image/*"


@asynccontextmanager
async def moved(
    *, scope: str = "atproto", idle: bool = False, at_once: bool = True
) -> AsyncGenerator[tuple[World, OAuthSession]]:
    """Give a session that knows its old PDS and has a token for it alone.

    It has a nonce of that PDS too, but for one that was `idle`. Where not `at_once`, it is to be
    moved by the test.
    """
    network = Network(entryway=True)
    store = FaultyStore()
    async with world(network, store=store, scope=scope) as here:
        await here.login()
        async with here.oauth.session_for(here.did()) as session:
            if not idle:
                await session.get(SESSION)
            if at_once:
                move(here)
            network.log.clear()
            yield here, session


def move(here: World) -> None:
    network = here.network
    network.move_account("alice.test", network.add_host(entryway=network.entryway))
    network.expire_access_tokens()
    store = here.oauth.core.store
    assert isinstance(store, FaultyStore)
    store.allow_refresh()


@pytest.mark.parametrize("idle", [False, True])
async def test_the_call_that_finds_out_goes_on_at_the_new_pds(idle: bool) -> None:
    async with moved(idle=idle) as (here, session):
        new = here.network.hosts[-1].origin
        assert session.pds != new
        found = await session.query("com.atproto.server.getSession")

        assert found["did"] == here.did()
        assert session.pds == new
        assert len(here.network.token_requests("refresh_token")) == 1


async def test_a_page_that_finds_out_is_shown() -> None:
    async with moved() as (here, _):
        answer = await here.browser.get("/me", headers=PAGE)

        assert (answer.status_code, answer.json()["did"]) == (200, here.did())


async def test_a_url_of_the_old_pds_is_followed_with_its_query() -> None:
    async with moved() as (here, session):
        answer = await session.get(f"{session.pds}{SESSION}", params={"a": "b c"})

        assert answer.status_code == 200
        assert str(answer.url) == f"{here.network.hosts[-1].origin}{SESSION}?a=b+c"


async def test_bodies_come_along(subtests: pytest.Subtests) -> None:
    async def chunks() -> AsyncGenerator[bytes]:
        yield b"\x89PNG"

    with subtests.test("JSON"):
        async with moved(scope=SCOPE) as (here, session):
            made = await session.procedure(
                "com.atproto.repo.createRecord",
                {
                    "repo": here.did(),
                    "collection": "app.bsky.feed.post",
                    "record": {"text": "hello", "createdAt": "2026-01-01T00:00:00Z"},
                },
            )
            assert str(made["uri"]).startswith(f"at://{here.did()}/app.bsky.feed.post/")
    with subtests.test("a stream"):
        async with moved(scope=SCOPE) as (here, session):
            headers = {"content-type": "image/png", "content-length": "4"}
            answer = await session.post(
                "/xrpc/com.atproto.repo.uploadBlob", content=chunks(), headers=headers
            )
            assert answer.status_code == 200
            assert answer.url.host == httpx.URL(here.network.hosts[-1].origin).host


async def test_a_url_that_the_app_wrote_is_asked_for_again() -> None:
    async with moved() as (here, session):
        old = session.pds
        apps = httpx.ASGITransport(here.network.host.app)
        async with httpx.AsyncClient(transport=apps) as client:
            with pytest.raises(RefreshFailed, match="has just moved to another server") as caught:
                await client.get(f"{old}{SESSION}", auth=session.auth)

            assert (caught.value.headers or {})["retry-after"] == "5"
            apps.app = here.network.hosts[-1].app
            again = await client.get(f"{session.pds}{SESSION}", auth=session.auth)
            assert again.status_code == 200


async def test_a_url_that_the_app_wrote_is_asked_for_again_where_the_token_had_run_out() -> None:
    async with moved() as (here, session):
        live_of(session).access_expires = live_of(session).refresh_at = 0.0
        old = session.pds
        apps = httpx.ASGITransport(here.network.host.app)
        async with httpx.AsyncClient(transport=apps) as client:
            with pytest.raises(RefreshFailed, match="has just moved to another server"):
                await client.get(f"{old}{SESSION}", auth=session.auth)
            with pytest.raises(AddressRefused):
                await client.get(f"{old}{SESSION}", auth=session.auth)
        assert here.network.log.of("xrpc") == []


async def test_what_the_old_pds_has_done_is_told_though_another_call_has_found_out() -> None:
    async with moved(scope=SCOPE, at_once=False) as (here, session):
        network, record = here.network, "/xrpc/com.atproto.repo.createRecord"
        async with network.hold(record, when="after") as pause:
            writing = asyncio.create_task(
                session.procedure(
                    "com.atproto.repo.createRecord",
                    {
                        "repo": here.did(),
                        "collection": "app.bsky.feed.post",
                        "record": {"text": "hello", "createdAt": "2026-01-01T00:00:00Z"},
                    },
                )
            )
            await pause.arrived()
            move(here)
            await session.get(SESSION)
            assert session.pds == network.hosts[-1].origin
            pause.release()
            made = await writing

        assert str(made["uri"]).startswith(f"at://{here.did()}/")


async def test_a_new_pds_may_ask_for_a_nonce_though_the_old_one_did() -> None:
    async with moved(idle=True, at_once=False) as (here, session):
        async with here.network.hold(SESSION, when="after") as pause:
            call = asyncio.create_task(session.get(SESSION))
            await pause.arrived()
            move(here)
            # Meanwhile another worker has refreshed, and its row is seen.
            async with (
                world(here.network, store=here.oauth.core.store) as other,
                other.oauth.session_for(here.did()) as theirs,
            ):
                live_of(theirs).access_expires = live_of(theirs).refresh_at = 0.0
                await other.oauth.runtime().upkeep.ready(live_of(theirs), replayable=True)
            record = await here.oauth.core.store.load_session(session.id)
            assert record is not None
            live_of(session).adopt(record)
            assert session.pds == here.network.hosts[-1].origin
            pause.release()
            answer = await call

        assert answer.status_code == 200


async def test_a_call_that_finds_out_after_another_goes_on_too() -> None:
    async with moved() as (here, session):
        new = here.network.hosts[-1].origin
        async with here.network.hold(SESSION, when="after") as pause:
            first = asyncio.create_task(session.get(SESSION))
            second = asyncio.create_task(session.get(SESSION))
            await pause.arrived(2)
            pause.release(1)
            # The answer of the one that goes on at the new PDS.
            await pause.arrived(3)
            assert session.pds == new
            pause.release()
            answers = [await first, await second]

        assert [answer.status_code for answer in answers] == [200, 200]
        assert {f"https://{answer.url.host}" for answer in answers} == {new}
