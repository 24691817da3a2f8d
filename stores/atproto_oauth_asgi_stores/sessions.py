"""Browsers and sessions in SQL.

Transactions write the browser's row first: two that concern one browser take turns at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from atproto_oauth_asgi.errors import StoreError
from atproto_oauth_asgi.store import (
    COOKIE_GRACE_MS,
    BrowserLogin,
    Loaded,
    NewSession,
    SessionFilter,
    SessionRecord,
)
from atproto_oauth_asgi_stores.clock import now_ms
from atproto_oauth_asgi_stores.database import Database, changed
from atproto_oauth_asgi_stores.records import ending, load_query, record, session_query


class Sessions(Database):
    """Keeps browsers and the sessions in them."""

    async def create_session(
        self, session: NewSession, /, *, browser: BrowserLogin | None, replaces: Sequence[str] = ()
    ) -> bool:
        """Insert a session and make it active; see `Store.create_session`."""

        async def create(connection: AsyncConnection) -> bool:
            return await self._create(connection, session, browser, replaces)

        try:
            return await self.transact(create)
        except StoreError as exc:
            if browser is None or not isinstance(exc.__cause__, IntegrityError):
                raise
            # Perhaps another login made this browser's row a moment ago; then it is there now.
            return await self.transact(create)

    async def _create(
        self,
        connection: AsyncConnection,
        session: NewSession,
        browser: BrowserLogin | None,
        replaces: Sequence[str],
    ) -> bool:
        rotation: sa.ColumnElement[int] = sa.literal(0, sa.BigInteger())
        sent = now_ms() - session.sent_ago_ms
        if browser is not None:
            if not await self._log_in(connection, browser, session.id):
                return False
            rows = self.tables.browser.c
            rotation = sa.select(rows.rotation).where(rows.id == browser.id).scalar_subquery()
            if replaces:
                old = self.tables.session.c
                await connection.execute(
                    ending(self.tables, "replaced").where(
                        old.id.in_(replaces), old.browser_id == browser.id
                    )
                )
        await connection.execute(
            sa.insert(self.tables.session).values(
                id=session.id,
                browser_id=None if browser is None else browser.id,
                browser_rotation=rotation,
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
                version=1,
                status="active",
                attempts=0,
                failures=0,
                refreshed=now_ms(),
                created=now_ms(),
                seen=now_ms(),
                expires=now_ms() + session.lifetime_ms,
            )
        )
        return True

    async def _log_in(
        self, connection: AsyncConnection, browser: BrowserLogin, session_id: str
    ) -> bool:
        """Write the browser's row; False when its cookie is not the one presented any more."""
        row = self.tables.browser.c
        expires = now_ms() + browser.lifetime_ms
        rotation = (
            sa.update(self.tables.browser)
            .where(row.id == browser.id)
            # In this order: MySQL gives later assignments the values of the earlier ones.
            .ordered_values(
                (row.prev_cookie_hash, row.cookie_hash),
                (row.cookie_hash, browser.cookie_hash),
                (row.prev_until, now_ms() + COOKIE_GRACE_MS),
                (row.rotation, row.rotation + 1),
                (row.active_session_id, session_id),
                (row.expires, sa.case((row.expires < expires, expires), else_=row.expires)),
            )
        )
        if browser.presented is not None:
            return (
                await changed(connection, rotation.where(row.cookie_hash == browser.presented)) == 1
            )
        if not await changed(connection, rotation):
            await connection.execute(
                sa.insert(self.tables.browser).values(
                    id=browser.id,
                    cookie_hash=browser.cookie_hash,
                    rotation=0,
                    active_session_id=session_id,
                    created=now_ms(),
                    seen=now_ms(),
                    expires=expires,
                )
            )
        return True

    async def load(self, cookie_hash: bytes, /) -> Loaded | None:
        """Return the browser a cookie names and its active session; see `Store.load`."""
        found = await self.rows(load_query(self.tables), {"cookie": cookie_hash})
        for row in sorted(found, key=lambda row: row.is_previous):
            return Loaded(
                browser_id=row.cookie_browser_id,
                browser_remaining_ms=row.cookie_expires - row.now,
                session=None if row.id is None else record(row),
                current=not row.is_previous,
            )
        return None

    async def load_session(self, session_id: str, /) -> SessionRecord | None:
        """Return one session row; see `Store.load_session`."""
        found = await self.rows(session_query(self.tables), {"session": session_id})
        return record(found[0]) if found else None

    async def list_sessions(
        self, where: SessionFilter, /, *, after: str | None = None, limit: int = 100
    ) -> list[SessionRecord]:
        """Return sessions by ascending id; see `Store.list_sessions`."""
        row = self.tables.session.c
        query = sa.select(self.tables.session, now_ms().label("now"))
        for column, wanted in (
            (row.did, where.did),
            (row.browser_id, where.browser_id),
            (row.client_kid, where.client_kid),
            (row.sealed_key, where.sealed_key),
            (row.status, where.status),
        ):
            if wanted is not None:
                query = query.where(column == wanted)
        if where.refreshed_before_ms is not None:
            # PostgreSQL looks no time up in an index that it reads anew for each row.
            ((now,),) = await self.rows(sa.select(now_ms()))
            until = cast("int", now) - where.refreshed_before_ms
            query = query.where(row.refreshed <= until)
        if after is not None:
            query = query.where(row.id > after)
        found = await self.rows(query.order_by(row.id).limit(max(limit, 0)))
        return [record(one) for one in found]

    async def switch_active(self, browser_id: str, session_id: str, /) -> bool:
        """Make another session of the browser's active; see `Store.switch_active`."""
        browser, session = self.tables.browser.c, self.tables.session.c
        switched = await self.change(
            sa.update(self.tables.browser)
            .where(browser.id == browser_id)
            .where(
                sa.exists().where(
                    session.id == session_id,
                    session.browser_id == browser_id,
                    session.status != "ended",
                )
            )
            .values(active_session_id=session_id)
        )
        return switched == 1

    async def detach(self, browser_id: str, session_id: str, /) -> int:
        """Take a session out of a browser; see `Store.detach`."""
        browser, session = self.tables.browser.c, self.tables.session.c
        mine = session.browser_id == browser_id
        latest = (
            sa.select(session.id)
            .where(mine, session.status == "active")
            .order_by(session.seen.desc(), session.id)
            .limit(1)
            .scalar_subquery()
        )
        this = sa.update(self.tables.browser).where(browser.id == browser_id)

        async def leave(connection: AsyncConnection) -> int:
            # Changes nothing, and makes two that leave at once take turns.
            await connection.execute(this.values(rotation=browser.rotation))
            await connection.execute(
                sa.update(self.tables.session)
                .where(session.id == session_id, mine)
                .values(browser_id=None)
            )
            await connection.execute(
                this.where(browser.active_session_id == session_id).values(active_session_id=latest)
            )
            left = sa.select(sa.func.count()).where(mine, session.status != "ended")
            return (await connection.execute(left)).scalar_one()

        return await self.transact(leave)

    async def touch(self, browser_id: str | None, session_id: str, /) -> None:
        """Write `seen` of both rows; see `Store.touch`."""
        browser, session = self.tables.browser, self.tables.session

        async def write(connection: AsyncConnection) -> None:
            if browser_id is not None:
                await connection.execute(
                    sa.update(browser).where(browser.c.id == browser_id).values(seen=now_ms())
                )
            await connection.execute(
                sa.update(session).where(session.c.id == session_id).values(seen=now_ms())
            )

        await self.transact(write)
