from __future__ import annotations

import asyncio
import logging
from typing import cast

import httpx
import pytest
from fastapi import HTTPException as FastAPIException
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from atproto_oauth_asgi import ATProtoOAuth, ATProtoOAuthError, Event, Login, LoginRefused
from tests.app.faulty_store import FaultyStore
from tests.app.world import BASE_URL, PAGE, world

pytestmark = pytest.mark.anyio


async def test_the_app_files_the_person_by_did_before_there_is_a_session() -> None:
    store, users = FaultyStore(), dict[str, Login]()

    async def upsert(login: Login) -> None:
        assert not store.sessions
        users[login.did] = login

    async with world(store=store, on_login=upsert) as here:
        back = await here.login(next="/who?a=b")

        assert back.headers["location"] == f"{BASE_URL}/who?a=b"
        login = users[here.did()]
        assert login.handle == "alice.test"
        assert login.next == f"{BASE_URL}/who?a=b"
        assert login.data is None
        assert login.request.url.path == "/oauth/callback"
        assert login.session.pds == here.network.host.origin


async def test_its_session_can_be_used_already_and_afterwards() -> None:
    seen: list[dict[str, object]] = []
    logins: list[Login] = []

    async def look(login: Login) -> None:
        logins.append(login)
        seen.append(await login.session.query("com.atproto.server.getSession"))

    async with world(on_login=look) as here:
        await here.login()
        seen.append(await logins[0].session.query("com.atproto.server.getSession"))

        assert [one["handle"] for one in seen] == ["alice.test", "alice.test"]


async def test_it_may_answer_itself_and_the_cookie_is_set_all_the_same() -> None:
    async def onboard(login: Login) -> Response:
        response = RedirectResponse(f"/welcome/{login.handle}", status_code=302)
        response.set_cookie("seen", "1")
        return response

    async with world(on_login=onboard) as here:
        back = await here.login()

        assert (back.status_code, back.headers["location"]) == (302, "/welcome/alice.test")
        assert len(back.headers.get_list("set-cookie")) == 2
        assert back.headers["referrer-policy"] == "no-referrer"
        assert back.headers["cache-control"] == "no-store"
        assert await here.who() == here.did()


@pytest.mark.spec("K5", "G6")
async def test_it_may_turn_somebody_away_with_a_sentence() -> None:
    async def refuse(_: Login) -> None:
        raise LoginRefused("Only <birds> may come in.")

    async with world(on_login=refuse) as here:
        back = await here.login()

        assert back.status_code == 403
        assert "Only &lt;birds&gt; may come in." in back.text
        assert here.cookie is None
        assert await here.revoked()


@pytest.mark.spec("K5")
@pytest.mark.parametrize("login_page", [None, "/sign-in"])
@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (HTTPException(418, "No <teapots>."), "No <teapots>."),
        (HTTPException(303, headers={"location": "/closed"}), "See Other"),
        (HTTPException(429, headers={"retry-after": "60"}), "Too Many Requests"),
        (FastAPIException(402, {"plan": "none"}), '{"detail":{"plan":"none"}}'),
        (HTTPException(204), ""),
    ],
)
async def test_an_http_exception_in_it_is_the_apps_own_answer(
    answer: HTTPException, body: str, login_page: str | None
) -> None:
    async def refuse(_: Login) -> None:
        raise answer

    told: list[Event] = []
    async with world(on_login=refuse, login_page=login_page, on_event=told.append) as here:
        callback = await here.approved()
        back = await here.browser.get(callback, headers=PAGE)

        assert (back.status_code, back.text) == (answer.status_code, body)
        assert (answer.headers or {}).items() <= dict(back.headers).items()
        assert back.headers["referrer-policy"] == "no-referrer"
        assert back.headers["cache-control"] == "no-store"
        assert here.cookie is None
        assert await here.revoked()
        # It is no defect, whoever watches the log for those.
        failed = [event for event in told if event.level >= logging.WARNING]
        assert [event.name for event in failed] == ["login.failed"]
        why = f"The app's on_login answered {answer.status_code}."
        assert dict(failed[0].fields) == {"error": "login_refused", "why": why}
        # It is given once; a reload is told that the app said no.
        again = await here.browser.get(callback, headers=PAGE)
        if login_page is None:
            assert again.status_code == 403
        else:
            assert "error=login_refused" in again.headers["location"]


@pytest.mark.spec("K5")
async def test_a_defect_in_it_ends_the_login_and_leaves_no_tokens() -> None:
    async def broken(_: Login) -> None:
        raise ZeroDivisionError

    async with world(on_login=broken) as here:
        callback = await here.approved()
        with pytest.raises(ZeroDivisionError):
            await here.browser.get(callback)
        again = await here.browser.get(callback)

        assert again.status_code == 400
        assert "Signing in did not work" in again.text
        assert here.cookie is None
        assert await here.revoked()


@pytest.mark.spec("K5")
async def test_an_error_of_ours_in_it_is_shown_like_any_other() -> None:
    async def fails(login: Login) -> None:
        await login.session.query("com.atproto.server.noSuchMethod")

    async with world(on_login=fails) as here:
        back = await here.login()

        assert back.status_code == 502
        assert "refused the request" in back.text
        assert await here.revoked()


async def test_a_shutdown_in_the_middle_of_it_leaves_no_tokens_and_no_cookie() -> None:
    entered, never = asyncio.Event(), asyncio.Event()

    async def hangs(_: Login) -> None:
        entered.set()
        await never.wait()

    async with world(on_login=hangs) as here:
        callback = await here.approved()
        request = asyncio.create_task(here.browser.get(callback))
        await entered.wait()
        for task in here.oauth.runtime().tasks.running():
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

        assert here.cookie is None
        assert await here.revoked()


@pytest.mark.spec("E5", "E10")
async def test_data_of_the_app_comes_back_and_is_sealed_meanwhile() -> None:
    store, got = FaultyStore(), list[object]()
    secret = {"invite": "w-1234", "list": [1, {"a": None}], "umlaut": "\u00fc"}

    async def remember(login: Login) -> None:
        got.append(login.data)

    async def start(request: Request) -> Response:
        oauth = cast("ATProtoOAuth", request.app.state.oauth)
        return await oauth.authorize_redirect(request, "alice.test", next="/who", data=secret)

    app = Starlette(routes=[Route("/start", start, methods=["POST"])])
    async with world(store=store, app=app, on_login=remember) as here:
        app.state.oauth = here.oauth
        begun = await here.browser.post("/start")
        request = here.pushed(begun.headers["location"])
        callback = here.network.approve(begun.headers["location"], "alice.test")
        stored = [row.sealed or b"" for row in store.attempts]
        back = await here.browser.get(callback)

        assert begun.status_code == 303
        assert back.headers["location"] == f"{BASE_URL}/who"
        assert got == [secret]
        assert not any(b"w-1234" in row for row in stored)
        assert "w-1234" not in f"{request.parameters}{httpx.URL(callback)}"


@pytest.mark.parametrize(
    ("identifier", "scope", "prompt", "code"),
    [
        ("nobody.test", None, None, "handle_not_found"),
        ("alice.test", "atproto transition:generic", None, "scope_refused"),
        ("alice.test", None, "maybe", "login_failed"),
    ],
)
async def test_authorize_redirect_raises_typed_errors(
    identifier: str, scope: str | None, prompt: str | None, code: str
) -> None:
    async with world() as here:
        request = Request(
            {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}
        )
        with pytest.raises(ATProtoOAuthError) as caught:
            await here.oauth.authorize_redirect(request, identifier, scope=scope, prompt=prompt)

        assert caught.value.code == code


async def test_authorize_redirect_keeps_the_browsers_secret_and_next_within_the_site() -> None:
    async def start(request: Request) -> Response:
        oauth = cast("ATProtoOAuth", request.app.state.oauth)
        return await oauth.authorize_redirect(
            request, "alice.test", next="https://evil.example/", add=True, prompt="login"
        )

    app = Starlette(routes=[Route("/start", start, methods=["POST"])])
    async with world(app=app) as here:
        app.state.oauth = here.oauth
        first = await here.browser.post("/start")
        secret = here.browser.cookies[here.oauth.cookies.login]
        second = await here.browser.post("/start")
        back = await here.browser.get(here.network.approve(first.headers["location"], "alice.test"))

        assert here.browser.cookies[here.oauth.cookies.login] == secret
        assert "Max-Age=1800" in second.headers["set-cookie"]
        assert back.headers["location"] == BASE_URL
