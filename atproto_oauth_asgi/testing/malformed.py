"""Answers that no server should give, made of answers that one gave."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

from atproto_oauth_asgi.testing.web import Answer

Malformation: TypeAlias = Literal[
    "not_json",
    "html",
    "empty",
    "truncated",
    "huge",
    "content_type",
    "array",
    "null",
    "wrong_types",
    "duplicate_keys",
    "deep",
    "not_utf8",
]
KINDS: tuple[Malformation, ...] = get_args(Malformation)

_HUGE = 4 * 1024 * 1024
_DEEP = 20_000
_WRONG: tuple[object, ...] = (None, True, -1, 1e308, "", [], {}, ["x"], {"x": "y"})


def malform(answer: Answer, kind: Malformation, chance: random.Random) -> Answer:
    """Return an answer of the same status that is malformed in one way."""
    return _MAKERS[kind](answer, chance)


def _not_json(answer: Answer, _chance: random.Random) -> Answer:
    return _with_body(answer, b"{'error': oops}")


def _html(answer: Answer, _chance: random.Random) -> Answer:
    page = b"<!doctype html><title>502 Bad Gateway</title><h1>502 Bad Gateway</h1>"
    return _with_body(answer, page).with_header("content-type", "text/html; charset=utf-8")


def _empty(answer: Answer, _chance: random.Random) -> Answer:
    return _with_body(answer, b"")


def _truncated(answer: Answer, chance: random.Random) -> Answer:
    return _with_body(answer, answer.body[: chance.randrange(max(1, len(answer.body)))])


def _huge(answer: Answer, _chance: random.Random) -> Answer:
    return _with_body(answer, b" " * _HUGE + answer.body)


def _content_type(answer: Answer, chance: random.Random) -> Answer:
    kind = chance.choice(("text/plain", "application/octet-stream", "text/html", "x"))
    return answer.with_header("content-type", kind)


def _array(answer: Answer, _chance: random.Random) -> Answer:
    return _with_body(answer, b"[" + answer.body + b"]")


def _null(answer: Answer, _chance: random.Random) -> Answer:
    return _with_body(answer, b"null")


def _wrong_types(answer: Answer, chance: random.Random) -> Answer:
    members = _members(answer)
    wrong = {name: chance.choice(_WRONG) for name in members}
    return _with_body(answer, json.dumps(wrong).encode())


def _duplicate_keys(answer: Answer, _chance: random.Random) -> Answer:
    pairs = [f"{json.dumps(name)}:{json.dumps(value)}" for name, value in _members(answer).items()]
    other = [f'{json.dumps(name)}:"another"' for name in _members(answer)]
    return _with_body(answer, ("{" + ",".join([*other, *pairs]) + "}").encode())


def _deep(answer: Answer, _chance: random.Random) -> Answer:
    return _with_body(answer, b"[" * _DEEP + b"]" * _DEEP)


def _not_utf8(answer: Answer, _chance: random.Random) -> Answer:
    return _with_body(answer, b'{"error":"\xff\xfe"}')


_MAKERS: dict[Malformation, Callable[[Answer, random.Random], Answer]] = {
    "not_json": _not_json,
    "html": _html,
    "empty": _empty,
    "truncated": _truncated,
    "huge": _huge,
    "content_type": _content_type,
    "array": _array,
    "null": _null,
    "wrong_types": _wrong_types,
    "duplicate_keys": _duplicate_keys,
    "deep": _deep,
    "not_utf8": _not_utf8,
}


def _with_body(answer: Answer, body: bytes) -> Answer:
    return Answer(status=answer.status, headers=answer.headers, body=body)


def _members(answer: Answer) -> dict[str, object]:
    try:
        return answer.json()
    except (ValueError, AssertionError):
        return {}
