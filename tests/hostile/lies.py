"""What a hostile authorization server may answer in the place of an honest answer."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace

from starlette.requests import HTTPConnection

from atproto_oauth_asgi.testing.web import Answer

Change = Callable[[Answer], Answer]


async def unlimited(conn: HTTPConnection, identifier: str) -> None:
    """Let anybody begin any number of logins."""
    del conn, identifier


def honest_challenge(change: Change) -> Change:
    """Lie only after the usual nonce challenge."""
    return lambda answer: answer if b"use_dpop_nonce" in answer.body else change(answer)


def member(name: str, value: object) -> Change:
    """Replace one member of the JSON object; None removes it."""
    return lambda answer: answer.with_json(**{name: value})


def raw(body: bytes, *, status: int | None = None, content_type: str | None = None) -> Change:
    """Replace the body; the DPoP nonce stays, so that nothing else is wrong."""

    def change(answer: Answer) -> Answer:
        lie = replace(answer, body=body, status=status or answer.status)
        return lie.with_header("content-type", content_type) if content_type else lie

    return change


def nonce(*values: str) -> Change:
    """Replace the DPoP nonce by any number of others."""

    def change(answer: Answer) -> Answer:
        headers = answer.with_header("dpop-nonce", None).headers
        return replace(answer, headers=(*headers, *(("dpop-nonce", value) for value in values)))

    return change


def redirect(status: int, location: str) -> Change:
    """Answer with a redirect."""
    return lambda answer: replace(answer, status=status).with_header("location", location)


class endless_challenge:  # noqa: N801  # reads like the functions beside it
    """Ask for the same request again, with a new nonce each time."""

    def __init__(self) -> None:
        #: Counts from 1 what was asked.
        self.count = itertools.count(1)

    def __call__(self, answer: Answer) -> Answer:
        challenge = raw(b'{"error":"use_dpop_nonce"}', status=400)(answer)
        return challenge.with_header("dpop-nonce", f"nonce-{next(self.count)}")


#: Bodies that are no answer of an authorization server, whatever their status.
BODIES: dict[str, bytes] = {
    "nothing": b"",
    "html": b"<!doctype html><script>alert(1)</script>",
    "list": b"[]",
    "null": b"null",
    "text": b'"ok"',
    "an error": b'{"error":"server_error","error_description":"<b>x</b>"}',
    "deep": b"[" * 30_000 + b"]" * 30_000,
    "deep object": b'{"a":' * 10_000,
    "utf-16": json.dumps({"access_token": "a"}).encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "infinite": b'{"expires_in":1e999}',
    "not a number": b'{"expires_in":NaN}',
    "many digits": b'{"expires_in":' + b"9" * 10_000 + b"}",
    "half a character": b'{"access_token":"\\ud800"}',
    "a megabyte": b'{"access_token":"' + b"a" * 1_000_000 + b'"}',
    "two": b"{}{}",
    "binary": bytes(range(256)),
}

#: What may stand where a nonce should: nothing of it is one.
NONCES: dict[str, tuple[str, ...]] = {
    "none": (),
    "empty": ("",),
    "two": ("a", "b"),
    "64 kB": ("n" * 65_536,),
    "quoted": ('"n"',),
    "with a space": ("a b",),
    "with a tab": ("a\tb",),
    "with a bell": ("a\x07b",),
    "not ASCII": ("n\xe9",),
}
