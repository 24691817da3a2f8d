"""The SQL store: SQLite, PostgreSQL, MySQL and MariaDB, through SQLAlchemy Core."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from atproto_oauth_asgi.errors import StoreError
from atproto_oauth_asgi.store import ENDED_KEPT_MS
from atproto_oauth_asgi_stores.clock import now_ms
from atproto_oauth_asgi_stores.database import changed
from atproto_oauth_asgi_stores.failures import is_lost_race
from atproto_oauth_asgi_stores.one_time import OneTimes
from atproto_oauth_asgi_stores.records import ending
from atproto_oauth_asgi_stores.refreshes import Refreshes
from atproto_oauth_asgi_stores.sessions import Sessions

#: Rows dealt with by one purge at most, whatever is asked: databases limit a statement's length.
PURGE_LIMIT = 1000


def open_sql(url: str, /) -> SQLStore:
    """Make a store for a SQLAlchemy URL (entry point of the store's URL schemes)."""
    return SQLStore(url)


class SQLStore(OneTimes, Sessions, Refreshes):
    """Keeps sessions in a SQL database.

    With a URL the store makes its own engines, one pair for each event loop that uses it, and
    disposes of them; an engine that it is given belongs to the caller, and to the caller's loop.

    Args:
        url_or_engine: A store URL such as `sqlite:///file.db` or
            `postgresql://user:password@host/database`, or an `AsyncEngine`.
        schema: The database schema that holds the tables, where the database has schemas; in a
            URL it may be given as `?schema=auth`.
        check_schema: Whether `open` and `check` look at the tables' revision. Turn it off where
            the tables are made by revisions of the app's own, from `metadata_for`.

    Raises:
        ConfigurationError: the URL is wrong, or its driver is not installed.
    """

    async def purge_expired(self, limit: int, /) -> int:
        """Delete or end what is over; see `Store.purge_expired`."""
        limit = min(limit, PURGE_LIMIT)
        if limit <= 0:
            return 0
        try:
            return await self.transact(lambda connection: self._purge(connection, limit), races=1)
        except StoreError as exc:
            if is_lost_race(exc.__cause__):
                return 0
            raise

    async def _purge(self, connection: AsyncConnection, limit: int) -> int:
        thing, browser, session = self.tables.one_time, self.tables.browser, self.tables.session
        unended = session.c.status.in_(("active", "reauth_required"))
        steps: tuple[tuple[sa.Column[object], sa.ColumnElement[bool], sa.Delete | sa.Update], ...]
        steps = (
            (thing.c.key_hash, thing.c.expires <= now_ms(), sa.delete(thing)),
            (browser.c.id, browser.c.expires <= now_ms(), sa.delete(browser)),
            (
                session.c.id,
                sa.and_(unended, session.c.expires <= now_ms()),
                ending(self.tables, "expired"),
            ),
            (session.c.id, session.c.ended_at <= now_ms() - ENDED_KEPT_MS, sa.delete(session)),
        )
        left = limit
        for key, over, write in steps:
            # Named one by one and in order: no database lacks it, and workers meet rarely.
            keys = (
                await connection.scalars(sa.select(key).where(over).order_by(key).limit(left))
            ).all()
            if keys:
                left -= await changed(connection, write.where(key.in_(keys), over))
            if keys and key is browser.c.id:
                # What the foreign key does too, but not on every engine that we are given.
                gone = ~sa.exists().where(browser.c.id == session.c.browser_id)
                await connection.execute(
                    sa.update(session)
                    .where(session.c.browser_id.in_(keys), gone)
                    .values(browser_id=None)
                )
        return limit - left
