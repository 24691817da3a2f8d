"""An app round which the middleware sits, the embedded network, and a browser made of httpx."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Unpack
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from atproto_oauth_asgi import (
    ATProtoOAuth,
    ATProtoOAuthMiddleware,
    OAuthSession,
    session_from,
    session_or_none,
)
from atproto_oauth_asgi.core import OnLogin
from atproto_oauth_asgi.environment import SettingsOptions
from atproto_oauth_asgi.handles import HandleResolver
from atproto_oauth_asgi.instrumentation import OnEvent
from atproto_oauth_asgi.live import LiveSession
from atproto_oauth_asgi.login_limit import LimitLogins
from atproto_oauth_asgi.oauth import Refresh
from atproto_oauth_asgi.refresh_timing import RefreshTiming
from atproto_oauth_asgi.store import Store
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.testing.authorization_requests import AuthorizationRequest

BASE_URL = "https://app.birdsong.dev"
#: What a browser says when the person opens a page.
PAGE = {"accept": "text/html", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
#: What it says when a script of the page asks.
SCRIPT = {"accept": "application/json", "sec-fetch-mode": "cors", "sec-fetch-site": "same-origin"}

#: The defaults, a fiftieth as long.
QUICK = RefreshTiming(
    lease=0.4,
    marked_lease=1.5,
    mark_to_send=0.1,
    verify=2.0,
    post=1.2,
    late_answer=0.1,
    commit_try=0.2,
    commit_again=0.02,
    watch=0.2,
    poll_longest=0.02,
    drain=0.04,
    wait=3.0,
)


async def me(request: Request) -> Response:
    session = session_from(request)
    return JSONResponse(await session.query("com.atproto.server.getSession"))


async def who(request: Request) -> Response:
    session = session_or_none(request)
    return JSONResponse({"did": session.did if session else None})


def make_app() -> Starlette:
    return Starlette(
        routes=[
            Route("/me", me),
            Route("/who", who, methods=["GET", "POST"]),
        ]
    )


def live_of(session: OAuthSession) -> LiveSession:
    """Return what the process knows of a session, its tokens with it."""
    return session._live  # pyright: ignore[reportPrivateUsage]


def changed(callback: str, **parameters: str | None) -> str:
    """Return a callback URL with parameters replaced, or left out for None."""
    url = httpx.URL(callback)
    kept = {**dict(url.params), **parameters}
    given = {name: value for name, value in kept.items() if value is not None}
    return str(url.copy_with(query=urlencode(given).encode()))


@dataclass
class World:
    network: Network
    oauth: ATProtoOAuth
    app: ASGIApp
    browser: httpx.AsyncClient
    extra: dict[str, object] = field(default_factory=dict[str, object])

    async def begin(self, identifier: str = "alice.test", **form: str) -> httpx.Response:
        """Post the login form, as our own page does."""
        return await self.browser.post(
            "/oauth/login",
            data={"identifier": identifier, **form},
            headers={"origin": self.origin, "accept": "text/html"},
        )

    async def login(
        self, identifier: str = "alice.test", account: str | None = None, **form: str
    ) -> httpx.Response:
        """Log in and return the answer of the callback."""
        begun = await self.begin(identifier, **form)
        assert begun.status_code == 303, begun.text
        back = self.network.approve(begun.headers["location"], account or identifier)
        return await self.browser.get(back)

    async def logout(self) -> httpx.Response:
        return await self.browser.post("/oauth/logout", headers={"origin": self.origin})

    async def approved(self, identifier: str = "alice.test", **form: str) -> str:
        """Begin a login and approve it; return the callback URL, not opened yet."""
        begun = await self.begin(identifier, **form)
        assert begun.status_code == 303, begun.text
        return self.network.approve(begun.headers["location"], identifier)

    def pushed(self, authorize_url: str) -> AuthorizationRequest:
        """Return what was pushed to the authorization server of an authorization URL."""
        query = {
            name: values[0] for name, values in parse_qs(urlsplit(authorize_url).query).items()
        }
        for host in self.network.hosts:
            if authorize_url.startswith(f"{host.origin}/"):
                requests = host.authorization_server.requests
                return requests.open(query["request_uri"], query["client_id"])
        raise AssertionError("not an authorization URL of this network")

    async def settled(self) -> None:
        """Wait until nothing goes on in the background any more."""
        async with asyncio.timeout(10):
            while tasks := self.oauth.runtime().tasks.running():
                await asyncio.wait(tasks)

    async def revoked(self) -> bool:
        """Say whether every token that was given out has been revoked, by our own request."""
        await self.settled()
        revocations = self.network.log.of("revoke")
        return not self.network.sessions() and any(one.session_id for one in revocations)

    async def who(self, **headers: str) -> str | None:
        """Return the DID that a page of the app sees."""
        answer = await self.browser.get("/who", headers={**PAGE, **headers})
        assert answer.status_code == 200, answer.text
        did: str | None = answer.json()["did"]
        return did

    def did(self, identifier: str = "alice.test") -> str:
        return self.network.account(identifier).did

    @property
    def cookie(self) -> str | None:
        """Return the session cookie that the browser holds."""
        return self.browser.cookies.get(self.oauth.cookies.session)

    @property
    def origin(self) -> str:
        return self.oauth.settings.origin

    def another_browser(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url=self.oauth.settings.base_url
        )


@asynccontextmanager
async def world(
    network: Network | None = None,
    *,
    app: ASGIApp | None = None,
    base_url: str = BASE_URL,
    store: Store | str = "memory://",
    on_login: OnLogin | None = None,
    on_event: OnEvent | None = None,
    limit_logins: LimitLogins | None = None,
    handle_resolver: HandleResolver | None = None,
    timing: RefreshTiming = QUICK,
    owned: bool = True,
    cross_site_sessions: bool = False,
    refresh: Refresh = "on_request",
    **settings: Unpack[SettingsOptions],
) -> AsyncGenerator[World, None]:
    """Open an app with the middleware round it; `owned=False` leaves the lifespan out."""
    network = network or Network()
    settings.setdefault("net_policy", network.policy())
    settings.setdefault("secret_keys", (b"k" * 32,))
    oauth = ATProtoOAuth(
        base_url,
        store=store,
        on_login=on_login,
        on_event=on_event,
        limit_logins=limit_logins,
        handle_resolver=handle_resolver,
        timing=timing,
        cross_site_sessions=cross_site_sessions,
        refresh=refresh,
        **settings,
    )
    wrapped = ATProtoOAuthMiddleware(app or make_app(), oauth=oauth)
    network.register_client_app(oauth.settings.origin, wrapped)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(wrapped), base_url=base_url
    ) as browser:
        here = World(network, oauth, wrapped, browser)
        if owned:
            async with oauth:
                yield here
        else:
            yield here
