"""An app on the loopback client, the real PDS, and a browser made of httpx with its person."""

from __future__ import annotations

import contextlib
import http.cookiejar
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Unpack

import anyio
import httpx
from joserfc.jwk import ECKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from atproto_oauth_asgi import (
    ATProtoOAuth,
    ATProtoOAuthError,
    ATProtoOAuthMiddleware,
    OAuthSession,
    error_response,
    session_from,
)
from atproto_oauth_asgi.core import OnLogin
from atproto_oauth_asgi.environment import SettingsOptions
from atproto_oauth_asgi.identifiers import Handle
from atproto_oauth_asgi.refresh_timing import RefreshTiming
from tests.app.world import me, who
from tests.reference.network import ReferenceNetwork
from tests.reference.raw import RawClient
from tests.reference.user import HttpUser

BASE_URL = "http://127.0.0.1:8000"
SCOPE = "atproto transition:generic"
POST = "app.bsky.feed.post"


class Handles:
    """Knows the handles of some networks, which are in no DNS."""

    def __init__(self, networks: Sequence[ReferenceNetwork]) -> None:
        self._networks = networks

    async def resolve_handle(self, handle: Handle, /) -> str | None:
        found = (network.handle_hosts.get(handle) for network in self._networks)
        return next((did for did in found if did is not None), None)


async def post(request: Request) -> Response:
    session = session_from(request)
    record = {"$type": POST, "text": "hello", "createdAt": "2025-01-01T00:00:00.000Z"}
    data = {"repo": session.did, "collection": POST, "record": record}
    return JSONResponse(await session.procedure("com.atproto.repo.createRecord", data))


async def blob(request: Request) -> Response:
    """Upload a body that is read first, or pass it on while it arrives."""
    session = session_from(request)
    kind = request.headers["content-type"]
    if "stream" not in request.query_params:
        return JSONResponse(
            await session.procedure(
                "com.atproto.repo.uploadBlob", await request.body(), content_type=kind
            )
        )
    answer = await session.post(
        "/xrpc/com.atproto.repo.uploadBlob",
        content=request.stream(),
        headers={"content-type": kind},
    )
    return Response(answer.content, answer.status_code, media_type="application/json")


def make_app() -> Starlette:
    return Starlette(
        routes=[
            Route("/me", me),
            Route("/who", who),
            Route("/post", post, methods=["POST"]),
            Route("/blob", blob, methods=["POST"]),
        ],
        # What only the app can judge, such as a PDS that is away, it may leave to us.
        exception_handlers={ATProtoOAuthError: error_response},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One answer of the PDS that the library got, also those the app never saw."""

    path: str
    status: int
    #: OAuth error that the answer challenges with.
    challenge: str | None
    nonce: str | None
    #: When, by the monotonic clock.
    at: float


@dataclass
class World:
    network: ReferenceNetwork
    oauth: ATProtoOAuth
    app: ASGIApp
    browser: httpx.AsyncClient
    heard: list[Heard] = field(default_factory=list[Heard])

    async def begin(self, identifier: str = "alice.test", **form: str) -> httpx.Response:
        """Post the login form, as our own page does."""
        return await self.browser.post(
            "/oauth/login",
            data={"identifier": identifier, **form},
            headers={"origin": self.oauth.settings.origin, "accept": "text/html"},
        )

    async def approved(
        self,
        identifier: str = "alice.test",
        *,
        account: str | None = None,
        consent: str | None = None,
        **form: str,
    ) -> str:
        """Begin a login, let the person say yes, and return the callback nobody opened yet."""
        begun = await self.begin(identifier, **form)
        assert begun.status_code == 303, begun.text
        who_signs_in = account or identifier
        password = self.network.accounts[0].password
        async with HttpUser() as person:
            return await person.approve(
                begun.headers["location"], who_signs_in, password, scope=consent
            )

    async def login(
        self,
        identifier: str = "alice.test",
        *,
        account: str | None = None,
        consent: str | None = None,
        **form: str,
    ) -> httpx.Response:
        """Log in and return the answer of the callback."""
        back = await self.approved(identifier, account=account, consent=consent, **form)
        return await self.browser.get(back)

    async def logout(self) -> httpx.Response:
        return await self.browser.post(
            "/oauth/logout", headers={"origin": self.oauth.settings.origin}
        )

    async def did(self) -> str | None:
        """Return who the app says is signed in."""
        answer = await self.browser.get("/who", headers={"sec-fetch-mode": "navigate"})
        did: str | None = answer.json()["did"]
        return did

    def another_browser(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url=self.oauth.settings.base_url
        )

    def listen(self) -> None:
        """Note in `heard` what every PDS answers to the library from now on."""

        async def note(response: httpx.Response) -> None:
            header = response.headers.get("www-authenticate", "")
            challenge = header.partition('error="')[2].partition('"')[0] or None
            self.heard.append(
                Heard(
                    path=response.url.path,
                    status=response.status_code,
                    challenge=challenge,
                    nonce=response.headers.get("dpop-nonce"),
                    at=time.monotonic(),
                )
            )

        self.heard.clear()
        self.oauth.runtime().net.client.event_hooks = {"request": [], "response": [note]}


@asynccontextmanager
async def world(
    network: ReferenceNetwork,
    *,
    networks: Sequence[ReferenceNetwork] = (),
    base_url: str = BASE_URL,
    cookies: http.cookiejar.CookieJar | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    on_login: OnLogin | None = None,
    timing: RefreshTiming | None = None,
    owned: bool = True,
    **settings: Unpack[SettingsOptions],
) -> AsyncGenerator[World, None]:
    """Open an app whose people are on `network`; `cookies` are of a browser that was here before.

    A second `world` on the same `store_url` is the app after a restart. `owned=False` is a server
    without lifespan: nothing of the library outlives a request.
    """
    if "net_policy" not in settings:
        settings.setdefault("allow_insecure_loopback", True)
        settings.setdefault("plc_url", network.plc)
    settings.setdefault("scope", SCOPE)
    settings.setdefault("store_url", "memory://")
    oauth = ATProtoOAuth(
        base_url,
        on_login=on_login,
        handle_resolver=(
            None if "handle_resolver_url" in settings else Handles([network, *networks])
        ),
        timing=timing,
        **settings,
    )
    app = ATProtoOAuthMiddleware(make_app(), oauth=oauth)
    async with (
        oauth if owned else contextlib.nullcontext(),
        httpx.AsyncClient(
            transport=transport or httpx.ASGITransport(app),
            base_url=base_url,
            cookies=cookies,
            timeout=30,
        ) as browser,
    ):
        try:
            yield World(network, oauth, app, browser)
        finally:
            if not owned:
                await oauth.runtime().aclose()


class Grant:
    """What a session's tokens were, to be tried at the servers without the library."""

    def __init__(self, here: World, session: OAuthSession) -> None:
        live = session._live  # pyright: ignore[reportPrivateUsage]  # tokens are nowhere else
        self.refresh_token = live.tokens.refresh_token or ""
        self.access_token = live.tokens.access_token
        self._network = here.network
        self._client_id = here.oauth.core.client.client_id
        self._dpop_key = ECKey.import_key(live.key.to_der())

    def __repr__(self) -> str:
        return "Grant(hidden)"

    def raw(self, *, client_key: ECKey | None = None) -> RawClient:
        """Return a client that has nothing in common with the library but the keys."""
        return RawClient(
            self._network,
            client_id=self._client_id,
            client_key=client_key,
            dpop_key=self._dpop_key,
        )


async def grant_of(here: World, did: str) -> Grant:
    async with here.oauth.session_for(did) as session:
        return Grant(here, session)


async def refused_refresh(grant: Grant, *, client_key: ECKey | None = None) -> str | None:
    """Use a refresh token for good and return how the server refuses it, or None when it works."""
    async with grant.raw(client_key=client_key) as raw:
        answer = await raw.refresh(grant.refresh_token)
    error: str | None = answer.json().get("error")
    return error


async def until(check: Callable[[], bool], *, seconds: float = 15) -> None:
    """Wait for something that happens in the background."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not happen"
        await anyio.sleep(0.02)
