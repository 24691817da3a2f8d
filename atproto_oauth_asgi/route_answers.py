"""In which form our routes answer: as a page, as JSON, for htmx, or as the app's own answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from atproto_oauth_asgi.errors import ATProtoOAuthError, error_headers
from atproto_oauth_asgi.pages import interstitial_page


class Amended(Response):
    """Is another response with headers set that it must have; that one is left as it is.

    An app may give the same response to many people, each of whom gets a cookie of their own.
    """

    def __init__(self, response: Response, headers: Mapping[str, str]) -> None:
        super().__init__(status_code=response.status_code)
        self._response = response
        self._set = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        self._replaced = {name for name, _ in self._set} - {b"set-cookie"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it (ASGI 3)."""

        async def amended(message: Message) -> None:
            if message["type"] == "http.response.start":
                given: Iterable[tuple[bytes, bytes]] = message.get("headers", ())
                kept = [one for one in given if one[0].lower() not in self._replaced]
                message = {**message, "headers": [*kept, *self._set]}
            await send(message)

        await self._response(scope, receive, amended)


def wants_page(request: Request) -> bool:
    """Say whether a person's browser waits for the answer, and not a script."""
    if "hx-request" in request.headers:
        return False
    if request.headers.get("content-type", "").lower().startswith("application/json"):
        return False
    mode = request.headers.get("sec-fetch-mode")
    if mode is not None:
        return mode == "navigate"
    return "application/json" not in request.headers.get("accept", "")


def as_asked(request: Request, response: Response, *, interstitial: bool) -> Response:
    """Return the redirect in the form that the page's script or framework can follow."""
    url = response.headers["location"]
    if "hx-request" in request.headers:
        other: Response = Response(status_code=204, headers={"hx-redirect": url})
    elif interstitial:
        other = interstitial_page(url)
    elif not wants_page(request):
        other = JSONResponse({"url": url})
    else:
        return response
    other.headers["cache-control"] = "no-store"
    other.headers["set-cookie"] = response.headers["set-cookie"]
    return other


def as_raised(exc: HTTPException) -> Response:
    """Answer what an app raised in `on_login` as Starlette and FastAPI answer it in a route."""
    # FastAPI's own may be anything that is JSON.
    detail = cast("object", exc.detail)
    if exc.status_code in {204, 304}:
        return Response(status_code=exc.status_code, headers=exc.headers)
    if isinstance(detail, str):
        return PlainTextResponse(detail, status_code=exc.status_code, headers=exc.headers)
    return JSONResponse({"detail": detail}, status_code=exc.status_code, headers=exc.headers)


def json_error(exc: ATProtoOAuthError) -> Response:
    """Answer a script with an error's stable code and sentence."""
    return JSONResponse(
        {"error": exc.code, "message": exc.sentence},
        status_code=exc.status,
        headers=error_headers(exc),
    )
