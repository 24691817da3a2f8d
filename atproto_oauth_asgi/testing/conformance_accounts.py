"""The contract of several accounts in one browser."""

from __future__ import annotations

import asyncio

from atproto_oauth_asgi.store import Store
from atproto_oauth_asgi.testing.conformance_base import ConformanceBase, browser, session
from atproto_oauth_asgi.testing.conformance_commit import timeless
from atproto_oauth_asgi.testing.conformance_refresh import row_of
from atproto_oauth_asgi.testing.conformance_sessions import active_id, load


class AccountConformance(ConformanceBase):
    """Tests what chooses the active session: `switch_active` and `detach`."""

    async def test_an_ended_session_stays_active_in_its_browser(self, store: Store) -> None:
        """So that its browser can be told how it ended."""
        await store.create_session(session(), browser=browser())
        await store.end_session("session", "revoked")

        found = (await load(store)).session

        assert found is not None
        assert (found.status, found.ended_reason) == ("ended", "revoked")

    async def test_a_switch_goes_to_a_live_session_of_the_browsers(self, store: Store) -> None:
        """And to nothing else."""
        await store.create_session(session("one"), browser=browser(cookie="1"))
        await store.create_session(session("two"), browser=browser(cookie="2"))
        await store.create_session(session("out"), browser=browser(cookie="3"))
        await store.create_session(session("theirs"), browser=browser("other", "4"))
        await store.create_session(session("job"), browser=None)
        await store.end_session("out", "logout")
        before = timeless(await row_of(store, "one"))

        assert await store.switch_active("browser", "one")
        assert await store.switch_active("browser", "one")
        for id_ in ("out", "theirs", "job", "none"):
            assert not await store.switch_active("browser", id_)
        assert not await store.switch_active("none", "one")

        assert await active_id(store, "3") == "one"
        assert timeless(await row_of(store, "one")) == before

    async def test_a_switch_may_go_where_a_login_is_needed(self, store: Store) -> None:
        """The session is not ended, so its account can be chosen to log in again."""
        await store.create_session(session("one"), browser=browser(cookie="1"))
        await store.create_session(session("two"), browser=browser(cookie="2"))
        await store.require_reauth("one", version=1)

        assert await store.switch_active("browser", "one")

    async def test_the_last_seen_session_follows_one_that_leaves(self, store: Store) -> None:
        """Of those that are `active`; and the ones that have not ended are counted."""
        for number, id_ in enumerate(("seen", "unseen", "reauth", "out", "leaving")):
            await store.create_session(session(id_), browser=browser(cookie=str(number)))
            await self.advance(store, 20)
        for id_ in ("seen", "reauth", "out"):
            await self.advance(store, 20)
            await store.touch("browser", id_)
        await store.require_reauth("reauth", version=1)
        await store.end_session("out", "logout")

        assert await store.detach("browser", "leaving") == 3

        assert await active_id(store, "4") == "seen"
        left = await row_of(store, "leaving")
        assert (left.browser_id, left.status) == (None, "active")
        assert await store.detach("browser", "seen") == 2
        assert await active_id(store, "4") == "unseen"
        assert await store.detach("browser", "unseen") == 1
        assert await active_id(store, "4") is None
        assert await store.detach("browser", "reauth") == 0
        assert (await load(store, "4")).browser_id == "browser"

    async def test_only_the_active_session_has_a_follower(self, store: Store) -> None:
        """Taking out another, or a stranger's, changes nothing else."""
        await store.create_session(session("one"), browser=browser(cookie="1"))
        await store.create_session(session("two"), browser=browser(cookie="2"))
        await store.create_session(session("theirs"), browser=browser("other", "3"))

        assert await store.detach("browser", "theirs") == 2
        assert await active_id(store, "3") == "theirs"
        assert (await row_of(store, "theirs")).browser_id == "other"
        assert await store.detach("browser", "one") == 1
        assert await active_id(store, "2") == "two"
        assert await store.detach("browser", "one") == 1
        assert await store.detach("none", "two") == 0
        assert await active_id(store, "2") == "two"

    async def test_the_active_session_stays_when_another_leaves(self, store: Store) -> None:
        """Even where a third was seen later."""
        for id_ in ("later", "leaving", "active"):
            await store.create_session(session(id_), browser=browser(cookie=id_))
        await self.advance(store, 20)
        await store.touch("browser", "later")

        assert await store.detach("browser", "leaving") == 2

        assert await active_id(store, "active") == "active"

    async def test_sessions_that_leave_together_leave_the_rest(
        self, store: Store, second_store: Store
    ) -> None:
        """Whatever the order, the follower is one that stayed."""
        for number in range(6):
            await store.create_session(session(f"{number}"), browser=browser(cookie=f"{number}"))

        left = await asyncio.gather(
            *(
                s.detach("browser", f"{n}")
                for n, s in zip("54321", [store, second_store] * 3, strict=False)
            )
        )

        assert sorted(left) == [1, 2, 3, 4, 5]
        assert await active_id(store, "5") == "0"
