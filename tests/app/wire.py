"""What really leaves the library: every request to another server, as its bytes say."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atproto_oauth_asgi.net_policy import NetPolicy
from atproto_oauth_asgi.testing import Network


def decoded(part: str) -> dict[str, Any]:
    """Return a segment of a JWT."""
    document: dict[str, Any] = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return document


class Token:
    """Is a JWT that nobody verifies: the servers do."""

    def __init__(self, text: str) -> None:
        header, claims, _ = text.split(".")
        self.header, self.claims = decoded(header), decoded(claims)


@dataclass(frozen=True)
class Sent:
    """Is one request as a server received it."""

    method: str
    origin: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def url(self) -> str:
        return self.origin + self.path

    def all(self, name: str) -> list[str]:
        return [value for header, value in self.headers if header == name]

    @cached_property
    def form(self) -> dict[str, str]:
        values = parse_qs(self.body.decode(), keep_blank_values=True, strict_parsing=True)
        assert all(len(value) == 1 for value in values.values())
        return {name: value[0] for name, value in values.items()}

    @cached_property
    def proof(self) -> Token:
        (proof,) = self.all("dpop")
        return Token(proof)

    @cached_property
    def assertion(self) -> Token:
        return Token(self.form["client_assertion"])


class Tap(Mapping[str, ASGIApp]):
    """Stands between the library and the servers of a network, and writes down what passes."""

    def __init__(self, network: Network) -> None:
        self._policy = network.policy()
        self.sent: list[Sent] = []

    def policy(self) -> NetPolicy:
        return replace(self._policy, apps=self)

    def to(self, path: str) -> list[Sent]:
        return [one for one in self.sent if one.path == path]

    def __getitem__(self, origin: str) -> ASGIApp:
        app = self._policy.apps[origin]

        async def tapped(scope: Scope, receive: Receive, send: Send) -> None:
            body = bytearray()
            noted = False

            def note() -> None:
                nonlocal noted
                if not noted:
                    noted = True
                    self.sent.append(
                        Sent(
                            method=scope["method"],
                            origin=origin,
                            path=scope["raw_path"].decode("ascii"),
                            query=scope["query_string"].decode("ascii"),
                            headers=tuple(
                                (name.decode("latin-1"), value.decode("latin-1"))
                                for name, value in scope["headers"]
                            ),
                            body=bytes(body),
                        )
                    )

            async def receiving() -> Message:
                message = await receive()
                body.extend(message.get("body", b""))
                return message

            async def sending(message: Message) -> None:
                note()
                await send(message)

            await app(scope, receiving, sending)
            note()

        return tapped

    def __iter__(self) -> Iterator[str]:
        return iter(self._policy.apps)

    def __len__(self) -> int:
        return len(self._policy.apps)
