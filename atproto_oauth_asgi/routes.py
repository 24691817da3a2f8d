"""Our routes: login, callback, logout, session, client metadata and JWKS."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from atproto_oauth_asgi.access import is_page
from atproto_oauth_asgi.callback import CallbackFailed, finish_login
from atproto_oauth_asgi.cross_site import host_of, refuse_cross_site, refuse_wrong_host
from atproto_oauth_asgi.errors import (
    ATProtoOAuthError,
    ConfigurationError,
    InvalidIdentifier,
    StoreUnavailable,
    error_for,
    error_headers,
)
from atproto_oauth_asgi.metadata import METADATA_PATH
from atproto_oauth_asgi.next_url import safe_next
from atproto_oauth_asgi.pages import login_page, message_page
from atproto_oauth_asgi.request_fields import read_fields
from atproto_oauth_asgi.route_answers import Amended, as_asked, as_raised, json_error, wants_page
from atproto_oauth_asgi.sessions import cookie_hash

if TYPE_CHECKING:
    from atproto_oauth_asgi.oauth import ATProtoOAuth

Endpoint = Callable[[Request], Awaitable[Response]]

#: Marks a login page that was redirected to BASE_URL's host once.
_MOVED = "moved"
_PUBLIC = {"cache-control": "public, max-age=600", "access-control-allow-origin": "*"}
# A callback's address holds code and state: no other site may learn it, no cache may keep it.
_CALLBACK = {"referrer-policy": "no-referrer", "cache-control": "no-store"}
_PRIVATE = {"cache-control": "private, no-store", "vary": "Cookie"}


class Routes:
    """Answers the requests that are ours."""

    def __init__(self, oauth: ATProtoOAuth) -> None:
        self._oauth = oauth
        self._settings = oauth.settings
        self._events = oauth.core.events

    def build(self) -> list[Route]:
        """Return the routes, named `atproto_oauth:…`."""
        prefix = self._settings.prefix
        table: list[tuple[str, str, Endpoint, list[str]]] = [
            (f"{prefix}/login", "login", self.login, ["GET", "POST"]),
            (f"{prefix}/callback", "callback", self.callback, ["GET"]),
            (f"{prefix}/logout", "logout", self.logout, ["POST"]),
            (f"{prefix}/session", "session", self.session, ["GET"]),
            (METADATA_PATH, "client_metadata", self.client_metadata, ["GET"]),
            (f"{prefix}/jwks.json", "jwks", self.jwks, ["GET"]),
        ]
        routes: list[Route] = []
        for path, name, endpoint, methods in table:
            answering = self._answering(name, endpoint)
            route = Route(path, answering, methods=methods, name=f"atproto_oauth:{name}")
            if name == "callback" and route.methods is not None:
                # Starlette adds HEAD to GET; a link preview must not use the attempt up.
                route.methods.discard("HEAD")
            routes.append(route)
        return routes

    def _answering(self, name: str, endpoint: Endpoint) -> Endpoint:
        """Return the endpoint with errors of ours turned into their answers."""

        async def answering(request: Request) -> Response:
            try:
                return await endpoint(request)
            except ConfigurationError:
                raise
            except ATProtoOAuthError as exc:
                self._events.warning("request.refused", error=exc.code, route=name, why=str(exc))
                if not (is_page(request) or wants_page(request)):
                    return json_error(exc)
                home = self._settings.base_url
                return message_page("That did not work", exc.sentence, home=home, status=exc.status)

        return answering

    # --- Login -------------------------------------------------------------------------------

    async def login(self, request: Request) -> Response:
        """Show the login page, or begin a login."""
        refuse_wrong_host(request, self._settings)
        if request.method == "POST":
            return await self._begin(request)
        if (moved := self._move(request)) is not None:
            return moved
        query = request.query_params
        if self._settings.login_page is not None:
            return self._own_page(dict(query))
        return self._page(
            {name: query[name] for name in _CARRIED if name in query},
            identifier=query.get("identifier", ""),
            sentence=_sentence(query.get("error")),
            confirm=bool(query.get("identifier")) and "error" not in query,
        )

    async def _begin(self, request: Request) -> Response:
        refuse_cross_site(request, self._settings)
        fields = await read_fields(request)
        identifier = fields.get("identifier", "").strip()
        try:
            if not identifier:
                raise InvalidIdentifier("Give an identifier: a handle, a DID or a server.")
            response = await self._oauth.authorize_redirect(
                request,
                identifier,
                next=fields.get("next"),
                scope=fields.get("scope") or None,
                prompt=fields.get("prompt") or None,
                add=fields.get("add") in _TRUE,
            )
        except ATProtoOAuthError as exc:
            if isinstance(exc, ConfigurationError):
                raise
            if not wants_page(request):
                return json_error(exc)
            return self._failed(exc, fields, identifier=identifier)
        interstitial = fields.get("interstitial") in _TRUE
        return as_asked(request, response, interstitial=interstitial)

    async def callback(self, request: Request) -> Response:
        """Finish a login."""
        purpose = request.headers.get("sec-purpose", "") + request.headers.get("purpose", "")
        if "prefetch" in purpose.lower():
            return Response(status_code=503, headers={"cache-control": "no-store"})
        refuse_wrong_host(request, self._settings)
        runtime = await self._oauth.open()
        cookies, headers = self._oauth.cookies, request.scope["headers"]
        try:
            finished = await finish_login(
                self._oauth.core,
                runtime,
                request,
                browser_secret=cookies.read_login(headers),
                cookie=cookies.read_session(headers),
            )
        except CallbackFailed as failed:
            response = self._ended(failed)
        except StoreUnavailable as exc:
            response = self._ended(CallbackFailed(exc))
        except HTTPException as exc:
            response = as_raised(exc)
        else:
            response = finished.response or RedirectResponse(finished.next, status_code=303)
            max_age = self._settings.session_max_age
            cookie = cookies.set_session(finished.cookie, max_age=max_age)
            return Amended(response, {**_CALLBACK, "set-cookie": cookie})
        return Amended(response, _CALLBACK)

    def _ended(self, failed: CallbackFailed) -> Response:
        error, again = failed.error, {"next": failed.next, "identifier": failed.identifier}
        if self._settings.login_page is not None:
            return self._own_page({**again, "error": error.code})
        # No form here: this page sends no referrer, so a browser would post `Origin: null`.
        return message_page(
            "Signing in did not work",
            error.sentence,
            app=self._settings.client_name,
            home=self._settings.base_url,
            again=self._oauth.login_url(next=failed.next, identifier=failed.identifier),
            status=error.status,
        )

    def _failed(
        self, exc: ATProtoOAuthError, fields: Mapping[str, str], *, identifier: str
    ) -> Response:
        if self._settings.login_page is not None:
            again = {name: fields[name] for name in _CARRIED if fields.get(name)}
            # What is no identifier may be a password, which has no place in an address.
            typed = "" if isinstance(exc, InvalidIdentifier) else identifier
            return self._own_page({**again, "error": exc.code, "identifier": typed})
        page = self._page(
            {name: fields[name] for name in _CARRIED if fields.get(name)},
            identifier=identifier,
            sentence=exc.sentence,
            status=exc.status,
        )
        page.headers.update(error_headers(exc))
        return page

    def _page(
        self,
        carried: Mapping[str, str],
        *,
        identifier: str,
        sentence: str | None = None,
        confirm: bool = False,
        status: int = 200,
    ) -> Response:
        settings = self._settings
        return login_page(
            action=f"{settings.base_url}{settings.prefix}/login",
            app=settings.client_name or settings.origin.partition("://")[2],
            home=settings.base_url,
            hidden=carried,
            identifier=identifier[:2048],
            sentence=sentence,
            confirm=confirm,
            loopback=settings.loopback or settings.allow_insecure_loopback,
            status=status,
        )

    def _own_page(self, query: Mapping[str, str | None]) -> Response:
        settings = self._settings
        text = urlencode({name: value for name, value in query.items() if value})
        url = f"{settings.origin}{settings.login_page}"
        return RedirectResponse(
            f"{url}{'&' if '?' in url else '?'}{text}" if text else url,
            status_code=303,
            headers={"cache-control": "no-store"},
        )

    def _move(self, request: Request) -> Response | None:
        """Send a browser that came under another name to BASE_URL's, before it gets a cookie."""
        settings = self._settings
        if host_of(request) == settings.origin.partition("://")[2]:
            return None
        url = f"{settings.base_url}{settings.prefix}/login"
        if _MOVED in request.query_params:
            return message_page(
                "This page was opened under another address",
                f"Open {settings.base_url} instead. If that is what you did, a proxy in front of"
                " this site changes the Host header; it must pass it on unchanged.",
                home=settings.base_url,
                status=421,
            )
        query = urlencode([*request.query_params.multi_items(), (_MOVED, "1")])
        return RedirectResponse(
            f"{url}?{query}", status_code=307, headers={"cache-control": "no-store"}
        )

    # --- Session -----------------------------------------------------------------------------

    async def logout(self, request: Request) -> Response:
        """End the active account's session, here and at the authorization server."""
        refuse_wrong_host(request, self._settings)
        refuse_cross_site(request, self._settings)
        fields = await read_fields(request)
        cookies, store = self._oauth.cookies, self._oauth.core.store
        if wants_page(request):
            target = safe_next(fields.get("next"), self._settings)
            response: Response = RedirectResponse(target, status_code=303, headers=_PRIVATE)
        else:
            response = Response(status_code=204, headers=_PRIVATE)
        cookie = cookies.read_session(request.scope["headers"])
        if cookie is None:
            return response
        runtime = await self._oauth.open()
        loaded = await store.load(cookie_hash(cookie))
        left = 0
        if loaded is not None:
            record = loaded.session
            if record is not None:
                live = runtime.sessions.usable(record)
                if live is not None:
                    await runtime.logout(live)
                elif await store.end_session(record.id, "logout"):
                    self._events.info(
                        "session.ended", session=record.id, did=record.did, reason="logout"
                    )
                left = await store.detach(loaded.browser_id, record.id)
            runtime.sessions.forget_cookie(cookie)
        # Where the cookie is one from before a login, the browser has a newer one by now.
        if not left and (loaded is None or loaded.current):
            response.headers.append("set-cookie", cookies.clear_session())
        return response

    async def session(self, request: Request) -> Response:
        """Say as JSON who is signed in; never a token."""
        refuse_wrong_host(request, self._settings)
        cookie = self._oauth.cookies.read_session(request.scope["headers"])
        nobody: dict[str, object] = {
            "authenticated": False,
            "did": None,
            "handle": None,
            "scopes": [],
            "accounts": [],
        }
        if cookie is None:
            return JSONResponse(nobody, headers=_PRIVATE)
        runtime = await self._oauth.open()
        live, _ = await runtime.sessions.by_cookie(cookie, fresh=True)
        accounts = await runtime.sessions.accounts(cookie)
        listed = [
            {
                "did": account.did,
                "handle": account.handle,
                "active": account.active,
                "reason": account.reason,
            }
            for account in accounts
        ]
        if live is None:
            return JSONResponse({**nobody, "accounts": listed}, headers=_PRIVATE)
        session = runtime.session(live)
        return JSONResponse(
            {
                "authenticated": True,
                "did": session.did,
                "handle": session.handle,
                "scopes": sorted(session.scopes),
                "accounts": listed,
            },
            headers=_PRIVATE,
        )

    # --- What authorization servers fetch ----------------------------------------------------

    async def client_metadata(self, request: Request) -> Response:
        """Publish the client metadata document (atproto OAuth: Client ID Metadata Document)."""
        refuse_wrong_host(request, self._settings)
        return JSONResponse(self._oauth.core.metadata.document(), headers=_PUBLIC)

    async def jwks(self, request: Request) -> Response:
        """Publish the public client keys (RFC 7517 §5)."""
        refuse_wrong_host(request, self._settings)
        keys = self._settings.client_keys
        return JSONResponse(keys.public_jwks() if keys else {"keys": []}, headers=_PUBLIC)


_CARRIED = ("next", "scope", "prompt", "add")
_TRUE = frozenset({"1", "true", "on", "yes"})


def _sentence(code: str | None) -> str | None:
    return None if code is None else error_for(code).sentence
