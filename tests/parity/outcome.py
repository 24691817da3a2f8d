"""What a server answered, with everything that differs from run to run made equal."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import cast
from urllib.parse import parse_qsl, urlsplit

import httpx

Outcome = dict[str, object]

_VOLATILE = (
    (re.compile(r"did:plc:[a-z2-7]{24}"), "did:plc:…"),
    (re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+"), "<jwt>"),
    (re.compile(r"\b(ref|cod)-[0-9a-f]{64}"), r"\1-<64 hex>"),
    (re.compile(r"\breq-[0-9a-f]{32}"), "req-<32 hex>"),
    (re.compile(r"\bbaf(?:kr|yr)ei[a-z2-7]{52}"), "<cid>"),
    (re.compile(r"\b3[a-z2-7]{12}\b"), "<tid>"),
    # Accounts that a scenario spoils have names of their own.
    (re.compile(r"\b([a-z]+)-[0-9a-f]{6}(\.test|@mail\.test)"), r"\1\2"),
)
#: Whole lives in seconds, of which an answer may already have lost a few.
_LIVES = (2, 300, 3600)
_ERROR_PART = re.compile(r'error="[^"]*"(?:, error_description="[^"]*")?')


def steady(value: object, origins: Mapping[str, str]) -> object:
    """Return a JSON value in which addresses, names and tokens are those of every run."""
    if isinstance(value, str):
        for origin, name in origins.items():
            value = value.replace(origin, name)
        for pattern, name in _VOLATILE:
            value = pattern.sub(name, value)
        return value
    if isinstance(value, list):
        return [steady(item, origins) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        members = cast("dict[str, object]", value)
        kept = {name: steady(item, origins) for name, item in members.items()}
        if isinstance(kept.get("expires_in"), int):
            kept["expires_in"] = _life(cast("int", kept["expires_in"]))
        return kept
    return value


def of_answer(answer: httpx.Response, origins: Mapping[str, str]) -> Outcome:
    """Return status, body, the error part of `WWW-Authenticate`, and whether a nonce came."""
    try:
        body: object = answer.json()
    except ValueError:
        body = answer.text
    outcome: Outcome = {"status": answer.status_code, "body": steady(body, origins)}
    header = answer.headers.get("www-authenticate")
    if header is not None:
        found = _ERROR_PART.search(header)
        outcome["www-authenticate"] = header if found is None else found.group()
    outcome["nonce"] = "dpop-nonce" in answer.headers
    return outcome


def of_callback(url: str, state: str | None, origins: Mapping[str, str]) -> Outcome:
    """Return what a callback URL brings; `state` says whether it is the one that was sent."""
    brought = dict(parse_qsl(urlsplit(url).query))
    if "state" in brought:
        brought["state"] = "<same>" if brought["state"] == state else "<other>"
    return {"callback": steady(brought, origins)}


def difference(expected: Outcome, got: Outcome) -> str:
    """Return both outcomes, for the message of a failed row."""
    return (
        f"\nrecorded {json.dumps(expected, ensure_ascii=False)}"
        f"\n     got {json.dumps(got, ensure_ascii=False)}"
    )


def _life(seconds: int) -> int:
    return next((life for life in _LIVES if life - 5 <= seconds <= life and seconds), seconds)
