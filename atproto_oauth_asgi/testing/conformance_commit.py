"""The contract of what ends a refresh, or a session."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace

from atproto_oauth_asgi.store import SessionRecord, Store
from atproto_oauth_asgi.testing.conformance_base import (
    HOUR_MS,
    MOMENTS,
    ConformanceBase,
    about,
    cancelled_after,
    refreshed,
    session,
    timed,
)
from atproto_oauth_asgi.testing.conformance_refresh import acquire, mark, row_of


def timeless(row: SessionRecord) -> SessionRecord:
    """Return a record without the durations that differ from one reading to the next."""
    return replace(
        row,
        access_remaining_ms=0,
        refresh_wait_ms=0,
        remaining_ms=0,
        created_ago_ms=0,
        refreshed_ago_ms=0,
        seen_ago_ms=0,
        lease_remaining_ms=None,
        first_sent_ago_ms=None,
    )


async def release(
    store: Store,
    owner: str = "me",
    *,
    version: int = 1,
    wait_ms: int | None = None,
    unspent: bool = False,
) -> bool:
    """Give the lease of the session back."""
    return await store.release_refresh(
        "session", version=version, owner=owner, wait_ms=wait_ms, unspent=unspent
    )


class CommitConformance(ConformanceBase):
    """Tests `commit_refresh`, `release_refresh`, `count_attempt`, and the ends of a session."""

    async def test_a_commit_writes_what_a_refresh_brings(self, store: Store) -> None:
        """All of it, counted from when the request left, and the journal is empty again."""
        await store.create_session(session(sent_ago_ms=HOUR_MS), browser=None)
        await acquire(store)
        await release(store, wait_ms=0)
        await acquire(store)
        await mark(store)
        before = await row_of(store)
        assert before.failures == 1

        assert await store.commit_refresh(
            "session",
            version=1,
            owner="me",
            refreshed=refreshed(sent_ago_ms=HOUR_MS // 2, refresh_after_ms=HOUR_MS),
        )

        after = await row_of(store)
        assert timeless(after) == replace(
            timeless(before),
            sealed_tokens=b"new tokens",
            sealed_key="key-2",
            scope="atproto",
            pds="https://other.test",
            handle="new.test",
            client_kid="kid-2",
            version=2,
            lease_owner="me",
            lease_until=None,
            attempts=0,
            failures=0,
        )
        assert after.lease_remaining_ms is None
        assert after.first_sent_ago_ms is None
        assert about(HOUR_MS * 3 // 2, after.access_remaining_ms)
        assert about(HOUR_MS // 2, after.refresh_wait_ms)
        assert about(0, after.refreshed_ago_ms)
        assert about(24 * HOUR_MS, after.remaining_ms)

    async def test_a_commit_asks_for_the_version_only(self, store: Store) -> None:
        """Whoever holds the answer holds the only live tokens, lease or no lease."""
        await store.create_session(session(), browser=None)
        await acquire(store, "other")
        await mark(store, "other")

        assert await store.commit_refresh("session", version=1, owner="me", refreshed=refreshed())
        assert (await row_of(store)).lease_owner == "me"

        late = refreshed(b"late")
        assert not await store.commit_refresh("session", version=1, owner="other", refreshed=late)
        assert (await row_of(store)).sealed_tokens == b"new tokens"

    async def test_one_of_many_commits(self, store: Store, second_store: Store) -> None:
        """Each version is written over once; the row tells the others who did."""
        await store.create_session(session(), browser=None)

        won = await asyncio.gather(
            *(
                s.commit_refresh(
                    "session", version=1, owner=f"owner {n}", refreshed=refreshed(b"%d" % n)
                )
                for n, s in enumerate([store, second_store] * 10)
            )
        )

        assert sum(won) == 1
        row = await row_of(store)
        winner = won.index(True)
        assert (row.version, row.lease_owner) == (2, f"owner {winner}")
        assert row.sealed_tokens == b"%d" % winner

    async def test_a_commit_waits_for_nobodys_login(self, store: Store) -> None:
        """A session that needs a login still takes tokens that were on their way."""
        await store.create_session(session(), browser=None)
        await store.require_reauth("session", version=1)

        assert await store.commit_refresh("session", version=1, owner="me", refreshed=refreshed())

    async def test_no_commit_after_the_end(self, store: Store) -> None:
        """Tokens that come after a logout are the caller's to revoke."""
        await store.create_session(session(), browser=None)
        await acquire(store)
        await mark(store)
        await store.end_session("session", "logout")
        ended = timeless(await row_of(store))

        assert not await store.commit_refresh(
            "session", version=1, owner="me", refreshed=refreshed()
        )
        assert timeless(await row_of(store)) == ended

    async def test_a_committed_session_can_be_refreshed_again(self, store: Store) -> None:
        """The owner left in the row holds no lease."""
        await store.create_session(session(), browser=None)
        await acquire(store)
        await store.commit_refresh("session", version=1, owner="me", refreshed=refreshed())

        assert not await acquire(store, "next", version=1)
        assert await acquire(store, "next", version=2)

    async def test_a_release_needs_owner_and_version(self, store: Store) -> None:
        """Nobody gives back another's lease."""
        await store.create_session(session(), browser=None)
        await acquire(store)
        await mark(store)
        before = timeless(await row_of(store))

        assert not await release(store, "other", wait_ms=9, unspent=True)
        assert not await release(store, version=2, wait_ms=9, unspent=True)
        assert timeless(await row_of(store)) == before

    async def test_a_release_frees_the_lease_and_keeps_the_journal(self, store: Store) -> None:
        """What was announced and may have arrived stays on record."""
        await store.create_session(session(), browser=None)
        await acquire(store)
        await mark(store)

        assert await release(store)

        row = await row_of(store)
        assert row.lease_until is None
        assert row.lease_remaining_ms is None
        assert (row.attempts, row.failures) == (1, 0)
        assert row.first_sent_ago_ms is not None
        assert await acquire(store, "next")

    async def test_a_failure_makes_everybody_wait(self, store: Store) -> None:
        """The wait is shared through the row."""
        await store.create_session(session(), browser=None)
        await acquire(store)

        assert await release(store, wait_ms=HOUR_MS)

        row = await row_of(store)
        assert row.failures == 1
        assert about(HOUR_MS, row.refresh_wait_ms)
        assert not await acquire(store, "next")

    async def test_an_unspent_request_leaves_the_journal(self, store: Store) -> None:
        """Only its own announcement goes, and the time of the first goes with the last."""
        await store.create_session(session(), browser=None)
        await acquire(store)
        await mark(store)
        await release(store)
        await acquire(store)
        await mark(store)
        assert (await row_of(store)).attempts == 2

        assert await release(store, unspent=True)
        row = await row_of(store)
        assert row.attempts == 1
        assert row.first_sent_ago_ms is not None

        await acquire(store)
        assert await release(store, unspent=True)
        row = await row_of(store)
        assert (row.attempts, row.first_sent_ago_ms) == (0, None)

        await acquire(store)
        assert await release(store, unspent=True)
        assert (await row_of(store)).attempts == 0

    async def test_a_replay_is_counted(self, store: Store) -> None:
        """For this version only."""
        await store.create_session(session(), browser=None)

        assert not await store.count_attempt("session", version=2)
        assert await store.count_attempt("session", version=1)
        assert await store.count_attempt("session", version=1)
        assert not await store.count_attempt("none", version=1)

        assert (await row_of(store)).attempts == 2

    async def test_an_end_wipes_what_was_sealed(self, store: Store) -> None:
        """The row stays, as the proof of how it ended."""
        await store.create_session(session(), browser=None)

        assert await store.end_session("session", "revoked", version=1)

        row = await row_of(store)
        assert (row.status, row.ended_reason) == ("ended", "revoked")
        assert (row.sealed_dpop_key, row.sealed_tokens) == (None, None)
        assert (row.did, row.version) == ("did:plc:alice", 1)

    async def test_the_first_reason_stays(self, store: Store, second_store: Store) -> None:
        """Of many that end a session one is told that it did, and its reason is kept."""
        await store.create_session(session(), browser=None)

        won = await asyncio.gather(
            store.end_session("session", "logout"),
            second_store.end_session("session", "revoked"),
            store.end_session("session", "lost_rotation", version=1),
            second_store.end_session("session", "by_operator"),
        )

        assert sum(won) == 1
        reason = ("logout", "revoked", "lost_rotation", "by_operator")[won.index(True)]
        assert (await row_of(store)).ended_reason == reason

    async def test_an_end_may_ask_for_a_version(self, store: Store) -> None:
        """A refusal of old tokens does not end a session with newer ones."""
        await store.create_session(session(), browser=None)
        await store.commit_refresh("session", version=1, owner="me", refreshed=refreshed())

        assert not await store.end_session("session", "revoked", version=1)
        assert not await store.end_session("none", "revoked")
        assert (await row_of(store)).status == "active"
        assert await store.end_session("session", "logout")

    async def test_a_needed_login_frees_the_lease(self, store: Store) -> None:
        """The sealed columns stay: the session can still be logged out at its server."""
        await store.create_session(session(), browser=None)
        await acquire(store)

        assert not await store.require_reauth("session", version=2)
        assert await store.require_reauth("session", version=1)
        assert not await store.require_reauth("session", version=1)

        row = await row_of(store)
        assert (row.status, row.ended_reason) == ("reauth_required", None)
        assert row.lease_until is None
        assert row.sealed_tokens == b"sealed tokens"

    async def test_an_ended_session_needs_no_login(self, store: Store) -> None:
        """The end is the end."""
        await store.create_session(session(), browser=None)
        await store.end_session("session", "logout")

        assert not await store.require_reauth("session", version=1)
        assert (await row_of(store)).status == "ended"

    async def test_a_reseal_is_a_compare_and_swap(self, store: Store) -> None:
        """It replaces what it read, keeps the version, and touches nothing else."""
        await store.create_session(session(), browser=None)
        await acquire(store)
        before = timeless(await row_of(store))

        async def reseal(version: int) -> bool:
            return await store.reseal(
                "session",
                version=version,
                sealed_dpop_key=b"key again",
                sealed_tokens=b"tokens again",
                sealed_key="key-9",
            )

        assert not await reseal(2)
        assert await reseal(1)
        assert timeless(await row_of(store)) == replace(
            before,
            sealed_dpop_key=b"key again",
            sealed_tokens=b"tokens again",
            sealed_key="key-9",
        )
        assert await store.commit_refresh("session", version=1, owner="me", refreshed=refreshed())
        assert not await reseal(1)
        assert (await row_of(store)).sealed_tokens == b"new tokens"
        await store.end_session("session", "logout")
        assert not await reseal(2)
        assert (await row_of(store)).sealed_tokens is None

    async def test_a_cancelled_commit_leaves_all_or_nothing(self, store: Store) -> None:
        """Whenever the caller goes away, old tokens or new ones are there, whole."""
        await store.create_session(session(), browser=None)
        attempted = {1: [b"sealed tokens"], 2: [b"whole"]}

        def commit(version: int, tokens: bytes) -> Coroutine[object, object, bool]:
            return store.commit_refresh(
                "session", version=version, owner="me", refreshed=refreshed(tokens)
            )

        took = await timed(commit(1, b"whole"))
        for number, moment in enumerate(MOMENTS):
            version = (await row_of(store)).version
            attempted.setdefault(version + 1, []).append(b"%d" % number)
            await cancelled_after(moment * took, commit(version, b"%d" % number))

            row = await row_of(store)
            assert row.sealed_tokens in attempted[row.version]
        for _ in range(50):
            # Until the last of those that went on without their caller has ended.
            if await acquire(store, version=(await row_of(store)).version):
                return
            await asyncio.sleep(0.05)
        raise AssertionError("the session cannot be refreshed any more")
