"""The contract of one-time things."""

from __future__ import annotations

import asyncio
import time

import pytest

from atproto_oauth_asgi.errors import StoreError
from atproto_oauth_asgi.store import Consumed, Store
from atproto_oauth_asgi.testing.conformance_base import (
    MOMENTS,
    ConformanceBase,
    about,
    cancelled_after,
    hashed,
    one_time,
    timed,
)

KEY = hashed("state")


async def _consume(store: Store, key: bytes = KEY) -> Consumed:
    found = await store.consume(key, kind="login")
    assert found is not None
    return found


class OneTimeConformance(ConformanceBase):
    """Tests `put`, `consume` and `record_outcome`."""

    async def test_consume_hands_out_what_was_put(self, store: Store) -> None:
        """The first caller gets the payload and the browser it is bound to."""
        await store.put(one_time(sealed=b"\x00payload\xff"))

        found = await _consume(store)

        assert found == Consumed(
            first=True,
            browser_hash=hashed("login cookie"),
            sealed=b"\x00payload\xff",
            expired=False,
            consumed_ago_ms=0,
            outcome=None,
        )

    async def test_a_key_can_be_put_once(self, store: Store, second_store: Store) -> None:
        """A second `put` is refused and changes nothing, used up or not."""
        await store.put(one_time(sealed=b"first"))
        with pytest.raises(StoreError):
            await second_store.put(one_time(sealed=b"second"))
        assert (await _consume(store)).sealed == b"first"
        with pytest.raises(StoreError):
            await store.put(one_time(sealed=b"third"))
        assert not (await _consume(store)).first

    async def test_an_unknown_key_is_none(self, store: Store) -> None:
        """Nothing is found where nothing was put."""
        assert await store.consume(KEY, kind="login") is None

    async def test_another_kind_does_not_find_it(self, store: Store) -> None:
        """The kind is part of the name, and asking for another uses nothing up."""
        await store.put(one_time(kind="login"))

        assert await store.consume(KEY, kind="other") is None
        assert (await _consume(store)).first

    async def test_one_of_fifty_is_first(self, store: Store, second_store: Store) -> None:
        """However many race, one may act on the payload and the others never see it."""
        await store.put(one_time())

        found = await asyncio.gather(*(_consume(s) for s in [store, second_store] * 25))

        assert sum(one.first for one in found) == 1
        assert [one.sealed for one in found if one.sealed is not None] == [b"sealed"]
        assert all(one.first == (one.sealed is not None) for one in found)

    async def test_a_use_is_remembered(self, store: Store, second_store: Store) -> None:
        """The row stays, without its payload, and says how long ago it was used."""
        await store.put(one_time())
        await _consume(store)
        await self.advance(store, 200)

        again = await _consume(second_store)

        assert not again.first
        assert again.sealed is None
        assert again.browser_hash == hashed("login cookie")
        assert again.consumed_ago_ms >= 200
        assert about(200, again.consumed_ago_ms)

    async def test_the_memory_of_a_use_outlives_its_time(self, store: Store) -> None:
        """Past its time a used thing is still known as used, until it is purged."""
        started = time.monotonic()
        await store.put(one_time(ms=900))
        if not (await _consume(store)).first:
            # Only a machine that stalled was too late for it.
            assert time.monotonic() - started >= 0.9
            return
        await self.advance(store, 950)

        again = await _consume(store)

        assert again.expired
        assert not again.first
        assert again.consumed_ago_ms >= 950

    async def test_an_expired_thing_is_nobodys(self, store: Store) -> None:
        """Too late is too late for everybody, and asking is not a use."""
        await store.put(one_time(ms=100))
        await self.advance(store, 200)

        for _ in range(2):
            found = await _consume(store)

            assert found.expired
            assert not found.first
            assert found.sealed is None
            assert found.consumed_ago_ms == 0

    async def test_the_first_outcome_stays(self, store: Store, second_store: Store) -> None:
        """An outcome is written once and every later caller sees it."""
        await store.put(one_time())
        await _consume(store)
        await store.record_outcome(KEY, "session|/home?ü")
        await second_store.record_outcome(KEY, "error")

        assert (await _consume(second_store)).outcome == "session|/home?ü"

    async def test_a_thing_not_used_has_no_outcome(self, store: Store) -> None:
        """An outcome before the use, or of nothing, is not written and not an error."""
        await store.put(one_time())
        await store.record_outcome(KEY, "early")
        await store.record_outcome(hashed("unknown"), "nothing")

        assert (await _consume(store)).outcome is None
        assert (await _consume(store)).outcome is None

    async def test_a_payload_may_have_64_kib_and_more(self, store: Store) -> None:
        """Payloads come back to the byte."""
        payload = bytes(range(256)) * 300
        await store.put(one_time(sealed=payload))

        assert (await _consume(store)).sealed == payload

    async def test_a_cancelled_put_leaves_all_or_nothing(self, store: Store) -> None:
        """Whenever the caller goes away, the thing is whole or absent and the store well."""
        took = await timed(store.put(one_time("whole")))
        for number, moment in enumerate(MOMENTS):
            await cancelled_after(moment * took, store.put(one_time(f"{number}")))

            found = await store.consume(hashed(f"{number}"), kind="login")

            assert found is None or found.sealed == b"sealed"
        await store.check()

    async def test_a_cancelled_consume_uses_up_or_does_not(self, store: Store) -> None:
        """Whenever the caller goes away, the payload is there for the next one or is gone."""
        await store.put(one_time("whole"))
        took = await timed(store.consume(hashed("whole"), kind="login"))
        for number, moment in enumerate(MOMENTS):
            key = hashed(f"{number}")
            await store.put(one_time(f"{number}"))
            await cancelled_after(moment * took, store.consume(key, kind="login"))

            found = await _consume(store, key)

            assert found.first == (found.sealed == b"sealed")
            assert not (await _consume(store, key)).first
