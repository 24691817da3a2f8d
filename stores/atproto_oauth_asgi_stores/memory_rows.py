"""Rows of the memory store."""

from __future__ import annotations

from dataclasses import dataclass

from atproto_oauth_asgi.store import (
    ENDED_KEPT_MS,
    Consumed,
    EndedReason,
    NewSession,
    SessionFilter,
    SessionRecord,
    SessionStatus,
)


@dataclass(slots=True, kw_only=True)
class OneTimeRow:
    """A one-time thing; all times are milliseconds of the store's clock."""

    kind: str
    browser_hash: bytes
    sealed: bytes | None
    expires: int
    consumed: int | None = None
    outcome: str | None = None

    def use(self, now: int) -> Consumed:
        """Use it up, unless that was done or it is too late."""
        first = self.consumed is None and self.expires > now
        sealed = self.sealed if first else None
        if first:
            self.consumed, self.sealed = now, None
        return Consumed(
            first=first,
            browser_hash=self.browser_hash,
            sealed=sealed,
            expired=self.expires <= now,
            consumed_ago_ms=0 if self.consumed is None else now - self.consumed,
            outcome=self.outcome,
        )


@dataclass(slots=True, kw_only=True)
class BrowserRow:
    """A browser; `rotation` counts the changes of its cookie."""

    cookie_hash: bytes
    seen: int
    expires: int
    prev_cookie_hash: bytes | None = None
    prev_until: int = 0
    rotation: int = 0
    active_session_id: str | None = None


@dataclass(slots=True, kw_only=True)
class SessionRow:
    """A session; `browser_rotation` is its browser's `rotation` at login."""

    id: str
    browser_id: str | None
    browser_rotation: int
    client_id: str
    did: str
    issuer: str
    handle: str | None
    scope: str
    pds: str
    client_kid: str | None
    sealed_dpop_key: bytes | None
    sealed_tokens: bytes | None
    sealed_key: str | None
    access_expires: int
    refresh_after: int
    refreshed: int
    created: int
    seen: int
    expires: int
    version: int = 1
    status: SessionStatus = "active"
    ended_reason: EndedReason | None = None
    ended_at: int | None = None
    lease_owner: str | None = None
    lease_until: int | None = None
    first_sent: int | None = None
    attempts: int = 0
    failures: int = 0

    @classmethod
    def made(
        cls, session: NewSession, browser_id: str | None, browser_rotation: int, now: int
    ) -> SessionRow:
        """Return the row of a new session."""
        sent = now - session.sent_ago_ms
        return cls(
            id=session.id,
            browser_id=browser_id,
            browser_rotation=browser_rotation,
            client_id=session.client_id,
            did=session.did,
            issuer=session.issuer,
            handle=session.handle,
            scope=session.scope,
            pds=session.pds,
            client_kid=session.client_kid,
            sealed_dpop_key=session.sealed_dpop_key,
            sealed_tokens=session.sealed_tokens,
            sealed_key=session.sealed_key,
            access_expires=sent + session.life_ms,
            refresh_after=sent + session.refresh_after_ms,
            refreshed=now,
            created=now,
            seen=now,
            expires=now + session.lifetime_ms,
        )

    def record(self, now: int) -> SessionRecord:
        """Return what a reader at `now` is given."""
        until, sent = self.lease_until, self.first_sent
        return SessionRecord(
            id=self.id,
            browser_id=self.browser_id,
            client_id=self.client_id,
            did=self.did,
            issuer=self.issuer,
            handle=self.handle,
            scope=self.scope,
            pds=self.pds,
            client_kid=self.client_kid,
            sealed_dpop_key=self.sealed_dpop_key,
            sealed_tokens=self.sealed_tokens,
            sealed_key=self.sealed_key,
            version=self.version,
            status=self.status,
            ended_reason=self.ended_reason,
            access_remaining_ms=self.access_expires - now,
            refresh_wait_ms=self.refresh_after - now,
            remaining_ms=self.expires - now,
            lease_owner=self.lease_owner,
            lease_until=until,
            lease_remaining_ms=None if until is None else until - now,
            attempts=self.attempts,
            first_sent_ago_ms=None if sent is None else now - sent,
            failures=self.failures,
            created_ago_ms=now - self.created,
            refreshed_ago_ms=now - self.refreshed,
            seen_ago_ms=now - self.seen,
        )

    def end(self, reason: EndedReason, now: int) -> None:
        """Write how and when it ended, and forget its secrets."""
        self.status = "ended"
        self.ended_reason = reason
        self.ended_at = now
        self.sealed_dpop_key = self.sealed_tokens = self.sealed_key = None

    def matches(self, where: SessionFilter, now: int) -> bool:
        """Tell whether a filter lets this row through."""
        return (
            where.did in {None, self.did}
            and where.browser_id in {None, self.browser_id}
            and where.client_kid in {None, self.client_kid}
            and where.sealed_key in {None, self.sealed_key}
            and where.status in {None, self.status}
            and (
                where.refreshed_before_ms is None
                or now - self.refreshed >= where.refreshed_before_ms
            )
        )

    def is_over(self, now: int) -> bool:
        """Tell whether the purge has something to do here."""
        if self.ended_at is None:
            return self.expires <= now
        return self.ended_at <= now - ENDED_KEPT_MS
