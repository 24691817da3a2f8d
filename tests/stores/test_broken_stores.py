"""The kit fails stores that break the contract in ways that are easy to get wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from atproto_oauth_asgi.store import (
    BrowserLogin,
    Consumed,
    EndedReason,
    Loaded,
    NewSession,
    Refreshed,
    SessionRecord,
    Store,
)
from atproto_oauth_asgi.testing.conformance import StoreConformance
from atproto_oauth_asgi_migrations import migrate_empty
from atproto_oauth_asgi_stores import MemoryStore, SQLStore

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


class LastReasonWins(MemoryStore):
    async def end_session(
        self, session_id: str, reason: EndedReason, /, *, version: int | None = None
    ) -> bool:
        row = self._sessions.get(session_id)
        if row is not None:
            row.end(reason, 0)
        return row is not None


class CommitNeedsTheLease(MemoryStore):
    async def commit_refresh(
        self, session_id: str, /, *, version: int, owner: str, refreshed: Refreshed
    ) -> bool:
        row = self._sessions[session_id]
        return row.lease_owner == owner and await super().commit_refresh(
            session_id, version=version, owner=owner, refreshed=refreshed
        )


class ForgetsTheOwner(MemoryStore):
    async def load_session(self, session_id: str, /) -> SessionRecord | None:
        row = self._sessions.get(session_id)
        if row is not None and row.lease_until is None:
            row.lease_owner = None
        return await super().load_session(session_id)


class TakesOverBlindly(MemoryStore):
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
        row = self._sessions[session_id]
        watched = (row.lease_owner or "", row.lease_until or 0)
        return await super().acquire_refresh(
            session_id, version=version, owner=owner, lease_ms=lease_ms, watched=watched
        )


class ShowsNewSessionsToOldCookies(MemoryStore):
    async def load(self, cookie_hash: bytes, /) -> Loaded | None:
        found = await super().load(cookie_hash)
        if found is None or found.session is not None:
            return found
        active = self._browsers[found.browser_id].active_session_id
        return replace(found, session=await self.load_session(active or ""))


class TouchesEverything(MemoryStore):
    async def touch(self, browser_id: str | None, session_id: str, /) -> None:
        await super().touch(browser_id, session_id)
        row = self._sessions.get(session_id)
        if row is not None:
            row.refreshed = row.seen
            row.expires += 60_000


Case = Callable[[Store], Awaitable[None]]


def with_two(test: Callable[[Store, Store], Awaitable[None]]) -> Case:
    async def run(store: Store) -> None:
        await test(store, store)

    run.__name__ = test.__name__
    return run


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (LastReasonWins, with_two(kit.test_the_first_reason_stays)),
        (CommitNeedsTheLease, kit.test_a_commit_asks_for_the_version_only),
        (ForgetsTheOwner, kit.test_a_commit_asks_for_the_version_only),
        (TakesOverBlindly, kit.test_an_announced_lease_needs_the_watched_pair),
        (ShowsNewSessionsToOldCookies, kit.test_a_rotation_hides_only_newer_sessions),
        (TouchesEverything, kit.test_a_touch_writes_seen_and_nothing_else),
    ],
)
async def test_the_kit_fails_a_broken_memory_store(broken: type[MemoryStore], test: Case) -> None:
    await test(MemoryStore())
    with pytest.raises(AssertionError):
        await test(broken())


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
