"""The SQL store: SQLite, PostgreSQL, MySQL and MariaDB, through SQLAlchemy Core."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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


@dataclass(frozen=True, slots=True)
class _Step:
    """One kind of row that a purge deals with."""

    key: sa.Column[Any]
    #: What the row's end is told by; `kept` milliseconds later it is over.
    time: sa.Column[int]
    write: sa.Delete | sa.Update
    kept: int = 0
    only: sa.ColumnElement[bool] = field(default_factory=sa.true)


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
        steps = (
            _Step(thing.c.key_hash, thing.c.expires, sa.delete(thing)),
            _Step(browser.c.id, browser.c.expires, sa.delete(browser)),
            # One status after the other: of each, an index has the rows in the order of their end.
            *(
                _Step(
                    session.c.id,
                    session.c.expires,
                    ending(self.tables, "expired"),
                    only=session.c.status == status,
                )
                for status in ("active", "reauth_required")
            ),
            _Step(session.c.id, session.c.ended_at, sa.delete(session), kept=ENDED_KEPT_MS),
        )
        # PostgreSQL looks no time up in an index that it reads anew for each row.
        now = (await connection.execute(sa.select(now_ms()))).scalar_one()
        left = limit
        for step in steps:
            key = step.key
            found = await connection.scalars(
                sa.select(key)
                .where(step.only, step.time <= now - step.kept)
                .order_by(step.time)
                .limit(left)
            )
            # Named one by one and in order: no database lacks it, and workers meet rarely.
            keys = sorted(found)
            if keys:
                still = step.time <= now_ms() - step.kept
                left -= await changed(connection, step.write.where(key.in_(keys), step.only, still))
            if keys and key is browser.c.id:
                # What the foreign key does too, but not on every engine that we are given.
                gone = ~sa.exists().where(browser.c.id == session.c.browser_id)
                await connection.execute(
                    sa.update(session)
                    .where(session.c.browser_id.in_(keys), gone)
                    .values(browser_id=None)
                )
        return limit - left
