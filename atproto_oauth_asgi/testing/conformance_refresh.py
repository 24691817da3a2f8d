"""The contract of the refresh's guarded writes."""

from __future__ import annotations

import asyncio
import time

from atproto_oauth_asgi.store import SessionRecord, Store
from atproto_oauth_asgi.testing.conformance_base import (
    HOUR_MS,
    ConformanceBase,
    about,
    session,
)

LEASE_MS = 20_000
#: How exactly clocks are read.
CLOCK_MS = 50


async def row_of(store: Store, id_: str = "session") -> SessionRecord:
    """Return a row that is there."""
    found = await store.load_session(id_)
    assert found is not None
    return found


async def acquire(
    store: Store,
    owner: str = "me",
    *,
    version: int = 1,
    lease_ms: int = LEASE_MS,
    watched: tuple[str, int] | None = None,
) -> bool:
    """Try to take the lease of the session."""
    return await store.acquire_refresh(
        "session", version=version, owner=owner, lease_ms=lease_ms, watched=watched
    )


async def mark(
    store: Store, owner: str = "me", *, version: int = 1, lease_ms: int = 75_000, first: bool = True
) -> bool:
    """Announce a token request of the session."""
    return await store.mark_refresh(
        "session", version=version, owner=owner, lease_ms=lease_ms, first=first
    )


class LeaseConformance(ConformanceBase):
    """Tests `acquire_refresh` and `mark_refresh`."""

    async def test_one_of_fifty_gets_the_lease(self, store: Store, second_store: Store) -> None:
        """However many race, one holds the lease, and the row names it."""
        await store.create_session(session(), browser=None)

        won = await asyncio.gather(
            *(acquire(s, f"owner {n}") for n, s in enumerate([store, second_store] * 25))
        )

        assert sum(won) == 1
        row = await row_of(second_store)
        assert row.lease_owner == f"owner {won.index(True)}"
        assert about(LEASE_MS, row.lease_remaining_ms)

    async def test_a_held_lease_is_its_owners(self, store: Store) -> None:
        """Nobody else gets a lease that runs; its owner gets it again, for longer."""
        await store.create_session(session(), browser=None)
        assert await acquire(store, "me", lease_ms=LEASE_MS)
        row = await row_of(store)
        assert row.lease_until is not None

        assert not await acquire(store, "other")
        assert not await acquire(store, "other", watched=("me", row.lease_until))
        assert await acquire(store, "me", lease_ms=10 * LEASE_MS)

        row = await row_of(store)
        assert row.lease_owner == "me"
        assert about(10 * LEASE_MS, row.lease_remaining_ms)

    async def test_a_lease_needs_the_version_and_an_active_session(self, store: Store) -> None:
        """A stale reader, a session that ended and one that needs a login get no lease."""
        await store.create_session(session(), browser=None)

        assert not await acquire(store, version=2)
        assert not await acquire(store, version=0)
        assert not await store.acquire_refresh("none", version=1, owner="me", lease_ms=LEASE_MS)
        assert await store.require_reauth("session", version=1)
        assert not await acquire(store)
        assert await store.end_session("session", "logout")
        assert not await acquire(store)

    async def test_no_lease_before_a_refresh_is_allowed(self, store: Store) -> None:
        """The wait is counted from when the token request left."""
        started = time.monotonic()
        await store.create_session(
            session(sent_ago_ms=HOUR_MS, refresh_after_ms=HOUR_MS + 900), browser=None
        )
        # On a machine that stalls it may be time by now.
        assert not await acquire(store) or time.monotonic() - started >= 0.9
        assert (await row_of(store)).refresh_wait_ms <= 900

        await self.advance(store, 950)

        assert await acquire(store)

    async def test_a_lease_that_ran_out_unannounced_is_anybodys(self, store: Store) -> None:
        """Nothing was sent under it, so nothing can be lost."""
        await store.create_session(session(), browser=None)
        await acquire(store, "dead", lease_ms=100)
        await self.advance(store, 200)
        row = await row_of(store)
        assert row.lease_remaining_ms is not None
        assert row.lease_remaining_ms <= 0

        assert await acquire(store, "me")
        assert (await row_of(store)).lease_owner == "me"

    async def test_a_lease_is_as_long_for_everybody(
        self, store: Store, second_store: Store
    ) -> None:
        """Whoever looks sees no less of it than is left, and no more than the stated margin."""
        await store.create_session(session(), browser=None)
        started = time.monotonic()
        assert await acquire(store, lease_ms=HOUR_MS)
        seen = (await row_of(second_store)).lease_remaining_ms
        taken_ms = (time.monotonic() - started) * 1000

        assert seen is not None
        assert HOUR_MS - taken_ms - CLOCK_MS <= seen
        assert seen <= HOUR_MS + 2 * self.skew_margin_ms + CLOCK_MS

    async def test_an_announced_lease_needs_the_watched_pair(self, store: Store) -> None:
        """Only who watched exactly this owner and end takes over, and only when it is over."""
        await store.create_session(session(), browser=None)
        started = time.monotonic()
        await acquire(store, "dead", lease_ms=100)
        await mark(store, "dead", lease_ms=900)
        row = await row_of(store)
        assert row.lease_until is not None
        if await acquire(store, watched=("dead", row.lease_until)):
            # Only on a machine that stalled it was over by then.
            assert time.monotonic() - started >= 0.9
            return

        await self.advance(store, 950)
        row = await row_of(store)
        assert row.lease_until is not None

        assert not await acquire(store)
        assert not await acquire(store, watched=("other", row.lease_until))
        assert not await acquire(store, watched=("dead", row.lease_until - 1))
        assert not await acquire(store, watched=("dead", row.lease_until + 1))
        assert await acquire(store, watched=("dead", row.lease_until))
        row = await row_of(store)
        assert (row.lease_owner, row.attempts) == ("me", 1)

    async def test_one_of_many_takes_over(self, store: Store, second_store: Store) -> None:
        """Everybody watched the same pair; one gets it."""
        await store.create_session(session(), browser=None)
        await acquire(store, "dead", lease_ms=100)
        await mark(store, "dead", lease_ms=100)
        await self.advance(store, 200)
        until = (await row_of(store)).lease_until
        assert until is not None

        won = await asyncio.gather(
            *(
                acquire(s, f"owner {n}", watched=("dead", until))
                for n, s in enumerate([store, second_store] * 10)
            )
        )

        assert sum(won) == 1

    async def test_a_mark_needs_owner_version_and_status(self, store: Store) -> None:
        """Whoever lost the lease, the version or the session must not send."""
        await store.create_session(session(), browser=None)
        assert not await mark(store)
        await acquire(store)
        assert not await mark(store, "other")
        assert not await mark(store, version=2)
        assert (await row_of(store)).attempts == 0
        assert await mark(store)

        assert await store.end_session("session", "logout")
        assert not await mark(store)

    async def test_a_mark_is_refused_where_a_login_is_needed(self, store: Store) -> None:
        """`reauth_required` stops a refresh that was about to send."""
        await store.create_session(session(), browser=None)
        await acquire(store)
        await store.require_reauth("session", version=1)

        assert not await mark(store)

    async def test_marks_are_the_journal(self, store: Store) -> None:
        """The first mark of a refresh counts; each moves the lease's end; the first time stays."""
        await store.create_session(session(), browser=None)
        await acquire(store)
        row = await row_of(store)
        assert (row.attempts, row.first_sent_ago_ms) == (0, None)

        assert await mark(store, lease_ms=75_000)
        row = await row_of(store)
        assert row.attempts == 1
        assert about(0, row.first_sent_ago_ms)
        assert about(75_000, row.lease_remaining_ms)

        await self.advance(store, 300)
        assert await mark(store, lease_ms=10 * HOUR_MS, first=False)
        row = await row_of(store)
        assert row.attempts == 1
        assert about(10 * HOUR_MS, row.lease_remaining_ms)

        assert await mark(store, first=True)
        row = await row_of(store)
        assert row.attempts == 2
        assert row.first_sent_ago_ms is not None
        assert row.first_sent_ago_ms >= 300

    async def test_a_later_mark_alone_announces_nothing(self, store: Store) -> None:
        """Without `first` neither the count nor the time is written."""
        await store.create_session(session(), browser=None)
        await acquire(store)

        assert await mark(store, first=False)

        row = await row_of(store)
        assert (row.attempts, row.first_sent_ago_ms) == (0, None)
