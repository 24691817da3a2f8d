"""Finish a login: from the callback to a session.

attempt consumed -> browser binding -> `iss` -> error or code -> token request -> token checks ->
`sub` -> PDS -> authorization server again, uncached -> `on_login` -> session row -> cookie.
Whatever fails after the token response revokes what was just received.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus

import httpx
from starlette.exceptions import HTTPException
from starlette.requests import Request

from atproto_oauth_asgi.admission import VERIFY_DEADLINE, Finished, admit, verify
from atproto_oauth_asgi.attempt import KIND, Attempt, digest
from atproto_oauth_asgi.authorization_server import ASAnswer, post
from atproto_oauth_asgi.cookies import CookieChange
from atproto_oauth_asgi.core import Core
from atproto_oauth_asgi.dpop import DPoPKey, Nonces
from atproto_oauth_asgi.errors import (
    ATProtoOAuthError,
    AuthorizationFailed,
    BadAnswer,
    ClientKeyMissing,
    InteractionRequired,
    InvalidCallback,
    IssuerMismatch,
    LoginCancelled,
    LoginError,
    LoginExpired,
    LoginRefused,
    PDSUnreachable,
    ScopeRefused,
    StoreUnavailable,
    Unreachable,
    error_for,
)
from atproto_oauth_asgi.login import refusal
from atproto_oauth_asgi.next_url import safe_next
from atproto_oauth_asgi.runtime import Runtime
from atproto_oauth_asgi.server_metadata import ServerMetadata
from atproto_oauth_asgi.sessions import cookie_hash
from atproto_oauth_asgi.store import Consumed
from atproto_oauth_asgi.tasks import finish
from atproto_oauth_asgi.tokens import TokenResponse
from atproto_oauth_asgi.words import ERROR_CODE

#: A callback repeated by the same browser within this time gets the first one's outcome.
REPEAT_MS = 60_000
#: What a repeated callback waits for the first one, in seconds.
REPEAT_WAIT = 30.0
#: The code works once, so the server gets long to answer.
EXCHANGE_DEADLINE = 30.0

_PARAMETERS = ("state", "iss", "code", "error", "error_description", "response")
_INTERACTION = frozenset(
    {"login_required", "consent_required", "interaction_required", "account_selection_required"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grant:
    """What a code is redeemed with, and what revokes the tokens."""

    did: str
    issuer: str
    client_kid: str | None
    key: DPoPKey
    nonces: Nonces


class CallbackFailed(Exception):  # carries an error to the page that shows it
    """Says why a login ended, and what the person had typed."""

    def __init__(
        self,
        error: ATProtoOAuthError,
        *,
        identifier: str | None = None,
        next: str | None = None,  # noqa: A002  # the parameter's name in the whole flow
    ) -> None:
        self.error = error
        self.identifier = identifier
        self.next = next


async def finish_login(
    core: Core,
    runtime: Runtime,
    request: Request,
    *,
    browser_secret: str | None,
    cookie: str | None,
) -> Finished:
    """Turn a callback request into a session, once.

    Args:
        core: The app's configuration.
        runtime: What this event loop owns.
        request: The callback request.
        browser_secret: Value of the browser's login cookie.
        cookie: Value of its session cookie, if it is signed in already.

    Raises:
        CallbackFailed: the login ended without a session.
        HTTPException: it did, and this is how the app's `on_login` wants it answered.
        StoreUnavailable: nobody can say; the attempt may still be there.
    """
    try:
        parameters = _parameters(request)
    except CallbackFailed:
        core.events.warning("callback.refused", reason="parameters")
        raise
    key_hash = digest(parameters["state"])
    # A task of its own: a browser that goes away interrupts nothing, and comes back for the
    # outcome.
    task = runtime.tasks.start(
        _consume(core, runtime, request, parameters, key_hash, browser_secret, cookie),
        name="login",
    )
    if not runtime.owners:
        # Nothing would go on with it after this request.
        await finish(task, within=EXCHANGE_DEADLINE + VERIFY_DEADLINE)
    done = await asyncio.shield(task)
    return done if isinstance(done, Finished) else await _repeat(core, key_hash, *done)


async def _consume(
    core: Core,
    runtime: Runtime,
    request: Request,
    parameters: Mapping[str, str],
    key_hash: bytes,
    browser_secret: str | None,
    cookie: str | None,
) -> Finished | tuple[Consumed, Sequence[str]]:
    """Use the attempt up and finish its login; return what a repeated callback is told by."""
    consumed = await core.store.consume(key_hash, kind=KIND)
    if consumed is None or browser_secret is None or not _bound(consumed, browser_secret):
        # Who cannot show the browser's secret learns nothing, and the attempt is gone.
        if consumed is not None and consumed.first:
            # The browser that began it must not wait for an outcome that never comes.
            with contextlib.suppress(StoreUnavailable):
                await core.store.record_outcome(
                    key_hash, json.dumps({"error": InvalidCallback.code})
                )
        reason = "unknown_state" if consumed is None else "other_browser"
        core.events.warning("callback.refused", reason=reason)
        error: LoginError = InvalidCallback()
        raise CallbackFailed(error) from error
    if consumed.expired:
        error = LoginExpired()
        raise CallbackFailed(error) from error
    given = core.vault.cookies_of(key_hash, browser_secret)
    if not consumed.first or consumed.sealed is None:
        return consumed, given
    change = CookieChange(presented=cookie, new=given[0])
    return await _finish(core, runtime, request, parameters, key_hash, consumed.sealed, change)


def _parameters(request: Request) -> Mapping[str, str]:
    query = request.query_params
    if any(len(query.getlist(name)) > 1 for name in _PARAMETERS) or "response" in query:
        raise CallbackFailed(InvalidCallback())
    if not query.get("state"):
        raise CallbackFailed(InvalidCallback())
    return dict(query)


def _bound(consumed: Consumed, browser_secret: str) -> bool:
    return hmac.compare_digest(consumed.browser_hash, digest(browser_secret))


async def _repeat(
    core: Core, key_hash: bytes, consumed: Consumed, given: Sequence[str]
) -> Finished:
    """Answer a reload or a cancelled navigation with the first callback's outcome.

    `given` holds the cookie that the first callback gave, as each key of the ring has it.
    """
    if consumed.consumed_ago_ms > REPEAT_MS:
        core.events.warning("callback.refused", reason="used")
        raise CallbackFailed(InvalidCallback())
    outcome = await _outcome(core, key_hash, consumed)
    error: LoginError = InvalidCallback()
    if outcome is None:
        # Whoever began it is gone, but perhaps only after the session was there.
        error = LoginExpired()
        outcome = {"next": safe_next(None, core.settings)}
    where = {"identifier": outcome.get("identifier"), "next": outcome.get("next")}
    if "error" in outcome:
        raise CallbackFailed(error_for(outcome["error"], outcome.get("sentence")), **where)
    for cookie in given:
        loaded = await core.store.load(cookie_hash(cookie))
        # Or somebody has logged in or out there since; that is none of this callback's.
        if (
            loaded is not None
            and loaded.current
            and loaded.session is not None
            and loaded.session.id == outcome.get("session", loaded.session.id)
            and loaded.session.status != "ended"
        ):
            return Finished(cookie=cookie, next=outcome["next"])
    raise CallbackFailed(error, **where)


async def _outcome(core: Core, key_hash: bytes, consumed: Consumed) -> dict[str, str] | None:
    """Wait for the first callback's outcome; None when its process has been killed or is stuck."""
    end = time.monotonic() + REPEAT_WAIT
    pause = 0.02
    while consumed.outcome is None:
        if time.monotonic() >= end:
            return None
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 0.5)
        again = await core.store.consume(key_hash, kind=KIND)
        if again is None:
            return None
        consumed = again
    outcome: dict[str, str] = json.loads(consumed.outcome)
    return outcome


async def _finish(
    core: Core,
    runtime: Runtime,
    request: Request,
    parameters: Mapping[str, str],
    key_hash: bytes,
    sealed: bytes,
    cookie: CookieChange,
) -> Finished:
    outcome: dict[str, str] = {"error": LoginError.code}
    try:
        attempt = Attempt.from_bytes(core.vault.open_attempt(key_hash, sealed))
        outcome |= {"identifier": attempt.identifier, "next": attempt.next}
        session_id, finished = await _exchange(core, runtime, request, parameters, attempt, cookie)
        outcome = {"session": session_id, "next": attempt.next}
    except ATProtoOAuthError as exc:
        core.events.warning("login.failed", error=exc.code, why=str(exc))
        outcome["error"] = exc.code
        if isinstance(exc, LoginRefused):
            outcome["sentence"] = exc.sentence
        raise CallbackFailed(
            exc, identifier=outcome.get("identifier"), next=outcome.get("next")
        ) from exc
    except HTTPException as exc:
        # The app's own answer, by way of `on_login`. It is given once, as responses are.
        outcome["error"] = LoginRefused.code
        why = f"The app's on_login answered {exc.status_code}."
        core.events.warning("login.failed", error=LoginRefused.code, why=why)
        raise
    finally:
        # Without the note a reload is told to start again; that is all that is lost.
        with contextlib.suppress(StoreUnavailable):
            await core.store.record_outcome(key_hash, json.dumps(outcome))
    return finished


async def _exchange(
    core: Core,
    runtime: Runtime,
    request: Request,
    parameters: Mapping[str, str],
    attempt: Attempt,
    cookie: CookieChange,
) -> tuple[str, Finished]:
    # Also on errors: whoever answers in another's name may not even say no (RFC 9207 §2.4).
    if parameters.get("iss") != attempt.issuer:
        msg = "The callback's iss is not the issuer this login began with."
        raise IssuerMismatch(msg)
    if "error" in parameters:
        raise _denied(parameters)
    code = parameters.get("code")
    if not code:
        raise InvalidCallback
    if attempt.client_id != core.client.client_id:
        msg = "The client_id has changed since this login began; start again."
        raise LoginExpired(msg)
    attempt = replace(attempt, client_kid=core.client.kid_for(attempt.client_kid))
    grant = _Grant(
        did=attempt.did or "unknown",
        issuer=attempt.issuer,
        client_kid=attempt.client_kid,
        key=attempt.key,
        nonces=Nonces(runtime.sessions.nonces),
    )
    server, sent, answer = await _redeem(core, runtime, attempt, code, grant)
    document: Mapping[str, object] = {}
    try:
        if httpx.codes.is_success(answer.answer.status):
            document = answer.document()
        if answer.answer.status != HTTPStatus.OK:
            raise refusal(answer, core.events)
        response = TokenResponse.parse(document, sub=attempt.did)
        if not answer.nonce_given:
            msg = "The server takes DPoP proofs but gives no DPoP-Nonce (atproto OAuth: DPoP)."
            raise AuthorizationFailed(msg)
        identity = await verify(core, response.sub, attempt.issuer)
        return await admit(
            core, runtime, request, attempt, identity, response, grant.key, sent, cookie
        )
    except BaseException as exc:
        runtime.revoker.start_raw(grant, document, server)
        if isinstance(exc, BadAnswer):
            raise AuthorizationFailed(str(exc)) from exc
        raise


async def _redeem(
    core: Core, runtime: Runtime, attempt: Attempt, code: str, grant: _Grant
) -> tuple[ServerMetadata, float, ASAnswer]:
    """Send the code to the token endpoint; return whose that is, when that was, and the answer."""
    try:
        server = await core.discovery.for_issuer(attempt.issuer)
        sent = time.monotonic()
        answer = await post(
            runtime.net,
            core.client,
            server.token_endpoint,
            {
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": attempt.redirect_uri,
                "code_verifier": attempt.verifier,
            },
            issuer=attempt.issuer,
            kid=attempt.client_kid,
            key=grant.key,
            nonces=grant.nonces,
            deadline=EXCHANGE_DEADLINE,
        )
    except Unreachable as exc:
        raise PDSUnreachable(str(exc)) from exc
    except BadAnswer as exc:
        raise AuthorizationFailed(str(exc)) from exc
    except ClientKeyMissing as exc:
        raise LoginExpired(str(exc)) from exc
    return server, sent, answer


def _denied(parameters: Mapping[str, str]) -> LoginError:
    error, words = parameters["error"], parameters.get("error_description", "")
    if error == "access_denied":
        if "expired" in words.lower():
            return LoginExpired()
        if "scope" in words.lower():
            return ScopeRefused()
        return LoginCancelled()
    if error in _INTERACTION:
        return InteractionRequired()
    if error == "invalid_scope":
        return ScopeRefused()
    shown = error if ERROR_CODE.fullmatch(error) else "an unknown error"
    return AuthorizationFailed(f"The authorization server answered {shown}.")
