"""Begin a login: from what somebody typed to the authorization server's address.

identifier -> handle -> DID -> DID document -> PDS -> authorization server -> pushed authorization
request -> attempt in the store -> redirect. The other half is in `callback`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import unquote_plus, urlencode

import httpx

from atproto_oauth_asgi.attempt import (
    KIND,
    LIFETIME_MS,
    Attempt,
    challenge_of,
    digest,
    encode_key,
    new_state,
    new_verifier,
)
from atproto_oauth_asgi.authorization_server import ASAnswer, post
from atproto_oauth_asgi.core import Core
from atproto_oauth_asgi.dpop import DPoPKey, Nonces
from atproto_oauth_asgi.errors import (
    AuthorizationFailed,
    BadAnswer,
    LoginError,
    PDSUnreachable,
    ResolutionError,
    ScopeRefused,
    Unreachable,
)
from atproto_oauth_asgi.identifiers import DidInput, HandleInput, ServerInput, parse_identifier
from atproto_oauth_asgi.instrumentation import Events
from atproto_oauth_asgi.net import Net
from atproto_oauth_asgi.scopes import tokens
from atproto_oauth_asgi.server_metadata import ServerMetadata
from atproto_oauth_asgi.store import OneTime

# A URI (RFC 9126 §2.2), of a length that fits into the address line of every browser and proxy.
_REQUEST_URI = re.compile(r"[!-~]{1,2000}")

#: Values of `prompt` (OpenID Connect Core §3.1.2.1; `create`: its own registration draft).
PROMPTS = frozenset({"none", "login", "consent", "select_account", "create"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginRequest:
    """What somebody wants to log in with."""

    #: As typed: a handle, a DID, or the address of a server.
    identifier: str
    #: Where to go afterwards: an absolute URL that `safe_next` returned.
    next: str
    #: None asks for the configured SCOPE.
    scope: str | None = None
    prompt: str | None = None
    add: bool = False
    data: Mapping[str, object] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Account:
    server: ServerMetadata
    did: str | None
    hint: str | None


async def begin_login(
    core: Core, net: Net, nonces: Nonces, wanted: LoginRequest, *, browser_secret: str
) -> str:
    """Push an authorization request and return the URL to send the browser to.

    Args:
        core: The app's configuration.
        net: The way out.
        nonces: What other logins learnt of the server's DPoP nonce.
        wanted: The login.
        browser_secret: Value of the browser's login cookie, to which the callback is bound.

    Raises:
        ResolutionError: the account or its server was not found, or is not capable.
        AddressRefused: the account's server lies where this process may not connect to.
        ScopeRefused: the scope is not configured, or the server does not know it.
        LoginError: the server refused.
        StoreUnavailable: the attempt could not be kept.
    """
    scope = _scope(core, wanted.scope)
    kid = core.settings.client_keys.signing_kid if core.settings.client_keys else None
    if wanted.prompt is not None and wanted.prompt not in PROMPTS:
        msg = f"prompt must be one of {', '.join(sorted(PROMPTS))}."
        raise LoginError(msg)
    if wanted.prompt == "none" and kid is None:
        msg = "Only a confidential client may log in silently; set CLIENT_KEYS, or drop the prompt."
        raise LoginError(msg)
    account = await _find(core, wanted)
    key, verifier, state = DPoPKey.generate(), new_verifier(), new_state()
    redirect_uri = core.metadata.redirect_uri
    form = {
        "response_type": "code",
        "redirect_uri": redirect_uri,
        "scope": scope,
        "state": state,
        "code_challenge": challenge_of(verifier),
        "code_challenge_method": "S256",
        "response_mode": "query",
    }
    if account.hint is not None and wanted.prompt != "create":
        form["login_hint"] = account.hint
    if wanted.prompt is not None:
        form["prompt"] = wanted.prompt
    request_uri = await _push(core, net, Nonces(nonces), account.server, form, key=key, kid=kid)
    attempt = Attempt(
        issuer=account.server.issuer,
        # The account that is made now has another DID than the one that was typed.
        did=None if wanted.prompt == "create" else account.did,
        verifier=verifier,
        dpop_key=encode_key(key),
        redirect_uri=redirect_uri,
        client_id=core.client.client_id,
        client_kid=kid,
        identifier=wanted.identifier,
        next=wanted.next,
        add=wanted.add,
        data=wanted.data,
    )
    key_hash = digest(state)
    await core.store.put(
        OneTime(
            key_hash=key_hash,
            kind=KIND,
            browser_hash=digest(browser_secret),
            sealed=core.vault.seal_attempt(key_hash, attempt.to_bytes()),
            lifetime_ms=LIFETIME_MS,
        )
    )
    core.events.info("login.begun", did=account.did, issuer=account.server.issuer)
    # Only these two: the rest was pushed, where nobody can read or change it (RFC 9126 §4).
    endpoint, _, own = account.server.authorization_endpoint.partition("?")
    ours = {"client_id": core.client.client_id, "request_uri": request_uri}
    # Its own query stays as it is (RFC 6749 §3.1), but says nothing in our name.
    kept = [pair for pair in own.split("&") if pair and _name(pair) not in ours]
    return f"{endpoint}?{'&'.join([*kept, urlencode(ours)])}"


def _name(pair: str) -> str:
    return unquote_plus(pair.partition("=")[0])


def _scope(core: Core, wanted: str | None) -> str:
    if wanted is None:
        return core.settings.scope
    declared = {*tokens(core.settings.scope), *tokens(core.settings.optional_scope)}
    asked = tokens(wanted)
    # Servers compare requested with declared scopes as strings (atproto OAuth: Client Metadata).
    if "atproto" not in asked or len(set(asked)) != len(asked):
        msg = "A login's scope must name `atproto`, and nothing twice."
        raise ScopeRefused(msg)
    if extra := [token for token in asked if token not in declared]:
        msg = f"{extra[0]!r} is in neither SCOPE nor OPTIONAL_SCOPE; add it to one of them."
        raise ScopeRefused(msg)
    return " ".join(asked)


async def _find(core: Core, wanted: LoginRequest) -> _Account:
    local = core.policy.allow_insecure_loopback
    typed = parse_identifier(wanted.identifier, allow_test=local, allow_insecure=local)
    match typed:
        case ServerInput(origin=origin):
            _, server = await core.discovery.for_server(origin)
            return _Account(server=server, did=None, hint=None)
        case HandleInput(handle=name) | DidInput(did=name):
            identity = await core.resolver.resolve(name)
            server = await core.discovery.for_pds(identity.pds)
            return _Account(server=server, did=identity.did, hint=name)


async def _push(
    core: Core,
    net: Net,
    nonces: Nonces,
    server: ServerMetadata,
    form: Mapping[str, str],
    *,
    key: DPoPKey,
    kid: str | None,
) -> str:
    try:
        answer = await post(
            net,
            core.client,
            server.pushed_authorization_request_endpoint,
            form,
            issuer=server.issuer,
            kid=kid,
            key=key,
            nonces=nonces,
        )
    except Unreachable as exc:
        raise PDSUnreachable(str(exc), identifier=server.issuer) from exc
    except BadAnswer as exc:
        raise AuthorizationFailed(str(exc)) from exc
    if answer.answer.status not in {200, 201}:
        raise refusal(answer, core.events)
    try:
        document = answer.document()
    except BadAnswer as exc:
        raise AuthorizationFailed(str(exc)) from exc
    request_uri, expires_in = document.get("request_uri"), document.get("expires_in")
    if (
        not isinstance(request_uri, str)
        or not _REQUEST_URI.fullmatch(request_uri)
        or not _is_positive_integer(expires_in)
    ):
        msg = "The answer to the pushed authorization request lacks request_uri or expires_in."
        raise AuthorizationFailed(msg)
    if not answer.nonce_given:
        msg = "The server takes DPoP proofs but gives no DPoP-Nonce (atproto OAuth: DPoP)."
        raise AuthorizationFailed(msg, error="missing_dpop_nonce")
    return request_uri


def _is_positive_integer(value: object) -> bool:
    # JSON makes no difference between 300 and 300.0.
    if isinstance(value, float) and not value.is_integer():
        return False
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def refusal(answer: ASAnswer, events: Events) -> LoginError | ResolutionError:
    """Return the error for an authorization server's refusal, or its trouble."""
    error = answer.error
    words = f"The authorization server answered {answer.answer.status} {error or ''}".rstrip()
    events.warning(
        "login.refused_by_server",
        status=answer.answer.status,
        error=error,
        words=ascii(answer.description),
    )
    if error == "invalid_scope":
        return ScopeRefused(f"{words}; it does not grant the scope that was asked for.")
    status = answer.answer.status
    if status == HTTPStatus.TOO_MANY_REQUESTS or httpx.codes.is_server_error(status):
        return PDSUnreachable(f"{words}; it may do so in a moment.", identifier=answer.answer.host)
    return AuthorizationFailed(f"{words}; see the log for its words.", error=error)
