"""One-time things in SQL."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Row

from atproto_oauth_asgi.store import Consumed, OneTime
from atproto_oauth_asgi_stores.clock import now_ms
from atproto_oauth_asgi_stores.database import Database


class OneTimes(Database):
    """Keeps things that can be used once."""

    async def put(self, thing: OneTime, /) -> None:
        """Keep a new one-time thing; see `Store.put`."""
        await self.change(
            sa.insert(self.tables.one_time).values(
                key_hash=thing.key_hash,
                kind=thing.kind,
                browser_hash=thing.browser_hash,
                sealed=thing.sealed,
                created=now_ms(),
                expires=now_ms() + thing.lifetime_ms,
            )
        )

    async def consume(self, key_hash: bytes, /, *, kind: str) -> Consumed | None:
        """Use a one-time thing up; see `Store.consume`."""
        before = await self._look(key_hash, kind)
        if before is None or before.consumed is not None or before.expires <= before.now:
            return _not_first(before)
        thing = self.tables.one_time.c
        used = await self.change(
            sa.update(self.tables.one_time)
            .where(thing.key_hash == key_hash, thing.kind == kind)
            .where(thing.consumed.is_(None), thing.expires > now_ms())
            .values(consumed=now_ms(), sealed=None)
        )
        if used != 1:
            return _not_first(await self._look(key_hash, kind))
        return Consumed(
            first=True,
            browser_hash=before.browser_hash,
            # Nothing changes a payload until it is used up: what was read is what was wiped.
            sealed=before.sealed,
            expired=False,
            consumed_ago_ms=0,
            outcome=None,
        )

    async def _look(self, key_hash: bytes, kind: str) -> Row[tuple[object, ...]] | None:
        table = self.tables.one_time
        found = await self.rows(
            sa.select(table, now_ms().label("now")).where(
                table.c.key_hash == key_hash, table.c.kind == kind
            )
        )
        return found[0] if found else None

    async def record_outcome(self, key_hash: bytes, outcome: str, /) -> None:
        """Write how the use ended, once; see `Store.record_outcome`."""
        thing = self.tables.one_time.c
        await self.change(
            sa.update(self.tables.one_time)
            .where(thing.key_hash == key_hash)
            .where(thing.consumed.is_not(None), thing.outcome.is_(None))
            .values(outcome=outcome)
        )


def _not_first(row: Row[tuple[object, ...]] | None) -> Consumed | None:
    if row is None:
        return None
    return Consumed(
        first=False,
        browser_hash=row.browser_hash,
        sealed=None,
        expired=row.expires <= row.now,
        consumed_ago_ms=0 if row.consumed is None else row.now - row.consumed,
        outcome=row.outcome,
    )
