"""What the demo answers: one page, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from atproto_oauth_asgi import (
    ATProtoOAuth,
    ATProtoOAuthError,
    ATProtoOAuthMiddleware,
    OAuthSession,
    error_response,
    requires_scope,
    session_from,
    session_or_none,
)
from atproto_oauth_asgi.errors import RequestError, SessionRevoked, XRPCError
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.testing.demo.home import Shown, SignedIn, accounts_section, home_page
from atproto_oauth_asgi.testing.demo.pages import message_page, welcome_page
from atproto_oauth_asgi.testing.demo.posts import (
    DELETE_SCOPE,
    EMAIL_SCOPE,
    POST_SCOPE,
    BadInput,
    as_object,
    delete_post,
    newest_posts,
    write_post,
)

#: What the demo is configured with where the environment says nothing else.
DEFAULTS = {
    "ATPROTO_OAUTH_CLIENT_NAME": "the demo",
    "ATPROTO_OAUTH_SCOPE": f"atproto {POST_SCOPE} {EMAIL_SCOPE}",
    "ATPROTO_OAUTH_OPTIONAL_SCOPE": DELETE_SCOPE,
}

_BODY_LIMIT = 16_384
_TOO_YOUNG = (
    "The server refused the token, which is only a few seconds old: it is renewed after ten."
    " Reload the page then."
)
_DONE = {
    "expire": "The server let the token expire. This page needed a new one, and got it.",
}


def make_app(
    oauth: ATProtoOAuth,
    *,
    accounts: Sequence[tuple[str, str]] = (),
    sign_up: str | None = None,
    network: Network | None = None,
) -> Starlette:
    """Return the demo.

    Args:
        oauth: Who logs people in.
        accounts: Handle and password of accounts that the welcome page offers to try.
        sign_up: Address of a server where people can make an account.
        network: Embedded servers, if those are the ones: the demo offers to play tricks on them.
    """
    demo = _Demo(oauth, accounts, sign_up, network)
    return Starlette(
        routes=[
            Route("/", demo.home),
            Route("/post", demo.post, methods=["POST"]),
            Route("/delete", demo.delete, methods=["POST"]),
            Route("/switch", demo.switch, methods=["POST"]),
            Route("/trick", demo.trick, methods=["POST"]),
            Route("/api/me", api_me),
            Route("/api/post", api_post, methods=["POST"]),
        ],
        middleware=[Middleware(ATProtoOAuthMiddleware, oauth=oauth)],
        exception_handlers={
            ATProtoOAuthError: demo.failed,
            BadInput: demo.refused,
            HTTPException: demo.missing,
        },
    )


@dataclass(frozen=True, slots=True)
class _Demo:
    """Answers with pages."""

    oauth: ATProtoOAuth
    accounts: Sequence[tuple[str, str]]
    sign_up: str | None
    network: Network | None

    async def home(self, request: Request) -> Response:
        if request.url.hostname == "localhost" and self.oauth.settings.loopback:
            # Cookies belong to one name, and authorization servers come back to 127.0.0.1.
            return RedirectResponse(self.oauth.settings.base_url, status_code=307)
        session = session_or_none(request)
        if session is None:
            return await self.welcome(request)
        return await self.show(
            request, session, Shown(notice=_DONE.get(request.query_params.get("done", "")))
        )

    async def post(self, request: Request) -> Response:
        # Anonymous too when a page of another site sent the form: the middleware sees to that.
        session = session_or_none(request)
        if session is None:
            return RedirectResponse(self.oauth.login_url(), status_code=303)
        text = ""
        try:
            text = (await _form(request)).get("text", "")
            await write_post(session, text)
        except BadInput as exc:
            shown = Shown(text=text, problem=str(exc), status=400)
            return await self.show(request, session, shown)
        except ATProtoOAuthError as exc:
            shown = Shown(text=text, problem=exc.sentence, status=exc.status)
            return await self.show(request, session, shown)
        return self.done()

    async def delete(self, request: Request) -> Response:
        session = requires_scope(DELETE_SCOPE)(request)
        await delete_post(session, (await _form(request)).get("key", ""))
        return self.done()

    async def switch(self, request: Request) -> Response:
        await self.oauth.switch(request, (await _form(request)).get("did", ""))
        return self.done()

    async def trick(self, request: Request) -> Response:
        session = session_from(request)
        what = (await _form(request)).get("what", "")
        if self.network is not None and what == "expire":
            self.network.expire_access_tokens(session.did)
        if self.network is not None and what == "revoke":
            self.network.revoke_sessions(session.did)
        return self.done(what)

    def done(self, what: str = "") -> Response:
        known = f"/?done={what}" if what in _DONE else ""
        return RedirectResponse(self.oauth.settings.base_url + known, status_code=303)

    async def welcome(self, request: Request, *, problem: str | None = None) -> Response:
        return welcome_page(
            self.oauth,
            accounts=self.accounts,
            sign_up=self.sign_up,
            others=accounts_section(self.oauth, await self.signed_in(request)),
            problem=problem,
        )

    async def show(self, request: Request, session: OAuthSession, shown: Shown) -> Response:
        posts = email = None
        problem = shown.problem
        try:
            # Lists are public; this one call needs the session, and so says whether it still lives.
            me = await session.query("com.atproto.server.getSession")
            email = str(me["email"]) if "email" in me else None
            posts = await newest_posts(session)
        except SessionRevoked as exc:
            return await self.welcome(request, problem=exc.sentence)
        except XRPCError as exc:
            problem = problem or (_TOO_YOUNG if exc.http_status == 401 else exc.sentence)
        except ATProtoOAuthError as exc:
            problem = problem or exc.sentence
        more = Shown(
            posts=posts,
            email=email,
            accounts=await self.signed_in(request),
            tricks=self.network is not None,
            text=shown.text,
            problem=problem,
            notice=None if problem else shown.notice,
            status=shown.status,
        )
        return home_page(self.oauth, session, more)

    async def signed_in(self, request: Request) -> list[SignedIn]:
        return [
            SignedIn(
                did=account.did,
                name=account.handle or account.did,
                active=account.active,
                usable=account.reason is None,
            )
            for account in await self.oauth.sessions(request)
        ]

    async def failed(self, request: Request, exc: Exception) -> Response:
        """Answer an error of the library that nothing else has answered."""
        if not isinstance(exc, ATProtoOAuthError):
            raise exc
        if request.url.path.startswith("/api/"):
            return error_response(request, exc)
        if isinstance(exc, RequestError) and exc.login_url is not None:
            return RedirectResponse(exc.login_url, status_code=303)
        return message_page(self.oauth, "That did not work", exc.sentence, status=exc.status)

    async def refused(self, _request: Request, exc: Exception) -> Response:
        return message_page(self.oauth, "That did not work", str(exc), status=400)

    async def missing(self, _request: Request, exc: Exception) -> Response:
        status = exc.status_code if isinstance(exc, HTTPException) else 404
        sentence = "Perhaps the address has a mistake in it."
        return message_page(self.oauth, "Nothing here", sentence, status=status)


async def api_me(request: Request) -> Response:
    """Say as JSON who is signed in, asking the PDS."""
    session = session_from(request)
    return JSONResponse(await session.query("com.atproto.server.getSession"))


async def api_post(request: Request) -> Response:
    """Write a post for a script."""
    session = requires_scope(POST_SCOPE)(request)
    try:
        uri = await write_post(session, _text_of(await _body(request)))
    except BadInput as exc:
        return JSONResponse({"error": "bad_input", "message": str(exc)}, status_code=400)
    return JSONResponse({"uri": uri})


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl(await _body(request)))


async def _body(request: Request) -> str:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _BODY_LIMIT:
            raise BadInput("That is too much at once; send at most 16 KiB.")
    try:
        return body.decode()
    except UnicodeDecodeError as exc:
        raise BadInput("Send UTF-8 text.") from exc


def _text_of(body: str) -> str:
    try:
        document: object = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise BadInput('Send a JSON object such as {"text": "Hello"}.') from exc
    text = as_object(document).get("text")
    if not isinstance(text, str):
        raise BadInput('Send a JSON object such as {"text": "Hello"}.')
    return text
