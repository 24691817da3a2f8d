"""The clock of other tests: what it promises, they rest on."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from atproto_oauth_asgi import live
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi_stores.memory import MemoryStore
from tests.virtual_time import VirtualLoop, in_virtual_time, suspend

REAL = time.monotonic
LIVE = vars(live)


def test_waiting_costs_nothing_and_ends_in_order() -> None:
    async def work() -> list[tuple[float, str]]:
        start = time.monotonic()
        seen: list[tuple[float, str]] = []

        async def wait(seconds: float, name: str) -> None:
            await asyncio.sleep(seconds)
            seen.append((round(time.monotonic() - start, 6), name))

        await asyncio.gather(wait(7200.0, "long"), wait(75.0, "lease"), wait(0.008, "poll"))
        return seen

    before = REAL()
    assert in_virtual_time(work) == [(0.008, "poll"), (75.0, "lease"), (7200.0, "long")]
    assert REAL() - before < 60


def test_time_stands_still_while_anything_runs() -> None:
    async def work() -> None:
        start = time.monotonic(), time.time()
        for _ in range(1000):
            await asyncio.sleep(0)
        assert (time.monotonic(), time.time()) == start

    in_virtual_time(work)


def test_all_clocks_agree_and_are_given_back() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        monotonic, wall = time.monotonic(), time.time()
        await asyncio.sleep(10)
        time.sleep(50)  # noqa: ASYNC251 - the process stands still
        assert time.monotonic() == loop.time() == LIVE["monotonic"]()
        assert time.monotonic() - monotonic == pytest.approx(60)
        assert time.time() - wall == pytest.approx(60)
        suspend(3600)
        assert time.monotonic() - monotonic == pytest.approx(60)
        assert time.time() - wall == pytest.approx(3660)
        assert time.time_ns() == pytest.approx(time.time() * 1e9)
        # What was taken at import follows, too.
        assert Network()._clock() == time.time()  # pyright: ignore[reportPrivateUsage]
        assert MemoryStore()._now() == int(time.time() * 1000)  # pyright: ignore[reportPrivateUsage]

    in_virtual_time(work)
    assert time.monotonic is LIVE["monotonic"] is REAL
    assert Network()._clock() == pytest.approx(time.time(), abs=60)  # pyright: ignore[reportPrivateUsage]


def test_a_deadline_passes_for_what_never_comes() -> None:
    async def work() -> float:
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.Event().wait()
        return time.monotonic() - start

    assert in_virtual_time(work) == pytest.approx(60)


def test_waiting_for_ever_is_an_error() -> None:
    async def nothing() -> None:
        await asyncio.Event().wait()

    async def only_a_chore() -> None:
        loop = asyncio.get_running_loop()

        def chore() -> None:
            loop.call_later(600, chore)

        chore()
        await asyncio.Event().wait()

    for work in (nothing, only_a_chore):
        with pytest.raises(AssertionError, match="never comes"):
            in_virtual_time(work)


def test_a_thread_is_waited_for_in_real_time() -> None:
    go = threading.Event()

    async def work() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        start = time.monotonic()
        asyncio.get_running_loop().call_later(3600, go.clear)
        working = asyncio.create_task(asyncio.to_thread(go.wait, 30))
        await asyncio.sleep(0)
        threading.Timer(0.05, go.set).start()
        assert await working
        assert time.monotonic() == start

    in_virtual_time(work)
