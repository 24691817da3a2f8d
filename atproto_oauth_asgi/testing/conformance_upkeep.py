"""The contract of lists and of the purge."""

from __future__ import annotations

import asyncio
import time

from atproto_oauth_asgi.store import ENDED_KEPT_MS, SessionFilter, Store
from atproto_oauth_asgi.testing.conformance_base import (
    HOUR_MS,
    ConformanceBase,
    browser,
    hashed,
    one_time,
    refreshed,
    session,
)
from atproto_oauth_asgi.testing.conformance_refresh import row_of


async def ids(
    store: Store, where: SessionFilter, *, after: str | None = None, limit: int = 100
) -> list[str]:
    """Return the ids of a list."""
    return [row.id for row in await store.list_sessions(where, after=after, limit=limit)]


class UpkeepConformance(ConformanceBase):
    """Tests `list_sessions`, `purge_expired`, and the connection."""

    async def test_lists_come_in_pages(self, store: Store) -> None:
        """By ascending id, each page after the last id of the one before."""
        for id_ in ("b", "a", "C", "é", "d"):
            await store.create_session(session(id_), browser=None)

        assert await ids(store, SessionFilter(), limit=2) == ["C", "a"]
        assert await ids(store, SessionFilter(), after="a", limit=2) == ["b", "d"]
        assert await ids(store, SessionFilter(), after="d", limit=2) == ["é"]
        assert await ids(store, SessionFilter(), after="é", limit=2) == []
        assert await ids(store, SessionFilter(), limit=0) == []

    async def test_lists_are_narrowed_by_every_filter(self, store: Store) -> None:
        """A field that is None does not narrow, and those that are set all must hold."""
        await store.create_session(session("a", did="did:plc:bob"), browser=browser())
        await store.create_session(session("b", client_kid="kid"), browser=None)
        await store.create_session(session("c", sealed_key="key-9"), browser=None)
        await store.create_session(session("d"), browser=None)
        await store.require_reauth("d", version=1)
        await store.create_session(session("e", did="did:plc:bob"), browser=None)
        await store.end_session("e", "logout")

        assert await ids(store, SessionFilter()) == ["a", "b", "c", "d", "e"]
        assert await ids(store, SessionFilter(did="did:plc:bob")) == ["a", "e"]
        assert await ids(store, SessionFilter(did="did:plc:BOB")) == []
        assert await ids(store, SessionFilter(browser_id="browser")) == ["a"]
        assert await ids(store, SessionFilter(client_kid="kid")) == ["b"]
        assert await ids(store, SessionFilter(sealed_key="key-9")) == ["c"]
        assert await ids(store, SessionFilter(status="reauth_required")) == ["d"]
        assert await ids(store, SessionFilter(status="ended")) == ["e"]
        assert await ids(store, SessionFilter(did="did:plc:bob", status="active")) == ["a"]

    async def test_lists_tell_fresh_from_old(self, store: Store) -> None:
        """By when the tokens last changed, at login or by a refresh."""
        await store.create_session(session("a"), browser=None)
        await store.create_session(session("b"), browser=None)
        await self.advance(store, 950)
        started = time.monotonic()
        await store.commit_refresh("b", version=1, owner="me", refreshed=refreshed())

        old = await ids(store, SessionFilter(refreshed_before_ms=900))
        # On a machine that stalls the refresh may be as old by now.
        assert old == ["a"] or (old == ["a", "b"] and time.monotonic() - started >= 0.9)
        assert await ids(store, SessionFilter(refreshed_before_ms=0)) == ["a", "b"]
        assert await ids(store, SessionFilter(refreshed_before_ms=HOUR_MS)) == []

    async def test_the_purge_deletes_or_ends_what_is_over(self, store: Store) -> None:
        """And leaves the rest, and a session whose browser is gone, alone."""
        await store.put(one_time("over", ms=100))
        await store.put(one_time("later"))
        await store.create_session(session("a"), browser=browser("over", "1", ms=100))
        await store.create_session(session("b", lifetime_ms=100), browser=browser("later", "2"))
        await store.create_session(session("c", lifetime_ms=100), browser=None)
        await store.end_session("c", "logout")
        await self.advance(store, 200)

        assert await store.purge_expired(100) == 3
        assert await store.purge_expired(100) == 0

        assert await store.consume(hashed("over"), kind="login") is None
        assert await store.consume(hashed("later"), kind="login") is not None
        assert await store.load(hashed("1")) is None
        a, b, c = [await row_of(store, id_) for id_ in "abc"]
        assert (a.status, a.browser_id) == ("active", None)
        assert (b.status, b.ended_reason, b.sealed_tokens) == ("ended", "expired", None)
        assert b.browser_id == "later"
        assert (c.status, c.ended_reason) == ("ended", "logout")

    async def test_ended_rows_are_kept_as_proof_for_a_month(self, store: Store) -> None:
        """Then they go, and the browser has no session any more."""
        await store.create_session(
            session("old"), browser=browser(cookie="1", ms=2 * ENDED_KEPT_MS)
        )
        await store.create_session(session("live", lifetime_ms=2 * ENDED_KEPT_MS), browser=None)
        await store.end_session("old", "logout")
        await self.advance(store, ENDED_KEPT_MS - HOUR_MS)
        assert await store.purge_expired(100) == 0

        await self.advance(store, HOUR_MS)

        assert await store.purge_expired(100) == 1
        assert await store.load_session("old") is None
        assert (await row_of(store, "live")).status == "active"
        found = await store.load(hashed("1"))
        assert found is not None
        assert found.session is None

    async def test_a_purge_is_bounded(self, store: Store) -> None:
        """Whatever there is to do, no call does more than it was told."""
        for number in range(5):
            await store.put(one_time(f"{number}", ms=100))
            await store.create_session(
                session(f"{number}", lifetime_ms=100),
                browser=browser(f"{number}", f"{number}", ms=100),
            )
        await self.advance(store, 200)

        assert await store.purge_expired(0) == 0
        assert await store.purge_expired(7) == 7
        assert await store.purge_expired(7) == 7
        assert await store.purge_expired(7) == 1
        assert await store.purge_expired(7) == 0

    async def test_purges_may_race(self, store: Store, second_store: Store) -> None:
        """No row is dealt with twice."""
        for number in range(20):
            await store.put(one_time(f"{number}", ms=100))
        await self.advance(store, 200)

        counts = await asyncio.gather(*(s.purge_expired(20) for s in [store, second_store] * 3))

        assert sum(counts) <= 20
        assert sum(counts) + await store.purge_expired(20) == 20

    async def test_a_store_may_be_opened_again(self, store: Store) -> None:
        """And works on after it was closed: closing lets go of connections, not of data."""
        await store.create_session(session(), browser=None)
        await store.open()
        await store.check()
        await store.aclose()
        await store.open()

        assert (await row_of(store)).status == "active"

    async def test_two_objects_see_each_others_writes(
        self, store: Store, second_store: Store
    ) -> None:
        """At once."""
        await store.create_session(session(), browser=browser())
        assert (await row_of(second_store)).version == 1
        await second_store.commit_refresh("session", version=1, owner="me", refreshed=refreshed())
        assert (await row_of(store)).version == 2
