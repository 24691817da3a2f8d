"""The kit fails SQL stores that read before they write, or write in two transactions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa

from atproto_oauth_asgi.store import (
    BrowserLogin,
    Consumed,
    NewSession,
    Store,
)
from atproto_oauth_asgi.testing.conformance import StoreConformance
from atproto_oauth_asgi_migrations import migrate_empty
from atproto_oauth_asgi_stores import MemoryStore, SQLStore
from atproto_oauth_asgi_stores.memory import wall_clock

pytestmark = pytest.mark.anyio
kit = StoreConformance()


class ReadsThenWrites(SQLStore):
    """Looks first and writes then, with nothing that guards the write."""

    async def consume(self, key_hash: bytes, /, *, kind: str) -> Consumed | None:
        thing = self.tables.one_time
        rows = await self.rows(
            sa.select(thing).where(thing.c.key_hash == key_hash, thing.c.kind == kind)
        )
        if not rows or rows[0].consumed is not None:
            return await super().consume(key_hash, kind=kind)
        await self.change(sa.update(thing).values(consumed=1, sealed=None))
        return Consumed(
            first=True,
            browser_hash=rows[0].browser_hash,
            sealed=rows[0].sealed,
            expired=False,
            consumed_ago_ms=0,
            outcome=None,
        )

    async def acquire_refresh(
        self,
        session_id: str,
        /,
        *,
        version: int,
        owner: str,
        lease_ms: int,
        watched: tuple[str, int] | None = None,
    ) -> bool:
        row = await self.load_session(session_id)
        if row is None or (row.lease_remaining_ms or 0) > 0:
            return False
        table = self.tables.session
        await self.change(sa.update(table).values(lease_owner=owner, lease_until=2**62))
        return True


class NotOneTransaction(SQLStore):
    """Ends the replaced sessions on its own, after the login."""

    async def create_session(
        self, session: NewSession, /, *, browser: BrowserLogin | None, replaces: Sequence[str] = ()
    ) -> bool:
        joined = await super().create_session(session, browser=browser)
        for id_ in replaces:
            await self.end_session(id_, "replaced")
        return joined


class EachItsOwnClock(MemoryStore):
    """Is as a store that goes by the clocks of processes, and states that they never differ."""

    def __init__(self, shared: MemoryStore, ahead_ms: int) -> None:
        super().__init__(clock=lambda: wall_clock() + ahead_ms)
        self.__dict__ |= {**shared.__dict__, "_now": self._now}


@pytest.mark.parametrize("ahead_ms", [5_000, -5_000])
async def test_the_kit_fails_stores_whose_clocks_are_apart(ahead_ms: int) -> None:
    rows = MemoryStore()
    await kit.test_a_lease_is_as_long_for_everybody(rows, EachItsOwnClock(rows, 0))

    rows = MemoryStore()
    with pytest.raises(AssertionError):
        await kit.test_a_lease_is_as_long_for_everybody(rows, EachItsOwnClock(rows, ahead_ms))


Case = Callable[[Store], Awaitable[None]]


def with_two(test: Callable[[Store, Store], Awaitable[None]]) -> Case:
    async def run(store: Store) -> None:
        await test(store, store)

    run.__name__ = test.__name__
    return run


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (ReadsThenWrites, with_two(kit.test_one_of_fifty_is_first)),
        (ReadsThenWrites, with_two(kit.test_one_of_fifty_gets_the_lease)),
        (NotOneTransaction, kit.test_a_cancelled_login_leaves_all_or_nothing),
    ],
)
async def test_the_kit_fails_a_broken_sql_store(
    broken: type[SQLStore], test: Case, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    await migrate_empty(url)
    store = broken(url)
    with pytest.raises(AssertionError):
        await asyncio.wait_for(test(store), 20)
    await store.aclose()
