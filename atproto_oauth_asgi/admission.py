"""Admit somebody: from tokens to a session row, by way of the app's `on_login`."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

from starlette.requests import Request
from starlette.responses import Response

from atproto_oauth_asgi.attempt import Attempt
from atproto_oauth_asgi.cookies import CookieChange
from atproto_oauth_asgi.core import Core, Login
from atproto_oauth_asgi.dpop import DPoPKey
from atproto_oauth_asgi.errors import (
    FetchError,
    PDSUnreachable,
    SealBroken,
    StoreUnavailable,
    WrongAccount,
)
from atproto_oauth_asgi.identifiers import Did, Handle
from atproto_oauth_asgi.identity import Identity
from atproto_oauth_asgi.live import LiveSession
from atproto_oauth_asgi.runtime import Runtime
from atproto_oauth_asgi.sessions import cookie_hash, unended
from atproto_oauth_asgi.store import BrowserLogin, NewSession, SessionRecord
from atproto_oauth_asgi.tokens import TokenResponse, Tokens
from atproto_oauth_asgi.vault import Owner

#: For the fresh look at the account that the tokens are for, in seconds.
VERIFY_DEADLINE = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A login that has become a session."""

    #: The browser's new cookie.
    cookie: str = field(repr=False)
    next: str
    #: What `on_login` answered instead of the redirect to `next`.
    response: Response | None = None


async def verify(core: Core, sub: str, issuer: str) -> Identity:
    """Look up, uncached, that the issuer may speak for the account (atproto OAuth: Identity)."""
    try:
        async with asyncio.timeout(VERIFY_DEADLINE):
            identity = await core.resolver.resolve(sub, fresh=True)
            server = await core.discovery.for_pds(identity.pds, fresh=True)
    except TimeoutError as exc:
        msg = "The account that the tokens are for could not be looked up in time."
        raise PDSUnreachable(msg, identifier=sub) from exc
    except FetchError as exc:
        if exc.retryable:
            raise PDSUnreachable(str(exc), identifier=sub) from exc
        raise
    if server.issuer != issuer:
        msg = f"{issuer} gave tokens for {sub}, whose authorization server is another."
        raise WrongAccount(msg)
    return identity


async def admit(
    core: Core,
    runtime: Runtime,
    request: Request,
    attempt: Attempt,
    identity: Identity,
    response: TokenResponse,
    key: DPoPKey,
    sent: float,
    cookie: CookieChange,
) -> tuple[str, Finished]:
    """Ask the app, then make session row and cookie; return the session's id and the outcome.

    Raises:
        LoginRefused: the app turned the person away.
        StoreUnavailable: the row could not be written.
    """
    owner = Owner(
        session_id=secrets.token_urlsafe(16),
        did=response.sub,
        issuer=attempt.issuer,
        client_id=attempt.client_id,
    )
    # Made anew for each write: it tells how long ago the tokens came.
    row = partial(_row, core, owner, attempt, identity, response, key, sent)
    live = LiveSession(_record(row()), core.vault, shared_nonces=runtime.sessions.nonces)
    live.saved = False
    answer = await _ask_app(core, runtime, request, attempt, live)
    replaced = await _save(core, row, attempt, cookie, live)
    runtime.sessions.keep(live)
    if cookie.presented is not None:
        runtime.sessions.forget_cookie(cookie.presented)
    core.events.info("login.finished", session=live.id, did=live.did, issuer=live.issuer)
    for record in replaced:
        _retire(runtime, record)
    return live.id, Finished(cookie=cookie.new, next=attempt.next, response=answer)


def _row(
    core: Core,
    owner: Owner,
    attempt: Attempt,
    identity: Identity,
    response: TokenResponse,
    key: DPoPKey,
    sent: float,
) -> NewSession:
    tokens = Tokens(
        access_token=response.access_token,
        refresh_token=response.refresh_token,
        pds=identity.pds,
    )
    return NewSession(
        id=owner.session_id,
        client_id=owner.client_id,
        did=owner.did,
        issuer=owner.issuer,
        handle=identity.handle,
        scope=response.scope,
        pds=identity.pds,
        client_kid=attempt.client_kid,
        sealed_dpop_key=core.vault.seal_key(owner, key),
        sealed_tokens=core.vault.seal_tokens(owner, tokens),
        sealed_key=core.vault.key_id,
        sent_ago_ms=round((time.monotonic() - sent) * 1000),
        life_ms=response.life_ms,
        # The interval is between two refreshes: an account that is taken down a moment after its
        # login ends its session at the next call, not seconds later.
        refresh_after_ms=0,
        lifetime_ms=core.settings.session_max_age * 1000,
    )


async def _ask_app(
    core: Core, runtime: Runtime, request: Request, attempt: Attempt, live: LiveSession
) -> Response | None:
    if core.on_login is None:
        return None
    answer = await core.on_login(
        Login(
            did=Did(live.did),
            handle=Handle(live.handle) if live.handle else None,
            session=runtime.session(live),
            request=request,
            data=attempt.data,
            next=attempt.next,
        )
    )
    # Whoever writes without types may return what a route may return.
    if not isinstance(cast("object", answer), Response | None):
        msg = (
            f"on_login returned a {type(answer).__name__};"
            " let it return None or a starlette.responses.Response."
        )
        raise TypeError(msg)
    return answer


async def _save(
    core: Core,
    row: Callable[[], NewSession],
    attempt: Attempt,
    cookie: CookieChange,
    live: LiveSession,
) -> Sequence[SessionRecord]:
    """Write the session and the browser's new cookie; return the sessions that this replaced."""
    browser_id, replaced = await _browser(core, cookie.presented, live.did, add=attempt.add)
    login = BrowserLogin(
        id=browser_id or secrets.token_urlsafe(16),
        cookie_hash=cookie_hash(cookie.new),
        lifetime_ms=core.settings.session_max_age * 1000,
        presented=cookie_hash(cookie.presented) if browser_id and cookie.presented else None,
    )
    try:
        joined = await core.store.create_session(
            row(), browser=login, replaces=[record.id for record in replaced]
        )
    except StoreUnavailable:
        # Perhaps only the acknowledgement was lost; then the browser's old cookie is gone too.
        if await core.store.load_session(live.id) is None:
            raise
        joined = True
    if not joined:
        # Another login changed the cookie a moment ago: this one gets a browser of its own.
        login, replaced = replace(login, id=secrets.token_urlsafe(16), presented=None), ()
        await core.store.create_session(row(), browser=login)
    live.saved = True
    live.browser_id = login.id
    return replaced


def _record(row: NewSession) -> SessionRecord:
    """Return the row as it will be read back."""
    return SessionRecord(
        id=row.id,
        browser_id=None,
        client_id=row.client_id,
        did=row.did,
        issuer=row.issuer,
        handle=row.handle,
        scope=row.scope,
        pds=row.pds,
        client_kid=row.client_kid,
        sealed_dpop_key=row.sealed_dpop_key,
        sealed_tokens=row.sealed_tokens,
        sealed_key=row.sealed_key,
        version=1,
        status="active",
        ended_reason=None,
        access_remaining_ms=row.life_ms - row.sent_ago_ms,
        refresh_wait_ms=row.refresh_after_ms - row.sent_ago_ms,
        remaining_ms=row.lifetime_ms,
        lease_owner=None,
        lease_until=None,
        lease_remaining_ms=None,
        attempts=0,
        first_sent_ago_ms=None,
        failures=0,
        created_ago_ms=0,
        refreshed_ago_ms=row.sent_ago_ms,
        seen_ago_ms=0,
    )


async def _browser(
    core: Core, cookie: str | None, did: str, *, add: bool
) -> tuple[str | None, Sequence[SessionRecord]]:
    """Return the id of the browser's row, if there is one, and the sessions to be replaced."""
    loaded = await core.store.load(cookie_hash(cookie)) if cookie is not None else None
    if loaded is None or not loaded.current:
        # Whoever knew the cookie before somebody else's login must not get hold of that login.
        return None, []
    active = loaded.session.id if loaded.session is not None else None
    rows = await unended(core.store, loaded.browser_id)
    return loaded.browser_id, [
        row
        for row in rows
        # The same account is never listed twice; without `add` the new login takes the place of
        # the one that was active.
        if row.did == did or (not add and row.id == active)
    ]


def _retire(runtime: Runtime, record: SessionRecord) -> None:
    runtime.events.info("session.ended", session=record.id, did=record.did, reason="replaced")
    if runtime.sessions.unusable_reason(record) not in {None, "reauth_required"}:
        return
    try:
        live = runtime.sessions.live(record)
    except SealBroken:
        return
    live.end("replaced")
    runtime.revoker.start(live, live.tokens)
