from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any, cast

import pytest

from atproto_oauth_asgi import embedded
from atproto_oauth_asgi import rekey as module
from atproto_oauth_asgi.errors import StoreUnavailable
from atproto_oauth_asgi.rekey import Tally, rekey
from atproto_oauth_asgi.sealing import KeyRing
from atproto_oauth_asgi.store import SessionFilter, SessionRecord
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.vault import sealed_with
from tests.app.faulty_store import FaultyStore
from tests.app.world import World, world

pytestmark = pytest.mark.anyio

OLD, NEW, LOST = b"o" * 32, b"n" * 32, b"l" * 32
BOTH = KeyRing([NEW, OLD])
OLD_ID, NEW_ID, LOST_ID = (KeyRing([key]).primary_key_id for key in (OLD, NEW, LOST))


async def people(store: FaultyStore, network: Network, *keys: bytes, times: int = 1) -> list[str]:
    """Log in with as many browsers and return their cookies."""
    cookies: list[str] = []
    async with world(network, store=store, secret_keys=keys) as here:
        for _ in range(times):
            here.browser.cookies.clear()
            await here.login()
            cookies.append(here.cookie or "")
    return cookies


async def rows(store: FaultyStore) -> list[SessionRecord]:
    return await store.list_sessions(SessionFilter())


async def sealed_by(store: FaultyStore) -> set[str]:
    return {
        key_id for row in await rows(store) for key_id in (*sealed_with(row), row.sealed_key or "")
    }


async def signed_in(here: World, cookie: str) -> bool:
    here.browser.cookies.clear()
    here.browser.cookies.set(here.oauth.cookies.session, cookie)
    answer = await here.browser.get("/me")
    return answer.status_code == 200


async def test_after_a_rekey_the_first_key_alone_opens_everything() -> None:
    store, network = FaultyStore(), Network()
    cookies = await people(store, network, OLD, times=3)

    tally = await rekey(store, BOTH)

    assert (tally.seen, tally.resealed, tally.broken, tally.done) == (3, 3, {}, True)
    assert await sealed_by(store) == {NEW_ID}
    assert {row.version for row in await rows(store)} == {1}
    async with world(network, store=store, secret_keys=(NEW,)) as here:
        assert [await signed_in(here, cookie) for cookie in cookies] == [True] * 3
        store.allow_refresh()
        network.expire_access_tokens()
        assert [await signed_in(here, cookie) for cookie in cookies] == [True] * 3


async def test_a_key_that_a_login_sealed_is_sealed_anew_although_a_refresh_sealed_the_tokens() -> (
    None
):
    store, network = FaultyStore(), Network()
    (cookie,) = await people(store, network, OLD)
    async with world(network, store=store, secret_keys=(NEW, OLD)) as here:
        store.allow_refresh()
        network.expire_access_tokens()
        assert await signed_in(here, cookie)
    (row,) = await rows(store)
    # The row names the new key only, and needs both.
    assert (row.version, row.sealed_key) == (2, NEW_ID)
    assert sealed_with(row) == {OLD_ID, NEW_ID}

    assert (await rekey(store, BOTH)).resealed == 1

    assert await sealed_by(store) == {NEW_ID}
    async with world(network, store=store, secret_keys=(NEW,)) as here:
        assert await signed_in(here, cookie)


async def test_a_second_rekey_finds_nothing_to_do() -> None:
    store, network = FaultyStore(), Network()
    await people(store, network, OLD, times=2)
    await rekey(store, BOTH)
    before = await rows(store)

    tally = await rekey(store, BOTH)

    assert (tally.seen, tally.resealed, tally.done) == (2, 0, True)
    assert [row.sealed_tokens for row in await rows(store)] == [row.sealed_tokens for row in before]


async def test_rows_that_do_not_open_are_named_and_kept_as_they_are() -> None:
    store, network = FaultyStore(), Network()
    await people(store, network, LOST)
    await people(store, network, OLD)
    await people(store, network, NEW)
    lost, edited, good = sorted(
        store.sessions, key=lambda row: (LOST_ID, OLD_ID, NEW_ID).index(row.sealed_key or "")
    )
    edited.issuer = "https://elsewhere.example"
    before = {row.id: (row.sealed_dpop_key, row.sealed_tokens) for row in store.sessions}

    tally = await rekey(store, BOTH)

    assert tally.broken == {lost.id: LOST_ID, edited.id: OLD_ID}
    assert dict(tally.missing) == {LOST_ID: 1, OLD_ID: 1}
    assert (tally.resealed, tally.done) == (0, True)
    assert {row.id: (row.sealed_dpop_key, row.sealed_tokens) for row in store.sessions} == before
    assert good.status == lost.status == edited.status == "active"


async def test_a_row_edited_after_it_was_sealed_with_the_first_key_is_named_too() -> None:
    store, network = FaultyStore(), Network()
    await people(store, network, NEW)
    (row,) = store.sessions
    row.pds = "https://elsewhere.example"

    assert (await rekey(store, BOTH)).broken == {row.id: NEW_ID}


async def test_sessions_that_need_a_new_login_are_sealed_anew_and_ended_ones_left_alone() -> None:
    store, network = FaultyStore(), Network()
    await people(store, network, OLD, times=3)
    one, two, _ = store.sessions
    await store.require_reauth(one.id, version=1)
    await store.end_session(two.id, "logout")

    assert (await rekey(store, BOTH)).resealed == 2
    assert two.sealed_tokens is None
    assert one.sealed_key == NEW_ID


async def test_a_refresh_between_reading_and_writing_is_not_undone() -> None:
    class Refreshing(FaultyStore):
        def __init__(self) -> None:
            super().__init__()
            self.times = 0

        async def reseal(self, session_id: str, /, **what: Any) -> bool:
            if not self.times:
                self.times += 1
                self.allow_refresh()
                network.expire_access_tokens()
                assert await signed_in(here, cookie)
            return await super().reseal(session_id, **what)

    store, network = Refreshing(), Network()
    (cookie,) = await people(store, network, OLD)
    async with world(network, store=store, secret_keys=(NEW, OLD)) as here:
        tally = await rekey(store, BOTH)

        assert (tally.resealed, tally.done) == (1, True)
        (row,) = await rows(store)
        assert (row.version, sealed_with(row)) == (2, frozenset({NEW_ID}))
    async with world(network, store=store, secret_keys=(NEW,)) as here:
        store.allow_refresh()
        network.expire_access_tokens()
        assert await signed_in(here, cookie)


async def test_rows_that_others_always_change_are_not_called_done() -> None:
    class Busy(FaultyStore):
        async def reseal(self, session_id: str, /, **_what: Any) -> bool:
            return False

    store = Busy()
    await people(store, Network(), OLD)

    tally = await rekey(store, BOTH)

    assert (tally.resealed, tally.busy, tally.done) == (0, 1, False)


async def test_a_process_that_still_seals_with_another_key_is_noticed() -> None:
    class Behind(FaultyStore):
        async def reseal(self, session_id: str, /, **what: Any) -> bool:
            done = await super().reseal(session_id, **what)
            # Somebody logs in, where the new key is not yet in front.
            await people(self, network, OLD)
            return done

    store, network = Behind(), Network()
    await people(store, network, OLD)

    assert not (await rekey(store, BOTH)).done


async def test_rows_are_read_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(FaultyStore):
        async def list_sessions(
            self, where: SessionFilter, /, *, after: str | None = None, limit: int = 100
        ) -> list[SessionRecord]:
            limits.append(limit)
            return await super().list_sessions(where, after=after, limit=limit)

    monkeypatch.setattr(module, "BATCH", 2)
    limits: list[int] = []
    seen: list[tuple[int, int]] = []
    store = Counting()
    await people(store, Network(), OLD, times=5)
    limits.clear()

    def progress(tally: Tally) -> None:
        seen.append((tally.seen, tally.resealed))

    await rekey(store, BOTH, progress=progress)

    assert set(limits) == {2}
    assert seen == [(2, 2), (4, 4), (5, 5), (5, 5), (2, 5), (4, 5), (5, 5), (5, 5)]


async def test_a_rekey_that_broke_off_is_finished_by_the_next() -> None:
    class Failing(FaultyStore):
        answers = 2

        async def reseal(self, session_id: str, /, **what: Any) -> bool:
            if not self.answers:
                raise StoreUnavailable("The database went away.")
            self.answers -= 1
            return await super().reseal(session_id, **what)

    store = Failing()
    network = Network()
    cookies = await people(store, network, OLD, times=4)
    with pytest.raises(StoreUnavailable):
        await rekey(store, BOTH)
    assert await sealed_by(store) == {OLD_ID, NEW_ID}

    store.answers = 10
    tally = await rekey(store, BOTH)

    assert (tally.resealed, tally.done) == (2, True)
    async with world(network, store=store, secret_keys=(NEW,)) as here:
        assert [await signed_in(here, cookie) for cookie in cookies] == [True] * 4


# --- Keys that are missing at start-up -----------------------------------------------------------


def missing(caplog: pytest.LogCaptureFixture) -> list[dict[str, int]]:
    return [
        cast("dict[str, int]", vars(record)["keys"])
        for record in caplog.records
        if record.message == "store.keys_missing" and record.levelno == logging.ERROR
    ]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ((NEW, OLD, LOST), []),
        ((OLD, NEW), [{LOST_ID: 2}]),
        ((NEW,), [{OLD_ID: 1, LOST_ID: 2}]),
    ],
)
async def test_start_up_names_the_keys_that_sessions_need_and_goes_on(
    keys: tuple[bytes, ...], expected: Collection[object], caplog: pytest.LogCaptureFixture
) -> None:
    store, network = FaultyStore(), Network()
    await people(store, network, LOST, times=2)
    await people(store, network, OLD)
    (cookie,) = await people(store, network, NEW)
    caplog.clear()

    async with world(network, store=store, secret_keys=keys) as here:
        assert await signed_in(here, cookie)

    assert missing(caplog) == expected
    assert len([row for row in await rows(store) if row.status == "active"]) == 4


async def test_a_key_that_only_the_login_needed_is_missed_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, network = FaultyStore(), Network()
    (cookie,) = await people(store, network, OLD)
    async with world(network, store=store, secret_keys=(NEW, OLD)) as here:
        store.allow_refresh()
        network.expire_access_tokens()
        assert await signed_in(here, cookie)

    async with world(network, store=store, secret_keys=(NEW,)):
        pass

    assert missing(caplog) == [{OLD_ID: 1}]


async def test_sessions_that_are_over_need_no_key(caplog: pytest.LogCaptureFixture) -> None:
    store, network = FaultyStore(), Network()
    await people(store, network, OLD)
    store.clock.now += 15 * 86_400_000

    async with world(network, store=store, secret_keys=(NEW,)):
        pass

    assert not missing(caplog)


async def test_start_up_looks_at_a_bounded_number_of_rows_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(embedded, "SAMPLE", 3)
    store, network = FaultyStore(), Network()
    await people(store, network, OLD, times=5)
    caplog.clear()

    async with world(network, store=store, secret_keys=(NEW,)):
        pass

    assert missing(caplog) == [{OLD_ID: 3}]
