"""A server that does not answer takes some of the connections, never all of them."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import random
from collections import Counter
from itertools import islice

import httpx
import pytest

from atproto_oauth_asgi import net
from atproto_oauth_asgi.errors import Unreachable
from atproto_oauth_asgi.net_shares import Shares
from tests.net_server import JSON, Server, opened, serving

pytestmark = [pytest.mark.anyio, pytest.mark.spec("P6")]

HERE, THERE = "https://here.example", "https://there.example"


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Takers:
    """Want connections, and note who got one, in turn."""

    def __init__(self, most: int) -> None:
        self.shares = Shares(most)
        self.got: list[tuple[str, int]] = []
        self.tasks: list[asyncio.Task[None]] = []

    def want(self, origin: str) -> asyncio.Task[None]:
        task = asyncio.create_task(self._take(origin, len(self.tasks)))
        self.tasks.append(task)
        return task

    async def _take(self, origin: str, number: int) -> None:
        await self.shares.take(origin)
        self.got.append((origin, number))

    async def has(self) -> Counter[str]:
        await settle()
        return Counter(origin for origin, _ in self.got)

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.mark.parametrize(("greedy", "each"), [(1, 30), (2, 20), (3, 15), (5, 10), (59, 1)])
async def test_who_wants_all_gets_one_part_and_leaves_one(greedy: int, each: int) -> None:
    takers = Takers(60)
    origins = [f"https://{number}.example" for number in range(greedy)]
    for _ in range(60):
        for origin in origins:
            takers.want(origin)
    assert await takers.has() == dict.fromkeys(origins, each)

    takers.want(HERE)
    assert (await takers.has())[HERE] == 1
    await takers.stop()


async def test_who_waits_is_served_in_turn() -> None:
    takers = Takers(4)
    for _ in range(5):
        takers.want(HERE)
    assert (await takers.has())[HERE] == 2
    for _ in range(3):
        takers.shares.give(HERE)
        await settle()
    assert takers.got == [(HERE, number) for number in range(5)]


async def test_nobody_overtakes_who_waits() -> None:
    takers = Takers(2)
    for _ in range(2):
        takers.want(HERE)
    assert (await takers.has())[HERE] == 1
    takers.shares.give(HERE)
    # There is one for the taking, but it is promised.
    late = takers.want(HERE)
    await settle()
    assert takers.got == [(HERE, 0), (HERE, 1)]
    await takers.stop()
    assert late.cancelled()


async def test_what_one_server_gives_back_another_gets() -> None:
    takers = Takers(3)
    for origin in (HERE, HERE, THERE, "https://third.example"):
        takers.want(origin)
    assert await takers.has() == {HERE: 2, THERE: 1}
    takers.shares.give(HERE)
    assert (await takers.has())["https://third.example"] == 1


async def test_who_wants_much_keeps_nobody_from_a_turn() -> None:
    takers = Takers(4)
    greedy = [f"https://{number}.example" for number in range(5)]
    for _ in range(20):
        for origin in greedy:
            takers.want(origin)
    takers.want(HERE)
    for _ in range(20):
        if (await takers.has())[HERE]:
            break
        takers.shares.give(takers.got[-1][0])
    assert (await takers.has())[HERE]
    await takers.stop()


async def test_who_gives_up_takes_nothing() -> None:
    takers = Takers(2)
    _, gone, other = (takers.want(HERE) for _ in range(3))
    await settle()
    gone.cancel()
    takers.shares.give(HERE)
    await settle()
    assert gone.cancelled()
    assert other.done()
    takers.shares.give(HERE)
    # All that there is can be had again.
    for origin in (HERE, THERE):
        takers.want(origin)
    assert await takers.has() == {HERE: 3, THERE: 1}


async def test_who_gives_up_is_forgotten_and_who_waits_with_them_is_not() -> None:
    takers = Takers(2)
    _, gone, other = (takers.want(HERE) for _ in range(3))
    await settle()
    gone.cancel()
    await settle()
    assert [len(turns) for turns in takers.shares._waiting.values()] == [1]
    takers.shares.give(HERE)
    await settle()
    assert other.done()
    # As many as a flood brings while a server is silent.
    many = [takers.want(HERE) for _ in range(100)]
    await settle()
    for one in many:
        one.cancel()
    await settle()
    assert not takers.shares._waiting


async def test_who_gives_up_as_the_last_turn_is_given_is_no_error() -> None:
    takers = Takers(4)
    _, _, gone, other = (takers.want(HERE) for _ in range(4))
    await settle()
    gone.cancel()
    # Before the one who is gone knows; the turn of the other stays, theirs is thrown away.
    takers.shares.give(HERE)
    await settle()
    assert gone.cancelled()
    assert other.done()

    gone, other, third = (takers.want(HERE) for _ in range(3))
    await settle()
    gone.cancel()
    takers.shares.give(HERE)
    await settle()
    assert gone.cancelled()
    assert other.done()
    assert not third.done()
    await takers.stop()


async def test_a_turn_that_comes_too_late_goes_to_the_next() -> None:
    takers = Takers(2)
    _, gone, other = (takers.want(HERE) for _ in range(3))
    await settle()
    takers.shares.give(HERE)
    gone.cancel()
    await settle()
    assert gone.cancelled()
    assert other.done()


async def test_whatever_comes_and_goes_nothing_is_lost() -> None:
    chance = random.Random(5)
    most = 12
    takers = Takers(most)
    given: Counter[str] = Counter()
    for _ in range(3000):
        held = list((await takers.has() - given).elements())
        waiting = [task for task in takers.tasks if not task.done()]
        assert len(held) <= most
        for _ in range(chance.randrange(4)):
            match chance.randrange(4):
                case 0 if held:
                    origin = held.pop(chance.randrange(len(held)))
                    given[origin] += 1
                    takers.shares.give(origin)
                case 1 if waiting:
                    chance.choice(waiting).cancel()
                case _:
                    takers.want(f"https://{chance.randrange(5)}.example")
    await takers.stop()
    for origin in (await takers.has() - given).elements():
        takers.shares.give(origin)

    before = len(takers.got)
    for _ in range(most):
        takers.want(HERE)
    await settle()
    assert len(takers.got) - before == most / 2
    await takers.stop()


async def _ask(client: httpx.AsyncClient, server: Server, *, turn: float = 30.0) -> int:
    timeout = httpx.Timeout(30.0, pool=turn)
    return (await client.get(f"{server.url}/", timeout=timeout)).status_code


async def test_a_server_that_is_silent_does_not_stop_calls_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(net, "_MAX_CONNECTIONS", 20)
    release = asyncio.Event()

    async def silence(writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(JSON)
        await writer.drain()

    async with serving(silence) as slow, serving() as other, opened() as way, asyncio.timeout(20):
        calls = [asyncio.create_task(_ask(way.client, slow, turn=0.3)) for _ in range(50)]
        await slow.asked.wait()
        assert [await _ask(way.client, other) for _ in range(5)] == [200] * 5

        for ended in islice(asyncio.as_completed(calls), 40):
            with pytest.raises(Unreachable, match="Too many requests wait for the") as told:
                await ended
            assert not told.value.sent
        assert slow.connections == 10
        assert await _ask(way.client, other) == 200
        waiting = [call for call in calls if not call.done()]
        release.set()
        assert await asyncio.gather(*waiting) == [200] * 10
        assert await asyncio.gather(*(_ask(way.client, slow) for _ in range(30))) == [200] * 30


@pytest.mark.parametrize("end", ["read", "closed", "cancelled", "broken"])
async def test_however_a_call_ends_its_connection_is_free_again(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(net, "_MAX_CONNECTIONS", 2)

    async def respond(writer: asyncio.StreamWriter) -> None:
        if end == "cancelled":
            await asyncio.Event().wait()
        elif end == "broken":
            writer.close()
        else:
            writer.write(JSON)
            await writer.drain()

    async def call(client: httpx.AsyncClient, url: str) -> None:
        async with client.stream("GET", url) as answer:
            if end == "read":
                await answer.aread()

    async with serving(respond) as server, opened() as way:
        for _ in range(3):
            task = asyncio.create_task(call(way.client, server.url))
            if end == "cancelled":
                await server.asked.wait()
                server.asked.clear()
                task.cancel()
            await asyncio.wait({task})
            assert task.cancelled() == (end == "cancelled")
            assert "Too many" not in str(task.cancelled() or task.exception())
