"""Queries that read sessions, the record a row makes, and the write that ends one."""

from __future__ import annotations

from functools import cache

import sqlalchemy as sa
from sqlalchemy.engine import Row

from atproto_oauth_asgi.store import EndedReason, SessionRecord
from atproto_oauth_asgi_stores.clock import now_ms
from atproto_oauth_asgi_stores.tables import Tables


# Both queries run on nearly every request: built once, they cost half.
@cache
def session_query(tables: Tables) -> sa.Select[tuple[object, ...]]:
    """Return the query for the session `:session`."""
    row = tables.session.c
    return sa.select(tables.session, now_ms().label("now")).where(row.id == sa.bindparam("session"))


@cache
def load_query(tables: Tables) -> sa.Select[tuple[object, ...]]:
    """Return the query for the browser that the hash `:cookie` names, and its active session."""
    browser, session = tables.browser.c, tables.session.c
    cookie: sa.BindParameter[bytes] = sa.bindparam("cookie", type_=sa.LargeBinary())
    current = browser.cookie_hash == cookie
    previous = sa.and_(browser.prev_cookie_hash == cookie, browser.prev_until > now_ms())
    visible = sa.and_(
        session.id == browser.active_session_id,
        session.browser_id == browser.id,
        sa.or_(current, session.browser_rotation < browser.rotation),
    )
    return (
        sa.select(
            browser.id.label("cookie_browser_id"),
            browser.expires.label("cookie_expires"),
            sa.case((current, 0), else_=1).label("is_previous"),
            now_ms().label("now"),
            *tables.session.c,
        )
        .select_from(tables.browser.outerjoin(tables.session, visible))
        .where(sa.or_(current, previous), browser.expires > now_ms())
    )


def record(row: Row[tuple[object, ...]]) -> SessionRecord:
    """Turn a row's times into durations, by the clock that the same statement read."""
    now: int = row.now
    until: int | None = row.lease_until
    return SessionRecord(
        id=row.id,
        browser_id=row.browser_id,
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
        version=row.version,
        status=row.status,
        ended_reason=row.ended_reason,
        access_remaining_ms=row.access_expires - now,
        refresh_wait_ms=row.refresh_after - now,
        remaining_ms=row.expires - now,
        lease_owner=row.lease_owner,
        lease_until=until,
        lease_remaining_ms=None if until is None else until - now,
        attempts=row.attempts,
        first_sent_ago_ms=None if row.first_sent is None else now - row.first_sent,
        failures=row.failures,
        created_ago_ms=now - row.created,
        refreshed_ago_ms=now - row.refreshed,
        seen_ago_ms=now - row.seen,
    )


def ending(tables: Tables, reason: EndedReason) -> sa.Update:
    """Return the write that ends sessions that have not ended, and wipes what was sealed."""
    return (
        sa.update(tables.session)
        .where(tables.session.c.status != "ended")
        .values(
            status="ended",
            ended_reason=reason,
            ended_at=now_ms(),
            sealed_dpop_key=None,
            sealed_tokens=None,
            sealed_key=None,
        )
    )
