"""What the demo answers: one page, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import cast
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from atproto_oauth_asgi import (
    ATProtoOAuth,
    ATProtoOAuthError,
    ATProtoOAuthMiddleware,
    OAuthSession,
    covers,
    requires_scope,
    session_from,
    session_or_none,
)
from atproto_oauth_asgi.errors import SessionRevoked
from examples.demo.pages import Post, home_page, welcome_page

COLLECTION = "app.bsky.feed.post"
POST_SCOPE = f"repo:{COLLECTION}?action=create"
#: What the demo is configured with where the environment says nothing else.
DEFAULTS = {
    "ATPROTO_OAUTH_CLIENT_NAME": "the demo",
    "ATPROTO_OAUTH_SCOPE": f"atproto {POST_SCOPE}",
}

LONGEST_POST = 300
_BODY_LIMIT = 16_384


class BadInput(ValueError):
    """Says in a sentence what is wrong with what was sent."""


def make_app(oauth: ATProtoOAuth, *, accounts: Sequence[tuple[str, str]] = ()) -> Starlette:
    """Return the demo.

    Args:
        oauth: Who logs people in.
        accounts: Handle and password of accounts that the welcome page offers to try.
    """

    async def home(request: Request) -> Response:
        if request.url.hostname == "localhost" and oauth.settings.loopback:
            # Cookies belong to one name, and authorization servers come back to 127.0.0.1.
            return RedirectResponse(oauth.settings.base_url, status_code=307)
        return await show(request)

    async def post(request: Request) -> Response:
        # Anonymous too when a page of another site sent the form: the middleware sees to that.
        session = session_or_none(request)
        if session is None:
            return RedirectResponse(oauth.login_url(), status_code=303)
        text = ""
        try:
            text = parse_qs(await _body(request)).get("text", [""])[0]
            await write_post(session, text)
        except BadInput as exc:
            return await show(request, text=text, problem=str(exc), status=400)
        except ATProtoOAuthError as exc:
            return await show(request, text=text, problem=exc.sentence, status=exc.status)
        return RedirectResponse(oauth.settings.base_url, status_code=303)

    async def show(
        request: Request, *, text: str = "", problem: str | None = None, status: int = 200
    ) -> Response:
        session = session_or_none(request)
        if session is None:
            return welcome_page(oauth, accounts=accounts)
        posts: list[Post] | None = None
        try:
            # Lists are public; this one call needs the session, and so says whether it still lives.
            await session.query("com.atproto.server.getSession")
            posts = await newest_posts(session)
        except SessionRevoked as exc:
            return welcome_page(oauth, accounts=accounts, problem=exc.sentence)
        except ATProtoOAuthError as exc:
            problem = problem or exc.sentence
        return home_page(
            oauth,
            session,
            posts=posts,
            may_post=covers(session.scopes, POST_SCOPE),
            text=text,
            problem=problem,
            status=status,
        )

    return Starlette(
        routes=[
            Route("/", home),
            Route("/post", post, methods=["POST"]),
            Route("/api/me", api_me),
            Route("/api/post", api_post, methods=["POST"]),
        ],
        middleware=[Middleware(ATProtoOAuthMiddleware, oauth=oauth)],
    )


async def api_me(request: Request) -> Response:
    session = session_from(request)
    return JSONResponse(await session.query("com.atproto.server.getSession"))


async def api_post(request: Request) -> Response:
    session = requires_scope(POST_SCOPE)(request)
    try:
        uri = await write_post(session, _text_of(await _body(request)))
    except BadInput as exc:
        return JSONResponse({"error": "bad_input", "message": str(exc)}, status_code=400)
    return JSONResponse({"uri": uri})


async def write_post(session: OAuthSession, text: str) -> str:
    """Write a post and return its URI.

    Raises:
        BadInput: the text is empty, too long, or no text.
        ATProtoOAuthError: the PDS did not take it.
    """
    text = text.replace("\r\n", "\n").strip()
    if not text:
        raise BadInput("Write something first: the post is empty.")
    if len(text) > LONGEST_POST:
        raise BadInput(f"That is {len(text)} characters; a post has at most {LONGEST_POST}.")
    if not text.isascii() and any("\ud800" <= each <= "\udfff" for each in text):
        raise BadInput("The post contains half of a character, which cannot be sent.")
    written = await session.procedure(
        "com.atproto.repo.createRecord",
        {
            "repo": session.did,
            "collection": COLLECTION,
            "record": {
                "$type": COLLECTION,
                "text": text,
                "createdAt": datetime.now(UTC).isoformat(timespec="milliseconds"),
            },
        },
    )
    return str(written.get("uri", ""))


async def newest_posts(session: OAuthSession) -> list[Post]:
    """Return the newest posts of the account, whatever odd things its PDS may say."""
    answer = await session.query(
        "com.atproto.repo.listRecords",
        {"repo": session.did, "collection": COLLECTION, "limit": 10},
    )
    records = answer.get("records")
    listed = cast("list[object]", records) if isinstance(records, list) else []
    values = [_object(_object(record).get("value")) for record in listed]
    return [
        Post(text=str(value.get("text", "")), created=str(value.get("createdAt", ""))[:40])
        for value in values
    ]


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
    text = _object(document).get("text")
    if not isinstance(text, str):
        raise BadInput('Send a JSON object such as {"text": "Hello"}.')
    return text


def _object(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}
