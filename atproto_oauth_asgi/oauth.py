"""The app-wide object: configuration, store, keys, and the owner of every background task."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Literal, Self, Unpack, cast
from urllib.parse import urlencode
from weakref import WeakKeyDictionary

from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from atproto_oauth_asgi import embedded
from atproto_oauth_asgi.access import note_read, prepare
from atproto_oauth_asgi.cookies import Cookies, new_secret
from atproto_oauth_asgi.core import Core, OnLogin
from atproto_oauth_asgi.cross_site import may_attach
from atproto_oauth_asgi.environment import (
    SETTINGS,
    SettingsOptions,
    SettingsOverrides,
    read_environment,
)
from atproto_oauth_asgi.errors import (
    ATProtoOAuthError,
    CrossSiteRefused,
    NoSession,
    RequestError,
)
from atproto_oauth_asgi.footing import Footing
from atproto_oauth_asgi.handles import HandleResolver
from atproto_oauth_asgi.instrumentation import Events, OnEvent
from atproto_oauth_asgi.login import LoginRequest, begin_login
from atproto_oauth_asgi.login_limit import LimitLogins, LoginLimit
from atproto_oauth_asgi.net_policy import NetPolicy
from atproto_oauth_asgi.next_url import safe_next
from atproto_oauth_asgi.plugins import open_store
from atproto_oauth_asgi.refresh_timing import RefreshTiming
from atproto_oauth_asgi.routes import Routes
from atproto_oauth_asgi.runtime import Runtime
from atproto_oauth_asgi.scopes import covers, tokens
from atproto_oauth_asgi.session import OAuthSession
from atproto_oauth_asgi.sessions import Account, cookie_hash
from atproto_oauth_asgi.settings import Settings
from atproto_oauth_asgi.store import Store

#: When a refresh that is due starts: with the request, or with the session's first use.
Refresh = Literal["on_request", "on_use"]


class ATProtoOAuth:
    """Logs people in to one origin with their AT Protocol account, and keeps them logged in.

    It opens what it needs on first use. `async with oauth:`, or the lifespan that
    `ATProtoOAuthMiddleware` sees, makes it check the database at start, and drain at the end.

    Args:
        base_url: Public address of the app, the only source of `redirect_uri`, `client_id` and
            cookie security. `http://127.0.0.1:PORT` is the development client.
        store: A `Store` of the app's own, instead of STORE_URL; a URL works too.
        on_login: Is awaited after all checks and before the session exists; may return its own
            response, or turn the person away with `LoginRefused` or an `HTTPException`.
        on_event: Is called with each `Event` of docs/events.md, in the middle of requests; what
            it raises goes no further than the log.
        limit_logins: Is awaited with the connection and what was typed before a login is begun;
            refuses with `TooManyLogins`. Without it a `LoginLimit` of this process does.
        handle_resolver: Is asked for handles instead of DNS and HTTPS.
        refresh: When a refresh that is due starts.
        cross_site_sessions: Attach sessions to unsafe cross-site requests too; the app then needs
            CSRF defences of its own.
        timing: The times of a refresh, for tests.
        **settings: Every other setting of `Settings`, by its name.

    Raises:
        ConfigurationError: One sentence that says which setting is wrong, why, and the mend.
    """

    def __init__(
        self,
        base_url: str,
        *,
        store: Store | str | None = None,
        on_login: OnLogin | None = None,
        on_event: OnEvent | None = None,
        limit_logins: LimitLogins | None = None,
        handle_resolver: HandleResolver | None = None,
        refresh: Refresh = "on_request",
        cross_site_sessions: bool = False,
        timing: RefreshTiming | None = None,
        **settings: Unpack[SettingsOptions],
    ) -> None:
        if isinstance(store, str):
            settings["store_url"], store = store, None
        self.settings = Settings(base_url=base_url, **settings)
        self.refresh: Refresh = refresh
        self.cross_site_sessions = cross_site_sessions
        self.cookies = Cookies(self.settings)
        self._limit_logins = LoginLimit() if limit_logins is None else limit_logins
        own_store = store is not None
        #: The last stands in for those before it, see `override`.
        self._footings = [
            Footing(
                settings=self.settings,
                policy=self.settings.policy(),
                store=open_store(self.settings.store_url) if store is None else store,
                ring=embedded.key_ring(self.settings, own_store=own_store),
                embedded_store=not own_store,
                handle_resolver=handle_resolver,
                timing=timing or RefreshTiming(),
                events=Events(on_event),
                on_login=on_login,
            )
        ]
        self._footing = self._footings[0]
        #: Footings that were entered on each event loop, to be left in reverse.
        self._entered: WeakKeyDictionary[asyncio.AbstractEventLoop, list[Footing]] = (
            WeakKeyDictionary()
        )
        self._lock = threading.Lock()
        #: Our routes, by name `atproto_oauth:login` and so on; the middleware dispatches these.
        self.routes: list[Route] = Routes(self).build()

    @classmethod
    def from_env(
        cls,
        environ: Mapping[str, str] | None = None,
        *,
        store: Store | None = None,
        on_login: OnLogin | None = None,
        on_event: OnEvent | None = None,
        limit_logins: LimitLogins | None = None,
        handle_resolver: HandleResolver | None = None,
        refresh: Refresh = "on_request",
        cross_site_sessions: bool = False,
        timing: RefreshTiming | None = None,
        **overrides: Unpack[SettingsOverrides],
    ) -> Self:
        """Configure from `ATPROTO_OAUTH_…` variables; keywords win over them.

        Raises:
            ConfigurationError: as the constructor.
        """
        environ = os.environ if environ is None else environ
        given: SettingsOverrides = {
            **read_environment(environ, names=SETTINGS - overrides.keys()),
            **overrides,
        }
        options = {name: value for name, value in given.items() if name != "base_url"}
        settings = cast("SettingsOptions", options)
        return cls(
            given.get("base_url", ""),
            store=store,
            on_login=on_login,
            on_event=on_event,
            limit_logins=limit_logins,
            handle_resolver=handle_resolver,
            refresh=refresh,
            cross_site_sessions=cross_site_sessions,
            timing=timing,
            **settings,
        )

    def __repr__(self) -> str:
        return f"ATProtoOAuth(base_url={self.settings.base_url!r})"

    # --- Life --------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        footing = self._footing
        await footing.__aenter__()
        with self._lock:
            self._entered.setdefault(asyncio.get_running_loop(), []).append(footing)
        return self

    async def __aexit__(self, *_: object) -> None:
        with self._lock:
            footing = self._entered[asyncio.get_running_loop()].pop()
        await footing.__aexit__()

    async def open(self) -> Runtime:
        """Open the store on the running event loop, once, and check it.

        Raises:
            ConfigurationError: the database is behind or cannot be read with these keys.
            StoreUnavailable: the database does not answer.
        """
        return await self._footing.open()

    def runtime(self) -> Runtime:
        """Return what the running event loop owns."""
        return self._footing.runtime()

    def running(self) -> Runtime | None:
        """Return what the running event loop owns, if it owns anything yet."""
        return self._footing.running()

    @property
    def core(self) -> Core:
        """What every event loop shares."""
        return self._footing.core

    @contextmanager
    def override(self, *, net_policy: NetPolicy, store: Store | None = None) -> Generator[None]:
        """Stand on another network, and another store, until the end of the block. For tests.

        It holds for every thread and event loop, and opens nothing by itself. What is under way
        ends on what it began with. Overrides nest, and may end in any order. The app's own
        `handle_resolver` is not asked meanwhile.

        Args:
            net_policy: What may be reached.
            store: Where sessions are; None keeps the app's store.
        """
        footing = self._footings[0].over(policy=net_policy, store=store)
        with self._lock:
            self._footings.append(footing)
            self._footing = footing
        try:
            yield
        finally:
            with self._lock:
                self._footings.remove(footing)
                self._footing = self._footings[-1]

    @asynccontextmanager
    async def _attended(self) -> AsyncGenerator[Runtime, None]:
        """Keep what this event loop owns open, where nobody owns the loop, until the block ends."""
        runtime = self.runtime()
        before = runtime.arrive()
        try:
            yield await self.open()
        finally:
            if runtime.attending > 1:
                # Whoever else is there sees to what is left, after the answer.
                runtime.attending -= 1
            else:
                await runtime.depart(before)

    # --- Login -------------------------------------------------------------------------------

    def trusts(self, headers: dict[bytes, bytes], method: str | None) -> bool:
        """Say whether a request may use the browser's session, by the page that it comes from.

        Args:
            headers: The request's headers, names in lower case.
            method: What it is judged as; None for a WebSocket.
        """
        return self.cross_site_sessions or may_attach(headers, method, self.settings)

    def login_url(
        self,
        *,
        next: str | None = None,  # noqa: A002  # the parameter's name in the whole flow
        identifier: str | None = None,
        scope: str | None = None,
        add: bool = False,
    ) -> str:
        """Return the address of the login page, for templates and redirects."""
        query = {"identifier": identifier, "next": next, "scope": scope}
        given = {name: value for name, value in query.items() if value is not None}
        if add:
            given["add"] = "1"
        url = f"{self.settings.base_url}{self.settings.prefix}/login"
        return f"{url}?{urlencode(given)}" if given else url

    async def authorize_redirect(
        self,
        conn: HTTPConnection,
        identifier: str,
        *,
        next: str | None = None,  # noqa: A002  # the parameter's name in the whole flow
        scope: str | None = None,
        prompt: str | None = None,
        data: Mapping[str, object] | None = None,
        add: bool = False,
    ) -> Response:
        """Begin a login and return the redirect to the authorization server.

        For an app's own page. Call it for a POST that the app has checked to be its own: it makes
        requests to servers that a stranger may name.

        Args:
            conn: The request.
            identifier: What the person typed: a handle, a DID, or a server's address.
            next: Where to go afterwards; see `safe_next` for what is accepted.
            scope: Scopes within SCOPE and OPTIONAL_SCOPE; None asks for SCOPE.
            prompt: `login`, `consent`, `select_account`, `create`, or `none`.
            data: JSON-able data that `on_login` gets back; it is sealed in the store.
            add: Keep the accounts that are signed in already.

        Raises:
            ResolutionError: the account or its server was not found, or is not capable.
            AddressRefused: its server lies where this process may not connect to.
            LoginError: the server, or the scope, was refused.
            TooManyLogins: logins are begun too often from there.
            StoreUnavailable: the attempt could not be kept.
        """
        secret = self.cookies.read_login(conn.scope["headers"]) or new_secret()
        wanted = LoginRequest(
            identifier=identifier,
            next=safe_next(next, self.settings),
            scope=scope,
            prompt=prompt,
            add=add,
            data=data,
        )
        try:
            await self._limit_logins(conn, identifier)
            async with self._attended() as runtime:
                net, nonces = runtime.net, runtime.sessions.nonces
                url = await begin_login(self.core, net, nonces, wanted, browser_secret=secret)
        except ATProtoOAuthError as exc:
            self.core.events.warning("login.failed", error=exc.code, why=str(exc))
            if isinstance(exc, RequestError):
                prepare(exc, conn)
            raise
        response = RedirectResponse(url, status_code=303, headers={"cache-control": "no-store"})
        response.headers.append("set-cookie", self.cookies.set_login(secret))
        return response

    def scope_for(self, wanted: Iterable[str], granted: Iterable[str]) -> str:
        """Return the scope of a login that adds what is wanted to what was granted.

        Only what is configured can be asked for, so the rest is left out.
        """
        scope, optional = tokens(self.settings.scope), tokens(self.settings.optional_scope)
        keep = {*scope}
        for needed in wanted:
            keep |= {token for token in optional if covers(token, needed)}
        for held in granted:
            keep |= {token for token in optional if covers(held, token)}
        return " ".join(token for token in (*scope, *optional) if token in keep)

    # --- Sessions ----------------------------------------------------------------------------

    async def sessions(self, conn: HTTPConnection) -> list[Account]:
        """Return the accounts signed in, in this browser, newest login first.

        None where the request comes from another site and carries no session either.

        Raises:
            StoreUnavailable: nobody can say.
        """
        note_read(conn)
        cookie = self.cookies.read_session(conn.scope["headers"])
        if cookie is None or not self.trusts(dict(conn.scope["headers"]), conn.scope.get("method")):
            return []
        async with self._attended() as runtime:
            return await runtime.sessions.accounts(cookie)

    async def switch(self, conn: HTTPConnection, did: str) -> None:
        """Make another of this browser's accounts the active one, from the next request on.

        Raises:
            CrossSiteRefused: the request comes from another site.
            NoSession: the account is not signed in here, or needs a new login.
            StoreUnavailable: it could not be written.
        """
        note_read(conn)
        # A method that is safe elsewhere is not here.
        method = "POST" if conn.scope["type"] == "http" else None
        cookie = self.cookies.read_session(conn.scope["headers"])
        try:
            if not self.trusts(dict(conn.scope["headers"]), method):
                raise CrossSiteRefused("Accounts can be switched from this site's own pages only.")
            async with self._attended() as runtime:
                await self._switch(runtime, cookie, did)
        except RequestError as exc:
            prepare(exc, conn)
            raise

    async def _switch(self, runtime: Runtime, cookie: str | None, did: str) -> None:
        accounts = await runtime.sessions.accounts(cookie) if cookie is not None else []
        chosen = next((one for one in accounts if one.did == did and one.reason is None), None)
        loaded = await self.core.store.load(cookie_hash(cookie)) if cookie is not None else None
        if cookie is None or chosen is None or loaded is None:
            msg = f"{did} has no usable session in this browser; send the person to login."
            raise NoSession(msg)
        if not await self.core.store.switch_active(loaded.browser_id, chosen.session_id):
            msg = f"The session of {did} ended a moment ago; send the person to login."
            raise NoSession(msg)
        runtime.sessions.forget_cookie(cookie)
        self.core.events.info("session.switched", session=chosen.session_id, did=did)

    @asynccontextmanager
    async def session_for(
        self, did: str, *, scopes: str | Iterable[str] = ()
    ) -> AsyncGenerator[OAuthSession, None]:
        """Give the newest live session of an account, outside of any request.

        For jobs, queues and command lines. A refresh under way is drained before this exits.

        Args:
            did: The account.
            scopes: What the session must cover.

        Raises:
            NoSession: no live session of the account covers the scopes.
            StoreUnavailable: nobody can say.
        """
        footing = self._footing
        runtime = footing.runtime()
        # Without lifespan, requests of this loop use its connections: not this job's to close.
        # Where an owner is going, this job is the next one.
        going = runtime.tasks.closing.is_set()
        borrowed = runtime.opened and not runtime.owners and not going
        async with self._attended() if borrowed else footing:
            for record in await runtime.sessions.of_account(did):
                live = runtime.sessions.usable(record)
                if live is not None and covers(live.scope, scopes):
                    break
            else:
                msg = f"No live session of {did} covers what is asked for; the person must log in."
                raise NoSession(msg)
            try:
                yield runtime.session(live)
            finally:
                await runtime.upkeep.drain(live)
