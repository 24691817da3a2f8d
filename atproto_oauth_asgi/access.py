"""How an app gets at the session of a request, and how "not signed in" is answered."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, RedirectResponse, Response

from atproto_oauth_asgi.errors import (
    ATProtoOAuthError,
    ConfigurationError,
    InsufficientScope,
    NotAuthenticated,
    RequestError,
    SessionRevoked,
    StoreUnavailable,
    error_headers,
)
from atproto_oauth_asgi.scopes import missing
from atproto_oauth_asgi.session import OAuthSession

if TYPE_CHECKING:
    from atproto_oauth_asgi.oauth import ATProtoOAuth

#: Key in `scope["state"]` of what `Place.attached` is, for apps without a framework.
STATE = "atproto_oauth"
_PLACE = "atproto_oauth_asgi.place"

Scope = MutableMapping[str, Any]


class Place:
    """Where a request entered: which `ATProtoOAuth`, and under which path."""

    __slots__ = ("_path", "_scope", "attached", "hint", "oauth", "read", "refused")

    def __init__(self, oauth: ATProtoOAuth, scope: Scope, path: str) -> None:
        self.oauth = oauth
        self._scope = scope
        self._path = path
        #: The session, None when anonymous, or the error that hides which.
        self.attached: OAuthSession | StoreUnavailable | None = None
        #: Account to log in with again: its session is kept, but cannot be used.
        self.hint: str | None = None
        #: Whether the app asked who is signed in.
        self.read = False
        #: The error that a WebSocket is to be closed for.
        self.refused: ATProtoOAuthError | None = None

    @property
    def path(self) -> str:
        """Return path and query as the browser sees them, whatever a proxy took off."""
        base, path = self.oauth.settings.base_path, quote(self._path, safe="/:@!$&'()*+,;=~")
        # What `root_path` says was taken off; else a proxy may have passed BASE_URL's path on.
        whole = self._path == self._scope["path"]
        if whole and (path == base or path.startswith(base + "/")):
            base = ""
        query: bytes = self._scope.get("query_string", b"")
        return base + (path or "/") + (f"?{query.decode('latin-1')}" if query else "")

    def prepare(self, error: RequestError) -> None:
        """Fill in the answer of an error that a session of this request raised."""
        prepare(error, HTTPConnection({**self._scope, **self.as_scope()}))

    def as_scope(self) -> dict[str, object]:
        """Return the entry of a scope that makes this place known."""
        return {_PLACE: self}


def route_path(scope: Scope) -> str:
    """Return the path inside the app: servers differ in whether `path` begins with `root_path`."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and (path == root or path.startswith(root.rstrip("/") + "/")):
        return path[len(root.rstrip("/")) :]
    return path


def attach(scope: Scope, session: OAuthSession | StoreUnavailable | None, place: Place) -> Scope:
    """Return a copy of a scope that carries a session; the original is not changed."""
    place.attached = session
    return {**scope, "state": {**scope.get("state", {}), STATE: session}, _PLACE: place}


def note_read(conn: HTTPConnection) -> None:
    """Note that the answer depends on who is signed in, so that no cache keeps it for others."""
    place = conn.scope.get(_PLACE)
    if isinstance(place, Place):
        place.read = True


def session_or_none(conn: HTTPConnection) -> OAuthSession | None:
    """Return the session of a request or WebSocket, or None when it is anonymous.

    Usable as a dependency as it is: `Depends(session_or_none)`.

    Raises:
        StoreUnavailable: the request has a cookie, and nobody can say what it names (503).
        ConfigurationError: the middleware is not installed round this route.
    """
    place = conn.scope.get(_PLACE)
    if not isinstance(place, Place):
        msg = "Add ATProtoOAuthMiddleware to the app: this request did not pass through it."
        raise ConfigurationError(msg)
    place.read = True
    attached = place.attached
    if isinstance(attached, StoreUnavailable):
        unavailable = StoreUnavailable(str(attached))
        prepare(unavailable, conn)
        raise unavailable from attached
    return attached


def session_from(conn: HTTPConnection) -> OAuthSession:
    """Return the session of a request or WebSocket.

    Usable as a dependency as it is: `Depends(session_from)`.

    Raises:
        NotAuthenticated: the request is anonymous. Unhandled it becomes a redirect to login for
            a page, and 401 for everything else.
        StoreUnavailable: nobody can say (503).
    """
    session = session_or_none(conn)
    if session is None:
        msg = "This request carries no session; send the person to login."
        anonymous = NotAuthenticated(msg)
        prepare(anonymous, conn)
        raise anonymous
    return session


def requires_scope(*scopes: str) -> Callable[[HTTPConnection], OAuthSession]:
    """Return an accessor like `session_from` that also wants permissions.

    Usable as a dependency: `Depends(requires_scope("repo:app.bsky.feed.post"))`.

    Raises:
        InsufficientScope: (from the accessor) the session does not cover the scopes; `missing`
            names them. Unhandled it leads a page to login for more, else it is 403.
    """

    def accessor(conn: HTTPConnection) -> OAuthSession:
        session = session_from(conn)
        if lacking := missing(session.scopes, scopes):
            msg = f"The session lacks {' '.join(lacking)}; ask for it with a new login."
            insufficient = InsufficientScope(msg, missing=lacking)
            prepare(insufficient, conn, session)
            raise insufficient
        return session

    return accessor


def error_response(conn: HTTPConnection, exc: Exception) -> Response:
    """Answer an error of ours: an exception handler for Starlette and FastAPI.

    A page that needs a login becomes a 303 to it, with `next`; everything else is JSON with the
    error's status, its stable code, and the login's address where a login helps.
    """
    if not isinstance(exc, ATProtoOAuthError):
        raise exc
    url = exc.login_url if isinstance(exc, RequestError) else None
    url = url or _login_url(exc, conn, None)
    if url is not None and is_page(conn):
        return RedirectResponse(url, status_code=303, headers={"cache-control": "no-store"})
    content = {"error": exc.code, "message": exc.sentence}
    if isinstance(exc, InsufficientScope):
        content["scope"] = " ".join(exc.missing)
    if url is not None:
        content["login_url"] = url
    return JSONResponse(content, status_code=exc.status, headers=error_headers(exc))


def is_page(conn: HTTPConnection) -> bool:
    """Say whether a browser shows the answer as a page of its own."""
    if conn.scope["type"] != "http" or conn.scope["method"] not in {"GET", "HEAD"}:
        return False
    mode = conn.headers.get("sec-fetch-mode")
    if mode is not None:
        return mode == "navigate"
    return "text/html" in conn.headers.get("accept", "") and "hx-request" not in conn.headers


def prepare(error: RequestError, conn: HTTPConnection, session: OAuthSession | None = None) -> None:
    """Fill in the answer, for whatever framework catches the error as an `HTTPException`."""
    url = _login_url(error, conn, session)
    place = conn.scope.get(_PLACE)
    if isinstance(place, Place) and conn.scope["type"] == "websocket":
        place.refused = error
    if url is not None:
        error.login(url)
        if is_page(conn):
            error.status_code = 303
            error.headers = {**(error.headers or {}), "location": url}


def _login_url(
    error: ATProtoOAuthError, conn: HTTPConnection, session: OAuthSession | None
) -> str | None:
    place = conn.scope.get(_PLACE)
    if not isinstance(place, Place):
        return None
    # Only a page can be come back to: the path of an API call is no place for a person.
    target = place.path if is_page(conn) else None
    if isinstance(error, NotAuthenticated | SessionRevoked):
        return place.oauth.login_url(next=target, identifier=place.hint)
    if isinstance(error, InsufficientScope):
        return place.oauth.login_url(
            next=target,
            identifier=session.did if session else None,
            scope=place.oauth.scope_for(error.missing, session.scopes if session else ()),
        )
    return None
