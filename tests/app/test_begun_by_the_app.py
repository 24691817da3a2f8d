"""A login that an app's own page begins, and that cannot: the answer is the error's own."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from atproto_oauth_asgi import ATProtoOAuth, ATProtoOAuthMiddleware
from atproto_oauth_asgi.errors import TooManyLogins
from atproto_oauth_asgi.testing import Network
from tests.app.test_answers import Make, placed
from tests.app.world import PAGE

pytestmark = pytest.mark.anyio


def app_of(oauth: ATProtoOAuth) -> Starlette:
    async def begin(request: Request) -> Response:
        return await oauth.authorize_redirect(request, request.query_params["who"])

    return Starlette(routes=[Route("/begin", begin)])


def wrapped(oauth: ATProtoOAuth) -> ATProtoOAuthMiddleware:
    return ATProtoOAuthMiddleware(app_of(oauth), oauth=oauth)


def added(oauth: ATProtoOAuth) -> Starlette:
    app = app_of(oauth)
    app.add_middleware(ATProtoOAuthMiddleware, oauth=oauth)
    return app


@pytest.mark.parametrize("make", [wrapped, added])
@pytest.mark.parametrize(
    ("who", "status", "code"),
    [
        ("nobody.test", 400, "handle_not_found"),
        ("garbage!!", 400, "invalid_identifier"),
        ("https://10.0.0.1", 400, "address_refused"),
    ],
)
@pytest.mark.parametrize("page", [True, False])
async def test_an_account_that_is_none(
    make: Make, who: str, status: int, code: str, page: bool
) -> None:
    async with placed(make) as here:
        headers = PAGE if page else {}
        answer = await here.browser.get("/begin", params={"who": who}, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (status, code)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("make", [wrapped, added])
async def test_too_many_logins_say_when_to_come_back(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with placed(make) as here:

        async def limit(*_: object) -> None:
            raise TooManyLogins(retry_after=17)

        monkeypatch.setattr(here.oauth, "_limit_logins", limit)
        answer = await here.browser.get("/begin?who=alice.test")
        assert (answer.status_code, answer.json()["error"]) == (429, "too_many_logins")
        assert answer.headers["retry-after"] == "17"


@pytest.mark.parametrize("make", [wrapped, added])
async def test_a_server_that_refuses(make: Make) -> None:
    async with placed(make) as here:
        network: Network = here.network
        with network.outage():
            answer = await here.browser.get("/begin?who=alice.test")
        assert (answer.status_code, answer.json()["error"]) == (502, "pds_unreachable")
        assert answer.headers["retry-after"] == "5"
