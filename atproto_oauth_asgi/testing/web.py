"""Requests, answers and refusals of the servers that the embedded network plays."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.types import Message, Receive, Scope, Send

JSONObject = dict[str, object]

#: No request that these servers understand is larger; blobs are the largest.
MAX_BODY = 5 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Is one whole HTTP request."""

    method: str
    #: Path as it was sent, percent-encoding included: it is what a DPoP proof names.
    path: str
    query: Mapping[str, list[str]]
    #: Lower-case names; every value that was sent.
    headers: Mapping[str, list[str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the first value of a header."""
        values = self.headers.get(name)
        return values[0] if values else None

    def parameter(self, name: str) -> str | None:
        """Return the first value of a query parameter."""
        values = self.query.get(name)
        return values[0] if values else None

    @property
    def content_type(self) -> str:
        """Return the media type of the body without parameters, or nothing."""
        return (self.header("content-type") or "").partition(";")[0].strip().lower()

    @property
    def host(self) -> str:
        """Return the host name that was asked for, without the port."""
        return (self.header("host") or "").partition(":")[0].lower()

    def cookie(self, name: str) -> str | None:
        """Return a cookie's value."""
        jar = SimpleCookie()
        try:
            jar.load("; ".join(self.headers.get("cookie", ())))
        except CookieError:
            return None
        return jar[name].value if name in jar else None

    def form(self) -> dict[str, str]:
        """Return the fields of an urlencoded body; the last of a repeated field wins."""
        fields = parse_qs(self.body.decode("utf-8", "replace"), keep_blank_values=True)
        return {name: values[-1] for name, values in fields.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Is one whole HTTP answer. `Network.alter` hands it to a test, which may return another."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def json(self) -> JSONObject:
        """Return the body as a JSON object."""
        value: object = json.loads(self.body)
        assert isinstance(value, dict)
        return value  # pyright: ignore[reportUnknownVariableType]

    def header(self, name: str) -> str | None:
        """Return the first value of a header."""
        return next((value for key, value in self.headers if key == name.lower()), None)

    def with_header(self, name: str, value: str | None) -> Answer:
        """Return this answer with one header set to a value, or left out for `None`."""
        kept = tuple(pair for pair in self.headers if pair[0] != name.lower())
        return replace(self, headers=kept if value is None else (*kept, (name.lower(), value)))

    def with_json(self, **members: object) -> Answer:
        """Return this answer with members of its JSON object replaced; `None` removes one."""
        merged = {**self.json(), **members}
        kept = {name: value for name, value in merged.items() if value is not None}
        return replace(self, body=json.dumps(kept).encode())


Handler = Callable[[Request], Awaitable[Answer]]


def json_answer(
    status: int, value: object, *headers: tuple[str, str], media_type: str = "application/json"
) -> Answer:
    """Return a JSON answer."""
    body = json.dumps(value, separators=(",", ":")).encode()
    return Answer(status=status, headers=(("content-type", media_type), *headers), body=body)


def text_answer(status: int, text: str, *headers: tuple[str, str]) -> Answer:
    """Return a plain text answer."""
    kind = ("content-type", "text/plain; charset=utf-8")
    return Answer(status=status, headers=(kind, *headers), body=text.encode())


class ConnectionDropped(Exception):
    """Says that the request was processed, and that the connection ends without an answer."""


class OAuthRefusal(Exception):
    """Is an error answer of an authorization server (RFC 6749 §5.2, RFC 9449 §5)."""

    def __init__(
        self,
        error: str,
        description: str,
        *,
        status: int = 400,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(error, description)
        self.error = error
        self.description = description
        self.status = status
        self.headers = headers

    def answer(self) -> Answer:
        """Return the answer with its JSON body."""
        body = {"error": self.error, "error_description": self.description}
        return json_answer(self.status, body, *self.headers)


class XRPCRefusal(Exception):
    """Is an error answer of a PDS (XRPC: Error Responses)."""

    def __init__(
        self,
        status: int,
        error: str,
        message: str,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(error, message)
        self.status = status
        self.error = error
        self.message = message
        self.headers = headers

    def answer(self) -> Answer:
        """Return the answer with its JSON body."""
        return json_answer(
            self.status, {"error": self.error, "message": self.message}, *self.headers
        )


async def read_request(scope: Scope, receive: Receive) -> Request | None:
    """Read a whole request; `None` when the client left before its end or sent too much."""
    body = bytearray()
    more = True
    while more:
        message: Message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            return None
    headers: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
    return Request(
        method=scope["method"],
        path=raw_path.partition(b"?")[0].decode("latin-1"),
        query=parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True),
        headers=headers,
        body=bytes(body),
    )


async def send_answer(answer: Answer, send: Send) -> None:
    """Send a whole answer."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    if answer.header("content-length") is None:
        headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
