"""Faults of the store: one guard or one column is missing."""
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

import contextvars
import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from atproto_oauth_asgi.refresh import Refresher
from atproto_oauth_asgi.store import SessionRecord
from atproto_oauth_asgi_stores import SQLStore, database
from atproto_oauth_asgi_stores.memory import MemoryStore
from atproto_oauth_asgi_stores.memory_rows import SessionRow
from tests.refresh.faults import fault
from tests.refresh.scenarios_commit import COLUMNS
from tests.refresh.wire import Wire

# --- Acquire ---


def _ignores(what: str, column: str, value: object) -> None:
    def plant(patch: pytest.MonkeyPatch) -> None:
        acquire: Any = MemoryStore.acquire_refresh

        async def faulty(self: MemoryStore, session_id: str, /, **kwargs: Any) -> bool:
            row = self._sessions[session_id]
            before = getattr(row, column)
            setattr(row, column, value)
            taken: bool = await acquire(self, session_id, **kwargs)
            if not taken or column not in {"lease_owner", "lease_until"}:
                setattr(row, column, before)
            return taken

        patch.setattr(MemoryStore, "acquire_refresh", faulty)

    fault(what)(plant)


_ignores("acquire ignores the status", "status", "active")
_ignores("acquire ignores the interval", "refresh_after", 0)
_ignores("acquire ignores the lease", "lease_until", None)


@fault("acquire ignores the version")
def _any_version(patch: pytest.MonkeyPatch) -> None:
    acquire: Any = MemoryStore.acquire_refresh

    async def faulty(self: MemoryStore, session_id: str, /, **kwargs: Any) -> bool:
        kwargs["version"] = self._sessions[session_id].version
        taken: bool = await acquire(self, session_id, **kwargs)
        return taken

    patch.setattr(MemoryStore, "acquire_refresh", faulty)


@fault("acquire ignores what was watched")
def _unwatched(patch: pytest.MonkeyPatch) -> None:
    acquire: Any = MemoryStore.acquire_refresh

    async def faulty(self: MemoryStore, session_id: str, /, **kwargs: Any) -> bool:
        row = self._sessions[session_id]
        kwargs["watched"] = (row.lease_owner, row.lease_until)
        taken: bool = await acquire(self, session_id, **kwargs)
        return taken

    patch.setattr(MemoryStore, "acquire_refresh", faulty)


@fault("unspent leases are watched")
def _unspent_watched(patch: pytest.MonkeyPatch) -> None:
    acquire: Any = MemoryStore.acquire_refresh

    async def faulty(self: MemoryStore, session_id: str, /, **kwargs: Any) -> bool:
        row = self._sessions[session_id]
        if row.lease_until is not None and row.lease_owner != kwargs["owner"]:
            return False
        taken: bool = await acquire(self, session_id, **kwargs)
        return taken

    patch.setattr(MemoryStore, "acquire_refresh", faulty)


@fault("worker's clock")
def _workers_clock(patch: pytest.MonkeyPatch) -> None:
    acquire: Any = MemoryStore.acquire_refresh

    async def faulty(self: MemoryStore, session_id: str, /, **kwargs: Any) -> bool:
        clock, self._now = self._now, lambda: time.time_ns() // 1_000_000
        try:
            taken: bool = await acquire(self, session_id, **kwargs)
        finally:
            self._now = clock
        return taken

    patch.setattr(MemoryStore, "acquire_refresh", faulty)


@fault("each worker goes by its own clock")
def _own_clocks(patch: pytest.MonkeyPatch) -> None:
    init: Any = Wire.__init__
    numbers = itertools.count(1)

    def faulty(self: Wire, shared: MemoryStore) -> None:
        init(self, shared)
        clock, ahead = self._now, next(numbers) * 5_000
        self._now = lambda: clock() + ahead

    patch.setattr(Wire, "__init__", faulty)


def remove_lease_of(store: type[MemoryStore | SQLStore], patch: pytest.MonkeyPatch) -> None:
    """Let every task have the lease that asks for it, whoever else has it."""
    load: Any = store.load_session
    mine: contextvars.ContextVar[str | None] = contextvars.ContextVar("mine", default=None)

    async def acquire(_self: Any, _session_id: str, /, *, owner: str, **_: Any) -> bool:
        mine.set(owner)
        return True

    async def mark(*_args: Any, **_kwargs: Any) -> bool:
        return True

    async def read(self: Any, session_id: str, /) -> SessionRecord | None:
        record: SessionRecord | None = await load(self, session_id)
        return record and replace(record, lease_owner=mine.get())

    patch.setattr(store, "acquire_refresh", acquire)
    patch.setattr(store, "mark_refresh", mark)
    patch.setattr(store, "load_session", read)


@fault("lease removed")
def remove_lease(patch: pytest.MonkeyPatch) -> None:
    remove_lease_of(MemoryStore, patch)


# --- Mark ---


@fault("each POST counts as an attempt")
def _each_counts(patch: pytest.MonkeyPatch) -> None:
    mark: Any = MemoryStore.mark_refresh

    async def faulty(self: MemoryStore, session_id: str, /, **kwargs: Any) -> bool:
        done: bool = await mark(self, session_id, **{**kwargs, "first": True})
        return done

    patch.setattr(MemoryStore, "mark_refresh", faulty)


@fault("every mark counts twice")
def _counts_twice(patch: pytest.MonkeyPatch) -> None:
    mark: Any = MemoryStore.mark_refresh

    async def faulty(self: MemoryStore, session_id: str, /, **kwargs: Any) -> bool:
        done: bool = await mark(self, session_id, **kwargs)
        self._sessions[session_id].attempts += 1
        return done

    patch.setattr(MemoryStore, "mark_refresh", faulty)


@fault("first_sent moves")
def _first_moves(patch: pytest.MonkeyPatch) -> None:
    mark: Any = MemoryStore.mark_refresh

    async def faulty(self: MemoryStore, session_id: str, /, **kwargs: Any) -> bool:
        if kwargs["first"]:
            self._sessions[session_id].first_sent = None
        done: bool = await mark(self, session_id, **kwargs)
        return done

    patch.setattr(MemoryStore, "mark_refresh", faulty)


# --- Commit ---


def _forgets(column: str) -> None:
    def plant(patch: pytest.MonkeyPatch) -> None:
        commit: Any = MemoryStore.commit_refresh

        async def faulty(self: MemoryStore, session_id: str, /, **kwargs: Any) -> bool:
            row = self._sessions[session_id]
            before = getattr(row, column)
            done: bool = await commit(self, session_id, **kwargs)
            setattr(row, column, before)
            return done

        patch.setattr(MemoryStore, "commit_refresh", faulty)

    fault(f"the commit forgets {column}")(plant)


for _column in COLUMNS:
    _forgets(_column)


def _commits(what: str, *, clear_owner: bool = False, any_version: bool = False) -> None:
    def plant(patch: pytest.MonkeyPatch) -> None:
        commit: Any = MemoryStore.commit_refresh

        async def faulty(self: MemoryStore, session_id: str, /, **kwargs: Any) -> bool:
            row = self._sessions[session_id]
            if any_version:
                kwargs["version"] = row.version
            done: bool = await commit(self, session_id, **kwargs)
            if clear_owner:
                row.lease_owner = None
            return done

        patch.setattr(MemoryStore, "commit_refresh", faulty)

    fault(what)(plant)


_commits("the commit clears the owner", clear_owner=True)
_commits("the commit ignores the version", any_version=True)


@fault("the commit ignores the end")
def _revives(patch: pytest.MonkeyPatch) -> None:
    commit: Any = MemoryStore.commit_refresh

    async def faulty(self: MemoryStore, session_id: str, /, **kwargs: Any) -> bool:
        self._sessions[session_id].status = "active"
        done: bool = await commit(self, session_id, **kwargs)
        return done

    patch.setattr(MemoryStore, "commit_refresh", faulty)


def _commits_only(what: str, *, column: str) -> None:
    def plant(patch: pytest.MonkeyPatch) -> None:
        commit: Any = MemoryStore.commit_refresh

        async def faulty(self: MemoryStore, session_id: str, /, **kwargs: Any) -> bool:
            row = self._sessions[session_id]
            wanted = kwargs["owner"] if column == "lease_owner" else "active"
            if getattr(row, column) != wanted:
                return False
            done: bool = await commit(self, session_id, **kwargs)
            return done

        patch.setattr(MemoryStore, "commit_refresh", faulty)

    fault(what)(plant)


_commits_only("the commit is guarded by owner", column="lease_owner")
_commits_only("the commit wants an active session", column="status")


@fault("rekey ignores the version")
def _rekey(patch: pytest.MonkeyPatch) -> None:
    reseal: Any = MemoryStore.reseal

    async def faulty(self: MemoryStore, session_id: str, /, **kwargs: Any) -> bool:
        kwargs["version"] = self._sessions[session_id].version
        done: bool = await reseal(self, session_id, **kwargs)
        return done

    patch.setattr(MemoryStore, "reseal", faulty)


# --- Reading again ---


def _reads(patch: pytest.MonkeyPatch, **instead: Any) -> None:
    load: Any = MemoryStore.load_session

    async def faulty(self: MemoryStore, session_id: str, /) -> SessionRecord | None:
        record: SessionRecord | None = await load(self, session_id)
        if record is not None and record.version > 1:
            return replace(record, **instead)
        return record

    patch.setattr(MemoryStore, "load_session", faulty)


@fault("nobody looks for its own commit")
def _not_mine(patch: pytest.MonkeyPatch) -> None:
    _reads(patch, lease_owner=None)


@fault("the end is overlooked")
def _end_overlooked(patch: pytest.MonkeyPatch) -> None:
    _reads(patch, status="active", ended_reason=None)


# --- Failures and ends ---


@fault("the journal is wiped")
def _wiped(patch: pytest.MonkeyPatch) -> None:
    release: Any = MemoryStore.release_refresh

    async def faulty(self: MemoryStore, session_id: str, /, **kwargs: Any) -> bool:
        done: bool = await release(self, session_id, **{**kwargs, "unspent": True})
        return done

    patch.setattr(MemoryStore, "release_refresh", faulty)


@fault("the attempt is not counted")
def _not_counted(patch: pytest.MonkeyPatch) -> None:
    async def faulty(*_args: Any, **_kwargs: Any) -> bool:
        return True

    patch.setattr(MemoryStore, "count_attempt", faulty)


def _ends(what: str, *, any_status: bool = False, any_version: bool = False) -> None:
    def plant(patch: pytest.MonkeyPatch) -> None:
        async def faulty(
            self: MemoryStore, session_id: str, reason: Any, /, *, version: int | None = None
        ) -> bool:
            row: SessionRow = self._sessions[session_id]
            if row.status == "ended" and not any_status:
                return False
            if version not in {None, row.version} and not any_version:
                return False
            row.end(reason, self._now())
            return True

        patch.setattr(MemoryStore, "end_session", faulty)

    fault(what)(plant)


_ends("the last reason wins", any_status=True)
_ends("ending ignores the version", any_version=True)


# --- SQL ---


@fault("a connection is held")
def _held(patch: pytest.MonkeyPatch) -> None:
    refresh: Any = Refresher._refresh

    async def faulty(self: Any, hold: Any) -> None:
        engines = await self._store.engines()
        async with engines.reader.connect():
            await refresh(self, hold)

    patch.setattr(Refresher, "_refresh", faulty)


@fault("writes return rows")
def _returning(patch: pytest.MonkeyPatch) -> None:
    async def faulty(connection: AsyncConnection, statement: Any) -> int:
        rows: Sequence[Any] = (await connection.execute(statement.returning(sa.text("1")))).all()
        return len(rows)

    patch.setattr(database, "changed", faulty)


@fault("writes read first")
def _reads_first(patch: pytest.MonkeyPatch) -> None:
    changed: Any = database.changed

    async def faulty(connection: AsyncConnection, statement: Any) -> int:
        await connection.execute(sa.select(1))
        count: int = await changed(connection, statement)
        return count

    patch.setattr(database, "changed", faulty)


@fault("a refresh is one transaction")
def _one_transaction(patch: pytest.MonkeyPatch) -> None:
    held: list[AsyncConnection] = []
    acquire: Any = SQLStore.acquire_refresh
    change: Any = SQLStore.change
    close: Any = SQLStore.aclose

    async def acquiring(self: SQLStore, *args: Any, **kwargs: Any) -> bool:
        held.append(await (await self.engines()).writer.connect())
        taken: bool = await acquire(self, *args, **kwargs)
        return taken

    async def faulty(self: SQLStore, statement: Any, **kwargs: Any) -> int:
        if held:
            return await database.changed(held[0], statement)
        count: int = await change(self, statement, **kwargs)
        return count

    async def closing(self: SQLStore) -> None:
        while held:
            await held.pop().close()
        await close(self)

    patch.setattr(SQLStore, "acquire_refresh", acquiring)
    patch.setattr(SQLStore, "change", faulty)
    patch.setattr(SQLStore, "change_surely", faulty)
    patch.setattr(SQLStore, "aclose", closing)
