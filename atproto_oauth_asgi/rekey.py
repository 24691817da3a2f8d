"""Sealing rows anew with the first key, so that older keys may be taken away."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from atproto_oauth_asgi.errors import SealBroken
from atproto_oauth_asgi.sealing import KeyRing
from atproto_oauth_asgi.store import SessionFilter, SessionRecord, SessionStatus, Store
from atproto_oauth_asgi.vault import Owner, Vault, sealed_with

#: Rows read at once.
BATCH = 100
#: Walks through the table. One that finds nothing to do ends it, so there are two as a rule:
#: behind the first, processes that still seal with another key may have written.
WALKS = 3
#: Tries for one row, which a refresh may change under our hands.
TRIES = 3
#: The statuses of rows that hold anything sealed.
SEALED: tuple[SessionStatus, ...] = ("active", "reauth_required")


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts what a rekey found and did."""

    #: Rows read in the walk that goes on, or was the last.
    seen: int = 0
    #: Rows sealed anew, in all walks.
    resealed: int = 0
    #: Rows of that walk that were changed by others each time they were to be sealed anew.
    busy: int = 0
    #: Rows that do not open, by id, with the id of the key (None: no envelope at all). Kept.
    broken: dict[str, str | None] = field(default_factory=dict[str, str | None])
    #: Whether a walk found no row that needed sealing anew.
    done: bool = False

    @property
    def missing(self) -> Counter[str | None]:
        """Return how many rows do not open, by the id of their key."""
        return Counter(self.broken.values())


def _silent(_tally: Tally) -> None:
    return


async def rekey(
    store: Store, ring: KeyRing, *, progress: Callable[[Tally], None] = _silent
) -> Tally:
    """Seal every row's secrets with the ring's first key, a few rows at a time.

    The app may run meanwhile: a row is written only if its version is still the one that was
    read, and the version stays, so no refresh is disturbed and none is undone. A row that does
    not open is left as it is. It may be stopped and started again at any moment.

    Args:
        store: An open store.
        ring: The keys; every process of the app must have the first of them already.
        progress: Called after every batch.

    Raises:
        StoreUnavailable: the database does not answer; what was sealed stays sealed.
    """
    vault = Vault(ring)
    tally = Tally()
    for _ in range(WALKS):
        before = tally.resealed
        tally.seen = tally.busy = 0
        tally.broken.clear()
        for status in SEALED:
            await _walk(store, vault, status, tally, progress)
        if tally.resealed == before and not tally.busy:
            tally.done = True
            break
    return tally


async def _walk(
    store: Store,
    vault: Vault,
    status: SessionStatus,
    tally: Tally,
    progress: Callable[[Tally], None],
) -> None:
    after: str | None = None
    while True:
        page = await store.list_sessions(SessionFilter(status=status), after=after, limit=BATCH)
        for record in page:
            # Ids ascend, so this comes to an end even if a store repeats itself.
            if after is not None and record.id <= after:
                return
            after = record.id
            await _reseal(store, vault, record, tally)
        tally.seen += len(page)
        progress(tally)
        if len(page) < BATCH:
            return
        # The database is others' too.
        await asyncio.sleep(0)


async def _reseal(store: Store, vault: Vault, found: SessionRecord, tally: Tally) -> None:
    record: SessionRecord | None = found
    for _ in range(TRIES):
        if record is None or record.status == "ended":
            return
        try:
            tokens, key = vault.tokens(record), vault.dpop_key(record)
        except SealBroken as exc:
            tally.broken[record.id] = exc.key_id
            return
        # `sealed_key` alone would not do: it tells of the tokens only.
        if not (sealed_with(record) | {record.sealed_key}) - {vault.key_id}:
            return
        owner = Owner.of(record)
        if await store.reseal(
            record.id,
            version=record.version,
            sealed_dpop_key=vault.seal_key(owner, key),
            sealed_tokens=vault.seal_tokens(owner, tokens),
            sealed_key=vault.key_id,
        ):
            tally.resealed += 1
            return
        record = await store.load_session(found.id)
    tally.busy += 1
