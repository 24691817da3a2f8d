"""What an app made once, and gives to many people, is left as it is."""

from __future__ import annotations

import pytest
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Message, Receive, Scope, Send

from atproto_oauth_asgi import ATProtoOAuth, ATProtoOAuthMiddleware, Login, session_or_none
from tests.app.faulty_store import FaultyStore
from tests.app.test_answers import placed
from tests.app.world import BASE_URL, world

pytestmark = pytest.mark.anyio


@pytest.mark.spec("Q4")
async def test_a_response_of_on_login_gets_nobodys_cookie() -> None:
    done: list[str] = []
    welcome = RedirectResponse(
        "/welcome",
        headers={"cache-control": "public", "x-app": "1", "set-cookie": "seen=1"},
        background=BackgroundTask(done.append, "done"),
    )
    before = list(welcome.raw_headers)

    async def on_login(_: Login) -> Response:
        return welcome

    async with world(on_login=on_login) as here:
        answers = [await here.login("alice.test")]
        async with here.another_browser() as other:
            begun = await other.post(
                "/oauth/login", data={"identifier": "bob.test"}, headers={"origin": BASE_URL}
            )
            callback = here.network.approve(begun.headers["location"], "bob.test")
            answers.append(await other.get(callback))

        for answer in answers:
            assert (answer.status_code, answer.headers["location"]) == (307, "/welcome")
            assert answer.headers["x-app"] == "1"
            assert answer.headers.get_list("cache-control") == ["no-store"]
            assert answer.headers["referrer-policy"] == "no-referrer"
            first, second = answer.headers.get_list("set-cookie")
            assert first == "seen=1"
            assert second.startswith(f"{here.oauth.cookies.session}=")
        assert len({answer.headers.get_list("set-cookie")[1] for answer in answers}) == 2
        assert welcome.raw_headers == before
        assert done == ["done"] * 2


async def test_what_is_no_response_is_a_mistake_and_makes_no_session() -> None:
    async def on_login(_: Login) -> Response:
        return {"go": "/welcome"}  # type: ignore[return-value]  # the mistake

    store = FaultyStore()
    async with world(store=store, on_login=on_login) as here:
        with pytest.raises(TypeError, match=r"on_login returned a dict; let it return None or a"):
            await here.login()
        await here.settled()
        assert not store.sessions
        assert not here.network.sessions()


@pytest.mark.spec("Q8")
async def test_a_message_that_is_sent_again_and_again_does_not_grow() -> None:
    start: Message = {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"vary", b"Accept"), (b"Vary", b"HX-Request")],
    }

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session_or_none(Request(scope))
        await send(start)
        await send({"type": "http.response.body", "body": b""})

    async with placed(lambda oauth: ATProtoOAuthMiddleware(app, oauth=oauth)) as here:
        for _ in range(2):
            answer = await here.browser.get("/")
            # In one line: some middleware looks at the first only.
            assert answer.headers.get_list("vary") == ["Accept, HX-Request, Cookie"]
        assert start["headers"] == [(b"vary", b"Accept"), (b"Vary", b"HX-Request")]


async def test_an_app_inside_may_have_a_state_of_its_own() -> None:
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(session_or_none(Request({**scope, "state": {"mine": 1}})))
        await Response()(scope, receive, send)

    def make(oauth: ATProtoOAuth) -> ATProtoOAuthMiddleware:
        return ATProtoOAuthMiddleware(app, oauth=oauth)

    async with placed(make) as here:
        await here.browser.get("/")
        await here.login()
        await here.browser.get("/")
        assert [bool(one) for one in seen] == [False, True]
