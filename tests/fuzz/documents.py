"""Targets that read a JSON document of a stranger."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import cast

import httpx

from atproto_oauth_asgi.did_document import read_did_document
from atproto_oauth_asgi.discovery import _read_issuer  # pyright: ignore[reportPrivateUsage]
from atproto_oauth_asgi.errors import (
    AddressRefused,
    AuthorizationFailed,
    BadAnswer,
    InvalidDIDDocument,
    NotOAuthCapable,
    ScopeRefused,
    WrongAccount,
    XRPCError,
)
from atproto_oauth_asgi.identifiers import Did
from atproto_oauth_asgi.net_answer import Answer
from atproto_oauth_asgi.net_policy import NetPolicy
from atproto_oauth_asgi.origins import parse_address, parse_origin
from atproto_oauth_asgi.permissions import IncludeScope
from atproto_oauth_asgi.scopes import expand_include
from atproto_oauth_asgi.server_metadata import read_server_metadata
from atproto_oauth_asgi.session import _output  # pyright: ignore[reportPrivateUsage]
from atproto_oauth_asgi.tokens import TokenResponse, Tokens
from tests.discovery_documents import ISSUER, server
from tests.fuzz.target import target

_DID = Did("did:plc:" + "a" * 24)
_TOKENS = {
    "access_token": "at-1",
    "token_type": "DPoP",
    "expires_in": 3600,
    "refresh_token": "rt-1",
    "scope": "atproto transition:generic",
    "sub": _DID,
}
_DOCUMENT = {
    "id": _DID,
    "alsoKnownAs": ["at://alice.example.com"],
    "service": [
        {
            "id": "#atproto_pds",
            "type": "AtprotoPersonalDataServer",
            "serviceEndpoint": "https://pds.example.com",
        }
    ],
}


def parsed(data: bytes) -> Mapping[str, object] | None:
    """Return the JSON object as `Net` would hand it on."""
    try:
        value = Answer(status=200, headers=httpx.Headers(), body=data).json()
    except BadAnswer:
        return None
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else None


@target(
    b'{"a": [1, 2.5, "x", null, true]}', b"[" * 500 + b"]" * 500, b'{"a": 1e999}', b'"\\ud800"',
    b"\xef\xbb\xbf{}", b"{}".ljust(50), b'{"a":1,"a":2}', b"NaN", b"-0", b"1" * 5000,
)  # fmt: skip
def json_answer(data: bytes) -> None:
    try:
        value = Answer(status=200, headers=httpx.Headers(), body=data).json()
    except BadAnswer as exc:
        # A body may be tokens: nothing of it may be seen, not even in what the error came from.
        assert exc.__cause__ is None
        assert exc.__suppress_context__
        return
    text = json.dumps(value, ensure_ascii=False)
    assert text.encode() == json.dumps(json.loads(text), ensure_ascii=False).encode()
    assert not isinstance(value, float) or math.isfinite(value)


@target(json.dumps(_TOKENS), json.dumps({**_TOKENS, "expires_in": -1.5}), '{"error":"x"}')
def token_response(data: bytes) -> None:
    document = parsed(data)
    if document is None:
        return
    for sub in (None, _DID):
        try:
            found = TokenResponse.parse(document, sub=sub)
        except (BadAnswer, AuthorizationFailed, ScopeRefused, WrongAccount):
            continue
        assert 1_000 <= found.life_ms <= 24 * 3600 * 1000
        assert 1_000 <= found.refresh_after_ms <= 10_000
        for token in (found.access_token, found.refresh_token or "x"):
            assert re.fullmatch(r"[\x21-\x7e]{1,32768}", token)
        assert "atproto" in found.scope.split(" ")
        assert found.sub.startswith(("did:plc:", "did:web:"))
        assert sub is None or found.sub == sub
        held = Tokens(
            access_token=found.access_token, refresh_token=found.refresh_token, pds="https://p.dev"
        )
        assert Tokens.from_bytes(held.to_bytes()) == held


@target(json.dumps(_DOCUMENT), json.dumps({**_DOCUMENT, "service": {}}))
def did_document(data: bytes) -> None:
    document = parsed(data)
    if document is None:
        return
    try:
        found = read_did_document(_DID, document)
    except InvalidDIDDocument:
        return
    assert document["id"] == found.did == _DID
    assert parse_origin(found.pds) == found.pds
    assert found.pds.startswith("https://")
    assert found.claimed_handle is None or found.claimed_handle == found.claimed_handle.lower()


@target(
    json.dumps({"resource": ISSUER, "authorization_servers": [ISSUER]}),
    json.dumps({"resource": ISSUER, "authorization_servers": [ISSUER, ISSUER]}),
)
def resource_metadata(data: bytes) -> None:
    document = parsed(data)
    if document is None:
        return
    try:
        found = _read_issuer(ISSUER, document)
    except NotOAuthCapable as exc:
        assert len(str(exc)) < 500
        return
    assert document["authorization_servers"] == [found]


@target(
    json.dumps(server()), json.dumps(server(authorization_endpoint="javascript:alert(1)")),
    json.dumps(server(token_endpoint="https://169.254.169.254/t")),
    json.dumps(server(protected_resources=["https://pds.example.com"])),
)  # fmt: skip
def server_metadata(data: bytes) -> None:
    document = parsed(data)
    if document is None:
        return
    try:
        found = read_server_metadata(ISSUER, document, policy=NetPolicy())
    except (NotOAuthCapable, AddressRefused) as exc:
        assert len(str(exc)) < 1000
        return
    assert found.issuer == ISSUER == document["issuer"]
    for endpoint in (
        found.authorization_endpoint,
        found.token_endpoint,
        found.pushed_authorization_request_endpoint,
        found.revocation_endpoint or found.token_endpoint,
    ):
        address = parse_address(endpoint)
        assert address is not None
        assert address.port == 443
        assert "#" not in endpoint


@target(
    '[{"resource":"repo","collection":["a.b.c"]},{"resource":"rpc","lxm":["a.b.d"],"aud":"*"}]',
    '[{"resource":"rpc","lxm":["a.b.d"],"inheritAud":true}]',
)
def permission_set(data: bytes) -> None:
    try:
        entries: object = Answer(status=200, headers=httpx.Headers(), body=data).json()
    except BadAnswer:
        return
    if not isinstance(entries, list):
        return
    listed = [
        cast("dict[str, object]", entry)
        for entry in cast("list[object]", entries)
        if isinstance(entry, dict)
    ]
    include = IncludeScope(nsid="a.b.full", audience="did:web:a.dev#x")
    for token in expand_include(include, listed):
        resource, _, rest = token.partition(":")
        assert resource in {"repo", "rpc"} or token.startswith(("repo?", "rpc?"))
        assert "*" not in rest.partition("?")[0]
        assert "a.b." in token


@target('{"error":"InvalidRequest","message":"No"}', '{"a":1}', "", "[]", "<html>")
def xrpc_answer(data: bytes) -> None:
    request = httpx.Request(
        "GET", "https://p.dev", headers={"authorization": "DPoP t", "dpop": "p"}
    )
    for status in (200, 400):
        answer = httpx.Response(status, content=data, request=request)
        try:
            found = _output(answer)
        except BadAnswer:
            assert status == 200
        except XRPCError as exc:
            assert status == 400
            assert str(exc).isprintable()
            assert len(str(exc)) < 500
        else:
            assert isinstance(found, dict)
