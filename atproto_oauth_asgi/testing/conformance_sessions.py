"""The contract of browsers, their cookies, and the sessions in them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import replace

import pytest

from atproto_oauth_asgi.errors import StoreError
from atproto_oauth_asgi.store import COOKIE_GRACE_MS, Loaded, SessionRecord, Store
from atproto_oauth_asgi.testing.conformance_base import (
    HOUR_MS,
    MOMENTS,
    SLACK_MS,
    ConformanceBase,
    about,
    browser,
    cancelled_after,
    hashed,
    session,
    timed,
)
from atproto_oauth_asgi.testing.conformance_commit import timeless
from atproto_oauth_asgi.testing.conformance_refresh import CLOCK_MS, acquire, mark, row_of

#: Ids that a careless comparison takes for another, or a careless statement for SQL.
ODD_IDS = (
    "a",
    "A",
    "a ",
    " a",
    "",
    "%",
    "_",
    "a'b",
    'a"b',
    "a\\b",
    "a;--",
    "é",
    "e\u0301",
    "😀",
    "ﬀ",
    "x" * 120,
)


async def load(store: Store, cookie: str = "cookie") -> Loaded:
    """Return what a cookie names, which must be something."""
    found = await store.load(hashed(cookie))
    assert found is not None
    return found


async def active_id(store: Store, cookie: str = "cookie") -> str | None:
    """Return the id of the session that a cookie opens."""
    found = (await load(store, cookie)).session
    return None if found is None else found.id


class BrowserConformance(ConformanceBase):
    """Tests `create_session`, `load` and `touch`."""

    async def test_a_new_session_is_what_was_given(self, store: Store) -> None:
        """Its lives are counted from when the token request left, and it starts at version 1."""
        await store.create_session(
            session(client_kid="kid", sent_ago_ms=HOUR_MS // 4, refresh_after_ms=HOUR_MS // 2),
            browser=browser(),
        )

        row = await row_of(store)

        assert timeless(row) == SessionRecord(
            id="session",
            browser_id="browser",
            client_id="https://app.test/oauth-client-metadata.json",
            did="did:plc:alice",
            issuer="https://pds.test",
            handle="alice.test",
            scope="atproto transition:generic",
            pds="https://pds.test",
            client_kid="kid",
            sealed_dpop_key=b"sealed key",
            sealed_tokens=b"sealed tokens",
            sealed_key="key-1",
            version=1,
            status="active",
            ended_reason=None,
            access_remaining_ms=0,
            refresh_wait_ms=0,
            remaining_ms=0,
            lease_owner=None,
            lease_until=None,
            lease_remaining_ms=None,
            attempts=0,
            first_sent_ago_ms=None,
            failures=0,
            created_ago_ms=0,
            refreshed_ago_ms=0,
            seen_ago_ms=0,
        )
        assert about(HOUR_MS * 3 // 4, row.access_remaining_ms)
        assert about(HOUR_MS // 4, row.refresh_wait_ms)
        assert about(24 * HOUR_MS, row.remaining_ms)
        assert 0 <= row.created_ago_ms < SLACK_MS
        assert 0 <= row.refreshed_ago_ms < SLACK_MS
        assert 0 <= row.seen_ago_ms < SLACK_MS

    async def test_a_cookie_names_its_browser_and_session(
        self, store: Store, second_store: Store
    ) -> None:
        """And no other cookie does."""
        await store.create_session(session(), browser=browser())

        found = await load(second_store)

        assert found.browser_id == "browser"
        assert about(HOUR_MS, found.browser_remaining_ms)
        assert found.session is not None
        assert timeless(found.session) == timeless(await row_of(store))
        assert await store.load(hashed("Cookie")) is None

    async def test_a_session_may_live_without_a_browser(self, store: Store) -> None:
        """Then `replaces` concerns nothing."""
        await store.create_session(session("one"), browser=browser())
        await store.create_session(session("two"), browser=None, replaces=["one"])

        assert (await row_of(store, "two")).browser_id is None
        assert (await row_of(store, "one")).status == "active"

    async def test_an_id_or_cookie_used_twice_is_refused(self, store: Store) -> None:
        """And the refusal leaves everything as it was."""
        await store.create_session(session("one"), browser=browser("b1", "c1"))
        await store.create_session(session("two"), browser=browser("b2", "c2"))

        with pytest.raises(StoreError):
            await store.create_session(session("one"), browser=browser("b2", "c3"))
        with pytest.raises(StoreError):
            await store.create_session(session("three"), browser=browser("b2", "c1"))

        assert await store.load(hashed("c3")) is None
        assert await store.load_session("three") is None
        assert (await active_id(store, "c1"), await active_id(store, "c2")) == ("one", "two")

    async def test_a_login_rotates_the_cookie(self, store: Store) -> None:
        """The one before still names the browser, but gains nothing by the login."""
        await store.create_session(session("one"), browser=browser(cookie="before"))
        await store.create_session(session("two"), browser=browser(cookie="after"))

        assert await active_id(store, "after") == "two"
        assert (await load(store, "before")).browser_id == "browser"
        assert await active_id(store, "before") is None

    async def test_the_cookie_before_ends_with_its_grace(self, store: Store) -> None:
        """A minute after the login it names nothing any more."""
        await store.create_session(session("one"), browser=browser(cookie="before"))
        await store.create_session(session("two"), browser=browser(cookie="after"))
        await self.advance(store, COOKIE_GRACE_MS - SLACK_MS)
        assert await store.load(hashed("before")) is not None

        await self.advance(store, SLACK_MS)

        assert await store.load(hashed("before")) is None
        assert await active_id(store, "after") == "two"

    async def test_only_one_cookie_before_is_known(self, store: Store) -> None:
        """Two logins ago is too long ago, however quick they were."""
        await store.create_session(session("one"), browser=browser(cookie="first"))
        await store.create_session(session("two"), browser=browser(cookie="second"))
        await store.create_session(session("three"), browser=browser(cookie="third"))

        assert await store.load(hashed("first")) is None
        assert (await load(store, "second")).browser_id == "browser"
        assert await active_id(store, "third") == "three"

    async def test_a_rotation_hides_only_newer_sessions(self, store: Store) -> None:
        """What the old cookie could see before it was replaced, it sees in its grace."""
        await store.create_session(session("older"), browser=browser(cookie="one"))
        await store.create_session(session("old"), browser=browser(cookie="two"))
        await store.create_session(session("new"), browser=browser(cookie="three"))
        assert await active_id(store, "two") is None

        for seen in ("old", "older"):
            assert await store.switch_active("browser", seen)
            assert await active_id(store, "two") == seen

        assert await store.switch_active("browser", "new")
        assert await active_id(store, "two") is None

    async def test_a_login_joins_only_by_the_cookie_of_now(self, store: Store) -> None:
        """Whoever knew the cookie before a login gets hold of nothing that came with it."""
        await store.create_session(session("one"), browser=browser(cookie="1"))
        login = replace(browser(cookie="2"), presented=hashed("1"))
        assert await store.create_session(session("two"), browser=login)
        assert (await load(store, "2")).current
        assert not (await load(store, "1")).current

        late = replace(browser(cookie="3"), presented=hashed("1"))
        assert not await store.create_session(session("late"), browser=late, replaces=["two"])
        none = replace(browser("none", "4"), presented=hashed("1"))
        assert not await store.create_session(session("none"), browser=none)

        assert await store.load(hashed("3")) is None
        assert await store.load_session("late") is None
        assert await store.load_session("none") is None
        assert await active_id(store, "2") == "two"

    async def test_a_browsers_life_only_grows(self, store: Store) -> None:
        """A short login does not cut a long one off."""
        await store.create_session(session("one"), browser=browser(cookie="1", ms=5 * HOUR_MS))
        await store.create_session(session("two"), browser=browser(cookie="2", ms=HOUR_MS))
        assert about(5 * HOUR_MS, (await load(store, "2")).browser_remaining_ms)

        await store.create_session(session("three"), browser=browser(cookie="3", ms=9 * HOUR_MS))
        assert about(9 * HOUR_MS, (await load(store, "3")).browser_remaining_ms)

    async def test_a_browser_past_its_end_is_none(self, store: Store) -> None:
        """By any of its cookies, purged or not; its session is there for those who know it."""
        await store.create_session(session("first"), browser=browser(cookie="one", ms=300))
        await store.create_session(session(), browser=browser(cookie="two", ms=300))
        await self.advance(store, 400)

        assert await store.load(hashed("one")) is None
        assert await store.load(hashed("two")) is None
        assert (await row_of(store)).status == "active"

    async def test_replaced_sessions_end(self, store: Store) -> None:
        """Those of this browser that live, and no others."""
        await store.create_session(session("mine"), browser=browser(cookie="1"))
        await store.create_session(session("out"), browser=browser(cookie="2"))
        await store.create_session(session("kept"), browser=browser(cookie="3"))
        await store.create_session(session("theirs"), browser=browser("other", "4"))
        await store.create_session(session("job"), browser=None)
        await store.end_session("out", "logout")
        others = ["out", "theirs", "job", "none"]

        await store.create_session(
            session("new"), browser=browser(cookie="5"), replaces=["mine", *others]
        )

        mine = await row_of(store, "mine")
        assert (mine.status, mine.ended_reason) == ("ended", "replaced")
        assert (mine.sealed_dpop_key, mine.sealed_tokens) == (None, None)
        assert (await row_of(store, "out")).ended_reason == "logout"
        for id_ in ("kept", "theirs", "job", "new"):
            assert (await row_of(store, id_)).status == "active"
        assert await active_id(store, "5") == "new"

    async def test_first_logins_that_race_share_the_browser(
        self, store: Store, second_store: Store
    ) -> None:
        """Both sessions are there, and the later cookie opens the later session."""
        await asyncio.gather(
            store.create_session(session("one"), browser=browser(cookie="1")),
            second_store.create_session(session("two"), browser=browser(cookie="2")),
        )

        seen = [await active_id(store, cookie) for cookie in ("1", "2")]
        assert sorted(filter(None, seen)) in (["one"], ["two"])
        for id_ in ("one", "two"):
            assert (await row_of(store, id_)).browser_id == "browser"

    async def test_a_touch_writes_seen_and_nothing_else(self, store: Store) -> None:
        """Not the tokens, the lease, nor the life of anything."""
        await store.create_session(session(), browser=browser())
        await acquire(store)
        await mark(store)
        await self.advance(store, 300)
        before = await load(store)
        assert before.session is not None
        assert before.session.seen_ago_ms >= 300

        started = time.monotonic()
        await store.touch("browser", "session")
        await store.touch(None, "none")

        after = await load(store)
        taken_ms = (time.monotonic() - started) * 1000
        assert after.session is not None
        assert after.session.seen_ago_ms <= taken_ms + CLOCK_MS
        assert timeless(after.session) == timeless(before.session)
        assert after.session.created_ago_ms >= 300
        assert after.session.refreshed_ago_ms >= 300
        assert after.session.remaining_ms <= before.session.remaining_ms
        assert after.browser_remaining_ms <= before.browser_remaining_ms

    async def test_ids_are_compared_byte_by_byte(self, store: Store) -> None:
        """Case, spaces, accents and quotes are what they are."""
        for number, id_ in enumerate(ODD_IDS):
            await store.create_session(
                session(id_, did=f"did:web:{number}"), browser=browser(id_, f"{number}")
            )

        for number, id_ in enumerate(ODD_IDS):
            row = await row_of(store, id_)
            assert (row.id, row.browser_id, row.did) == (id_, id_, f"did:web:{number}")
            assert await active_id(store, f"{number}") == id_
            assert await store.end_session(id_, "logout")
            assert await store.detach(id_, id_) == 0

    async def test_sealed_columns_may_have_64_kib_and_more(self, store: Store) -> None:
        """They come back to the byte."""
        payload = bytes(range(256)) * 300
        await store.create_session(session(sealed=payload), browser=None)

        assert (await row_of(store)).sealed_tokens == payload

    async def test_a_cancelled_login_leaves_all_or_nothing(self, store: Store) -> None:
        """Whenever the caller goes away, cookie and session changed together or not at all."""

        async def look(name: str) -> None:
            # Work may end after its caller has gone: what is read later can only be more done.
            before = await store.load(hashed(f"{name} after"))
            old = await row_of(store, f"{name} old")
            after = await store.load(hashed(f"{name} after"))
            for found in (before, after):
                assert found is None or found.session is not None
                assert found is None or found.session is None or found.session.id == f"{name} new"
            assert before is None or old.status == "ended"
            assert after is not None or old.status == "active"

        def log_in(name: str) -> Coroutine[object, object, object]:
            return store.create_session(
                session(f"{name} new"),
                browser=browser(name, f"{name} after"),
                replaces=[f"{name} old"],
            )

        names = [f"browser {number}" for number in range(len(MOMENTS))]
        for name in ("whole", *names):
            await store.create_session(
                session(f"{name} old"), browser=browser(name, f"{name} before")
            )
        took = await timed(log_in("whole"))
        for name, moment in zip(names, MOMENTS, strict=True):
            await cancelled_after(moment * took, log_in(name))
            await look(name)
        await store.create_session(session("last"), browser=None)
        for name in names:
            await look(name)
