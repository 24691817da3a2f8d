from __future__ import annotations

import pytest

from atproto_oauth_asgi import housekeeping
from atproto_oauth_asgi.store import OneTime
from atproto_oauth_asgi_stores.memory import MemoryStore

pytestmark = pytest.mark.anyio


async def test_a_sweep_clears_away_all_that_is_over_in_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1_000_000
    store = MemoryStore(clock=lambda: now)
    for number in range(25):
        await store.put(
            OneTime(
                key_hash=bytes([number]),
                kind="login",
                browser_hash=b"b",
                sealed=b"s",
                lifetime_ms=1000 if number < 22 else 9_000_000,
            )
        )
    now += 2_000
    monkeypatch.setattr(housekeeping, "BATCH", 10)

    assert await housekeeping.sweep(store) == 22
    assert await housekeeping.sweep(store) == 0
    assert await store.consume(bytes([24]), kind="login") is not None
