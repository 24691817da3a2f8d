"""A store on a SQLite file, and event loops that come and go."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path

import aiosqlite
import pytest

from atproto_oauth_asgi.testing.conformance_base import hashed, one_time
from atproto_oauth_asgi_stores import SQLStore
from tests.stores.threads import threads_of_drivers, wait_until


def test_event_loops_after_one_another_share_a_store(path: Path) -> None:
    store = SQLStore(f"sqlite:///{path}")
    for number in range(3):
        asyncio.run(store.put(one_time(f"{number}")))

    async def consume_all() -> list[bool]:
        found = [await store.consume(hashed(f"{n}"), kind="login") for n in range(3)]
        return [one is not None and one.first for one in found]

    assert asyncio.run(consume_all()) == [True, True, True]
    wait_until(lambda: threads_of_drivers() == 0)


def test_a_loop_closed_without_shutdown_leaks_nothing(path: Path) -> None:
    store = SQLStore(f"sqlite:///{path}")
    for number in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(store.put(one_time(f"{number}")))
        loop.close()
        assert threads_of_drivers() <= 2

    async def close() -> None:
        await store.check()
        await store.aclose()

    asyncio.run(close())
    gc.collect()
    wait_until(lambda: threads_of_drivers() == 0)


def test_threads_with_loops_of_their_own_share_a_store(path: Path) -> None:
    store = SQLStore(f"sqlite:///{path}")
    asyncio.run(store.put(one_time()))
    firsts: list[bool] = []

    def worker() -> None:
        async def consume() -> None:
            found = await asyncio.gather(
                *(store.consume(hashed("state"), kind="login") for _ in range(5))
            )
            firsts.extend(one is not None and one.first for one in found)

        asyncio.run(consume())

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(firsts) == [False] * 19 + [True]
    wait_until(lambda: threads_of_drivers() == 0)


def test_a_store_that_is_dropped_warns_of_nothing(path: Path) -> None:
    async def use(run: Callable[[SQLStore], Coroutine[object, object, object]]) -> None:
        await run(SQLStore(f"sqlite:///{path}"))
        gc.collect()

    asyncio.run(use(lambda store: store.check()))
    gc.collect()
    wait_until(lambda: threads_of_drivers() == 0)


def test_a_loop_that_ends_in_the_middle_of_work_leaks_nothing(path: Path) -> None:
    store = SQLStore(f"sqlite:///{path}")

    async def leave(number: int) -> None:
        tasks = [
            asyncio.ensure_future(store.put(one_time(f"{number}"))),
            asyncio.ensure_future(store.load(hashed("cookie"))),
        ]
        await asyncio.sleep(number * 0.0005)
        assert len(tasks) == 2

    for number in range(30):
        asyncio.run(leave(number))
        gc.collect()

    wait_until(lambda: threads_of_drivers() == 0)


def test_a_loop_that_ends_while_a_connection_goes_back_leaks_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SQLStore(f"sqlite:///{path}")
    roll_back = aiosqlite.Connection.rollback
    going_back: list[asyncio.Event] = []
    ends: list[str] = []

    async def slow(connection: aiosqlite.Connection) -> None:
        going_back[0].set()
        try:
            for _ in range(20):
                await asyncio.sleep(0)
            await roll_back(connection)
        except BaseException as exc:
            ends.append(type(exc).__name__)
            raise
        ends.append("rolled back")

    async def leave() -> None:
        # The first connection of an engine rolls back once more, to see what it speaks to.
        await store.put(one_time("first"))
        going_back.append(asyncio.Event())
        monkeypatch.setattr(aiosqlite.Connection, "rollback", slow)
        put = asyncio.ensure_future(store.put(one_time()))
        await going_back[0].wait()
        assert not put.done()

    asyncio.run(leave())

    gc.collect()
    assert ends == ["rolled back"]
    wait_until(lambda: threads_of_drivers() == 0)
