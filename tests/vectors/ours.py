"""What this library says where `vectors.json` and the reference packages say something."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, cast
from urllib.parse import quote

from atproto_oauth_asgi import covers
from atproto_oauth_asgi.attempt import challenge_of
from atproto_oauth_asgi.did_document import read_did_document
from atproto_oauth_asgi.dpop import target_uri
from atproto_oauth_asgi.errors import ATProtoOAuthError, ConfigurationError, InvalidIdentifier
from atproto_oauth_asgi.identifiers import Did, parse_did
from atproto_oauth_asgi.keys import ClientKeys, generate_client_keys
from atproto_oauth_asgi.metadata import (
    build_loopback_client_id,
    check_base_url,
    check_prefix,
    loopback_document,
    parse_loopback_client_id,
    redirect_uri_matches,
)
from atproto_oauth_asgi.net_dns import Resolver
from atproto_oauth_asgi.net_guard import Guard
from atproto_oauth_asgi.net_policy import NetPolicy
from atproto_oauth_asgi.origins import is_domain_name, parse_origin
from atproto_oauth_asgi.permissions import (
    IncludeScope,
    RPCPermission,
    UnknownScope,
    is_nsid,
    is_scope_string,
    parse_scope,
)
from atproto_oauth_asgi.scopes import expand_include
from atproto_oauth_asgi.tokens import TokenResponse

Answer = object


def _accepts(work: Callable[[], object], refusal: type[Exception] = ATProtoOAuthError) -> bool:
    try:
        work()
    except refusal:
        return False
    except ATProtoOAuthError:
        return True
    return True


def _scope(token: str) -> str | None:
    scope = parse_scope(token)
    return None if isinstance(scope, UnknownScope) else str(scope)


def _scope_string(text: str) -> dict[str, bool]:
    fine = is_scope_string(text)
    return {"oauth_syntax": fine, "atproto": fine and "atproto" in text.split(" ")}


def _service(text: str) -> bool:
    token = f"rpc:com.example.get?aud={quote(text, safe='')}"
    return text != "*" and isinstance(parse_scope(token), RPCPermission)


def _expansion(case: Mapping[str, Any]) -> list[str]:
    include = IncludeScope(nsid=case["nsid"], audience=case.get("aud"))
    return list(expand_include(include, case["perms"]))


def _loopback(client_id: str) -> dict[str, object] | None:
    client = parse_loopback_client_id(client_id)
    return client and {"scope": client.scope, "redirect_uris": list(client.redirect_uris)}


def _loopback_metadata(client_id: str) -> object:
    client = parse_loopback_client_id(client_id)
    return client and loopback_document(client_id, client)


def _did_document(document: Mapping[str, object]) -> dict[str, object] | None:
    did = Did(str(document["id"]))
    try:
        read = read_did_document(did, document, allow_insecure=True)
    except ATProtoOAuthError:
        return None
    return {"handle": read.claimed_handle, "pds": read.pds}


#: What a needed permission is called, for each question that a reference PDS asks of a grant.
def needed(resource: str, options: Mapping[str, str]) -> str:
    match resource:
        case "Account":
            return f"account:{options['attr']}?action={options['action']}"
        case "Identity":
            return f"identity:{options['attr']}"
        case "Blob":
            return f"blob:{quote(options['mime'], safe='/+')}"
        case "Repo":
            return f"repo:{options['collection']}?action={options['action']}"
        case _:
            return f"rpc:{options['lxm']}?aud={quote(options['aud'], safe='*:')}"


def _allows(case: Mapping[str, Any]) -> bool:
    return covers(case["granted"], needed(case["resource"], case["options"]))


def _base_url_of(address: str) -> bool:
    """Tell whether some BASE_URL makes this client id or redirect URI."""
    base_url, slash, name = address.rpartition("/")
    try:
        base = check_base_url(base_url + slash if base_url.endswith(":/") else base_url)
        check_prefix("/" + name)
    except ConfigurationError:
        return False
    return base.url + "/" + name == address


def _built(config: Mapping[str, Any]) -> object:
    """Read what is built for a development client's scope and redirect URIs, with the defaults."""
    scope, uris = config.get("scope", "atproto"), config.get("redirect_uris", ["http://127.0.0.1/"])
    return _loopback(build_loopback_client_id(scope, uris[0]))


def _public_key(members: Mapping[str, object]) -> bool:
    (private,) = json.loads(generate_client_keys())["keys"]
    jwk = {name: value for name, value in private.items() if name not in {"use", "alg", "kid"}}
    return _accepts(lambda: ClientKeys({"keys": [{**jwk, **members}]}))


#: Only what the guard lets out gets a proof.
_GUARD = Guard(_POLICY := NetPolicy(allow_insecure_loopback=True, ports=None), Resolver(_POLICY))


def _htu(text: str) -> str | None:
    try:
        url = _GUARD.parse_url(text)
        _GUARD.check_url(url)
    except ATProtoOAuthError:
        return None
    return target_uri(url)


OURS: dict[str, Callable[[Any], Answer]] = {
    "handle": is_domain_name,
    "nsid": is_nsid,
    "did": lambda text: _accepts(lambda: parse_did(text), InvalidIdentifier),
    "atproto_did": lambda text: _accepts(
        lambda: parse_did(text, allow_test=True, allow_insecure=True)
    ),
    "did_service_ref": _service,
    "did_document": _did_document,
    "scope": _scope,
    "scope_string": _scope_string,
    "include_expansion": _expansion,
    "allows": _allows,
    "client_id_loopback": _loopback,
    "loopback_metadata": _loopback_metadata,
    "redirect_uri_match": lambda case: redirect_uri_matches(case["registered"], case["requested"]),
    "client_id_discoverable": lambda text: text.startswith("https:") and _base_url_of(text),
    "redirect_uri": _base_url_of,
    "loopback_build": _built,
    "jwk_public": _public_key,
    "issuer": lambda text: parse_origin(text, allow_insecure=True) == text,
    "token_response": lambda document: _accepts(lambda: TokenResponse.parse(document, sub=None)),
    "htu": _htu,
    "pkce": challenge_of,
}


def answer(kind: str, case: object) -> Answer:
    return OURS[kind](cast("Any", case))
