from __future__ import annotations

import asyncio
import logging

import pytest

from atproto_oauth_asgi import housekeeping
from atproto_oauth_asgi.errors import StoreUnavailable
from atproto_oauth_asgi.instrumentation import Events
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

    monkeypatch.setattr(housekeeping, "PAUSE", 0.0)

    assert await housekeeping.sweep(store) == 22
    assert await housekeeping.sweep(store) == 0
    assert await store.consume(bytes([24]), kind="login") is not None


@pytest.mark.parametrize("trouble", [StoreUnavailable("away"), ZeroDivisionError()])
async def test_trouble_does_not_end_the_sweeping(
    trouble: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    swept = asyncio.Event()

    class Troubled(MemoryStore):
        times = 0

        async def purge_expired(self, limit: int, /) -> int:
            self.times += 1
            if self.times == 1:
                raise trouble
            swept.set()
            return 0

    monkeypatch.setattr(housekeeping, "EVERY", 0.001)
    caplog.set_level(logging.WARNING)
    task = asyncio.create_task(housekeeping.housekeeping(Troubled(), Events()))
    async with asyncio.timeout(10):
        await swept.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert caplog.messages == ["store.not_swept"]
