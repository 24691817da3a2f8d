"""The ASGI entry: answers our own routes, attaches the session, owns lifespan where it sees one."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atproto_oauth_asgi.access import Place, attach, error_response, route_path
from atproto_oauth_asgi.errors import ATProtoOAuthError, ConfigurationError, StoreUnavailable
from atproto_oauth_asgi.lifespan import Lifespan
from atproto_oauth_asgi.oauth import ATProtoOAuth
from atproto_oauth_asgi.runtime import Runtime
from atproto_oauth_asgi.session import OAuthSession
from atproto_oauth_asgi.socket_end import SocketEnd

_READS = frozenset({"GET", "HEAD"})


class ATProtoOAuthMiddleware:
    """Mounts the routes of an `ATProtoOAuth` and attaches each request's session.

    Works round any ASGI app, with `add_middleware`, and inside a `Mount`. It holds no request
    state; scopes are copied, never changed.

    Args:
        app: The app inside.
        oauth: The app-wide object.
    """

    def __init__(self, app: ASGIApp, *, oauth: ATProtoOAuth) -> None:
        self.app = app
        self.oauth = oauth
        base = oauth.settings.base_path
        self._read_cookie = oauth.cookies.read_session
        self._ours: dict[str, Route] = {}
        for route in oauth.routes:
            # A proxy may take BASE_URL's path off, say so in `root_path`, or pass it on.
            self._ours[route.path] = self._ours[base + route.path] = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one scope (ASGI 3)."""
        kind = scope["type"]
        if kind == "lifespan":
            await Lifespan(self.app, self.oauth)(scope, receive, send)
            return
        if kind not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        path = route_path(scope)
        place = Place(self.oauth, scope, path)
        if kind == "http" and (route := self._ours.get(path)) is not None:
            await self._answer(route, {**scope, **place.as_scope()}, receive, send)
            return
        cookie = self._read_cookie(scope["headers"])
        if cookie is None:
            await self._call(attach(scope, None, place), receive, send, place)
            return
        runtime = self.oauth.runtime()
        before = runtime.arrive()
        try:
            session = await self._session(scope, cookie, place, runtime)
            await self._call(attach(scope, session, place), receive, send, place)
        finally:
            await runtime.depart(before)

    async def _session(
        self, scope: Scope, cookie: str, place: Place, runtime: Runtime
    ) -> OAuthSession | StoreUnavailable | None:
        oauth = self.oauth
        headers: dict[bytes, bytes] = dict(scope["headers"])
        method: str | None = scope.get("method")
        if not oauth.trusts(headers, method):
            oauth.core.events.info("session.withheld", method=method or "WEBSOCKET")
            return None
        fresh = method not in _READS or headers.get(b"sec-fetch-mode") == b"navigate"
        try:
            if not runtime.opened:
                await oauth.open()
            live, place.hint = await runtime.sessions.by_cookie(cookie, fresh=fresh)
        except StoreUnavailable as exc:
            # Never anonymous: the accessors say that nobody can say.
            return exc
        if live is None:
            return None
        runtime.touch(live)
        if oauth.refresh == "on_request":
            flight = runtime.upkeep.begin(live)
            if flight is not None and not runtime.owners:
                await runtime.upkeep.settle(flight)
        return runtime.session(live, place.prepare)

    async def _call(self, scope: Scope, receive: Receive, send: Send, place: Place) -> None:
        if scope["type"] == "websocket":
            await self._call_socket(scope, receive, send, place)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if place.read:
                    message = _private(message)
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except ConfigurationError:
            raise
        except ATProtoOAuthError as exc:
            if started:
                raise
            response = error_response(Request(scope, receive), exc)
            await response(scope, receive, watched)

    async def _call_socket(self, scope: Scope, receive: Receive, send: Send, place: Place) -> None:
        end = SocketEnd(scope, receive, send, place)
        error: ATProtoOAuthError | None = None
        try:
            await self.app(scope, end.receive, end.send)
        except ConfigurationError:
            raise
        except ATProtoOAuthError as exc:
            error = exc
        await end.close(error)

    async def _answer(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        runtime = self.oauth.runtime()
        before = runtime.arrive()
        try:
            request = Request(scope, receive)
            if route.methods is not None and request.method not in route.methods:
                allow = ", ".join(sorted(route.methods))
                response: Response = PlainTextResponse(
                    "Method Not Allowed", status_code=405, headers={"allow": allow}
                )
            else:
                response = await route.endpoint(request)
            await response(scope, receive, send)
        finally:
            await runtime.depart(before)


def _private(message: Message) -> Message:
    """Keep caches from giving one person's page to another (RFC 9111 §4.1)."""
    given: list[tuple[bytes, bytes]] = list(message.get("headers", []))
    # One line: middleware of older Starlettes looks at the first only.
    vary = [value for name, value in given if name.lower() == b"vary"]
    headers = [one for one in given if one[0].lower() != b"vary"]
    headers.append((b"vary", b", ".join([*vary, b"Cookie"])))
    if not any(name.lower() == b"cache-control" for name, _ in headers):
        headers.append((b"cache-control", b"private, no-store"))
    return {**message, "headers": headers}
