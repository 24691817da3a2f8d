from __future__ import annotations

from typing import cast

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from atproto_oauth_asgi import ATProtoOAuth
from atproto_oauth_asgi.errors import NoSession
from atproto_oauth_asgi.testing import Network
from tests.app.faulty_store import FaultyStore
from tests.app.world import BASE_URL, PAGE, SCRIPT, World, make_app, world

pytestmark = pytest.mark.anyio


def oauth_of(request: Request) -> ATProtoOAuth:
    return cast("ATProtoOAuth", request.app.state.oauth)


async def accounts(request: Request) -> Response:
    listed = await oauth_of(request).sessions(request)
    return JSONResponse([[one.did, one.handle, one.active, one.reason] for one in listed])


async def switch(request: Request) -> Response:
    try:
        await oauth_of(request).switch(request, request.query_params["did"])
    except NoSession as exc:
        return JSONResponse({"error": exc.code}, status_code=409)
    return Response(status_code=204)


def accounts_app() -> Starlette:
    app = make_app()
    app.router.routes += [
        Route("/accounts", accounts),
        Route("/switch", switch, methods=["POST"]),
    ]
    return app


async def listed(here: World) -> list[list[object]]:
    answer = await here.browser.get("/accounts")
    found: list[list[object]] = answer.json()
    return found


async def switch_to(here: World, did: str) -> int:
    answer = await here.browser.post(f"/switch?did={did}", headers={"origin": BASE_URL})
    return answer.status_code


@pytest.mark.spec("G9", "K6")
async def test_a_second_login_replaces_the_first_and_revokes_it() -> None:
    app = accounts_app()
    async with world(app=app) as here:
        app.state.oauth = here.oauth
        await here.login("alice.test")
        before = here.cookie
        await here.login("bob.test")
        await here.settled()

        assert here.cookie != before
        assert await here.who() == here.did("bob.test")
        assert await listed(here) == [[here.did("bob.test"), "bob.test", True, None]]
        assert [one.did for one in here.network.sessions()] == [here.did("bob.test")]


async def test_a_second_login_started_with_add_joins_the_first() -> None:
    app = accounts_app()
    async with world(app=app) as here:
        app.state.oauth = here.oauth
        await here.login("alice.test")
        await here.login("bob.test", add="1")
        alice, bob = here.did("alice.test"), here.did("bob.test")

        assert await here.who() == bob
        assert await listed(here) == [
            [bob, "bob.test", True, None],
            [alice, "alice.test", False, None],
        ]
        assert len(here.network.sessions()) == 2


async def test_the_same_account_is_never_listed_twice() -> None:
    app = accounts_app()
    async with world(app=app) as here:
        app.state.oauth = here.oauth
        await here.login("alice.test")
        await here.login("alice.test", add="1")
        await here.settled()

        assert [one[0] for one in await listed(here)] == [here.did()]
        assert len(here.network.sessions()) == 1


async def test_a_login_without_add_replaces_only_the_active_account() -> None:
    network = Network(("alice.test", "bob.test", "carol.test"))
    app = accounts_app()
    async with world(network, app=app) as here:
        app.state.oauth = here.oauth
        await here.login("alice.test")
        await here.login("bob.test", add="1")
        await here.login("carol.test")

        assert [one[1] for one in await listed(here)] == ["carol.test", "alice.test"]


@pytest.mark.spec("K6", "A19")
async def test_two_browsers_of_one_account_do_not_disturb_each_other() -> None:
    async with world() as here:
        await here.login("alice.test")
        async with here.another_browser() as other:
            begun = await other.post(
                "/oauth/login", data={"identifier": "alice.test"}, headers={"origin": BASE_URL}
            )
            await other.get(here.network.approve(begun.headers["location"], "alice.test"))
            await here.settled()

            assert len(here.network.sessions()) == 2
            await here.logout()
            assert await here.who() is None
            assert (await other.get("/me")).json()["handle"] == "alice.test"


async def test_switching_makes_another_account_the_active_one_at_once() -> None:
    app = accounts_app()
    async with world(app=app) as here:
        app.state.oauth = here.oauth
        await here.login("alice.test")
        await here.login("bob.test", add="1")

        assert await switch_to(here, here.did("alice.test")) == 204
        script = await here.browser.get("/who", headers=SCRIPT)
        assert script.json()["did"] == here.did("alice.test")
        assert (await here.browser.get("/me")).json()["handle"] == "alice.test"


async def test_nobody_switches_to_an_account_of_another_browser() -> None:
    app = accounts_app()
    async with world(app=app) as here:
        app.state.oauth = here.oauth
        await here.login("alice.test")
        async with here.another_browser() as other:
            begun = await other.post(
                "/oauth/login", data={"identifier": "bob.test"}, headers={"origin": BASE_URL}
            )
            await other.get(here.network.approve(begun.headers["location"], "bob.test"))

            assert await switch_to(here, here.did("bob.test")) == 409
            anonymous = await here.another_browser().post(f"/switch?did={here.did()}")
            assert anonymous.status_code == 409
        assert await here.who() == here.did("alice.test")


async def test_logging_out_leaves_the_other_accounts_signed_in() -> None:
    app = accounts_app()
    async with world(app=app) as here:
        app.state.oauth = here.oauth
        await here.login("alice.test")
        await here.login("bob.test", add="1")
        first = await here.logout()
        middle = await here.who()
        last = await here.logout()

        assert "set-cookie" not in first.headers
        assert middle == here.did("alice.test")
        assert "Max-Age=0" in last.headers["set-cookie"]
        assert here.cookie is None
        assert await here.who() is None
        assert not here.network.sessions()


@pytest.mark.spec("N3")
async def test_an_account_that_needs_a_new_login_is_listed_with_its_reason_and_not_attached() -> (
    None
):
    network, app, store = Network(), accounts_app(), FaultyStore()
    other = network.add_host("https://pds2.example")
    async with world(network, app=app, store=store) as here:
        app.state.oauth = here.oauth
        await here.login("alice.test")
        store.allow_refresh()
        network.move_account("alice.test", other)
        network.expire_access_tokens()
        lost = await here.browser.get("/me", headers=SCRIPT)
        await here.settled()

        assert (lost.status_code, lost.json()["error"]) == (401, "session_revoked")
        assert await here.who() is None
        assert await listed(here) == [[here.did(), "alice.test", True, "reauth_required"]]
        session = (await here.browser.get("/oauth/session")).json()
        assert session["authenticated"] is False
        assert session["accounts"][0]["reason"] == "reauth_required"
        assert await switch_to(here, here.did()) == 409
        # A new login at the new server mends it.
        assert (await here.login("alice.test")).status_code == 303
        assert await listed(here) == [[here.did(), "alice.test", True, None]]


@pytest.mark.spec("J10")
async def test_sessions_of_another_client_id_are_listed_and_come_back_with_it() -> None:
    store, network = FaultyStore(), Network()
    async with world(network, store=store, prefix="/oauth") as before:
        await before.login()
        cookie = before.cookie
    async with world(network, store=store, base_url="https://other.birdsong.dev") as moved:
        moved.browser.cookies.set(moved.oauth.cookies.session, cookie or "")
        session = (await moved.browser.get("/oauth/session")).json()

        assert session["authenticated"] is False
        assert session["accounts"][0]["reason"] == "client_changed"
        assert not network.log.of("revoke")
    async with world(network, store=store) as again:
        again.browser.cookies.set(again.oauth.cookies.session, cookie or "")

        assert (await again.browser.get("/me", headers=PAGE)).status_code == 200


async def test_sessions_needs_a_store_that_answers() -> None:
    from atproto_oauth_asgi.errors import StoreUnavailable

    store, app = FaultyStore(), accounts_app()
    async with world(store=store, app=app) as here:
        app.state.oauth = here.oauth
        await here.login()
        store.failing = frozenset({"list_sessions"})
        answer = await here.browser.get("/accounts")

        assert (answer.status_code, answer.json()["error"]) == (503, StoreUnavailable.code)
