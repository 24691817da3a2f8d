"""Silent name servers keep threads for longer than anybody waits for them."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections.abc import Generator

import pytest

from atproto_oauth_asgi import net_dns
from atproto_oauth_asgi.errors import Unreachable
from atproto_oauth_asgi.net import NetPolicy
from atproto_oauth_asgi.net_dns import Resolver

pytestmark = pytest.mark.anyio


class System:
    """Looks names up as the system does: those in `silent` have no answer until the end."""

    def __init__(self) -> None:
        self.silent: set[str] = set()
        self.asked: list[str] = []
        self.end = threading.Event()

    def __call__(self, host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        self.asked.append(host)
        if host in self.silent:
            self.end.wait(20)
        if host in self.silent:
            raise socket.gaierror("timed out")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("1.1.1.1", 0))]


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Generator[System]:
    system = System()
    monkeypatch.setattr(socket, "getaddrinfo", system)
    yield system
    system.end.set()


async def asked_in_vain(resolver: Resolver, system: System, names: list[str]) -> None:
    """Ask for names that have no answer, and give up; their threads go on waiting."""
    system.silent |= set(names)
    told = await asyncio.gather(
        *(resolver.addresses(name, deadline=0.1) for name in names), return_exceptions=True
    )
    assert all(isinstance(one, Unreachable) for one in told)


async def test_silent_names_of_strangers_keep_nobody_from_a_server_that_was_found(
    system: System,
) -> None:
    resolver = Resolver(NetPolicy())
    assert await resolver.addresses("pds.example.com", deadline=5) == ["1.1.1.1"]
    await asked_in_vain(resolver, system, [f"silent{number}.example" for number in range(100)])

    for _ in range(3):
        assert await resolver.addresses("pds.example.com", deadline=5) == ["1.1.1.1"]
    await resolver.aclose()


@pytest.mark.spec("P6")
async def test_names_that_nobody_waits_for_any_more_are_not_looked_up(system: System) -> None:
    resolver = Resolver(NetPolicy())
    names = [f"silent{number}.example" for number in range(200)]
    await asked_in_vain(resolver, system, names)
    begun = len(system.asked)
    assert begun <= 16
    # Who comes back waits in the queue like everybody else, and for an answer of its own.
    again = asyncio.create_task(resolver.addresses(names[-1], deadline=5))
    honest = asyncio.create_task(resolver.addresses("new.example", deadline=5))
    await asyncio.sleep(0)
    system.silent.clear()
    system.end.set()

    assert await again == await honest == ["1.1.1.1"]
    assert len(system.asked) == begun + 2
    await resolver.aclose()


async def test_a_name_that_falls_silent_has_one_thread_however_often_it_is_asked_for(
    system: System,
) -> None:
    resolver = Resolver(NetPolicy())
    turned = [f"turned{number}.example" for number in range(8)]
    for name in ("pds.example.com", *turned):
        await resolver.addresses(name, deadline=5)
    for _ in range(10):
        await asked_in_vain(resolver, system, turned * 5)

    assert system.asked.count("turned0.example") == 2
    assert await resolver.addresses("pds.example.com", deadline=5) == ["1.1.1.1"]
    await resolver.aclose()


async def test_who_gives_up_takes_the_answer_from_nobody(system: System) -> None:
    resolver = Resolver(NetPolicy())
    system.silent.add("slow.example")
    patient = asyncio.create_task(resolver.addresses("slow.example", deadline=5))
    await asked_in_vain(resolver, system, ["slow.example"])
    system.silent.clear()
    system.end.set()

    assert await patient == ["1.1.1.1"]
    await resolver.aclose()


async def test_a_failure_that_nobody_waits_for_is_no_defect(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    resolver = Resolver(NetPolicy())
    await asked_in_vain(resolver, system, ["silent.example"])
    (asked,) = resolver._asked.values()  # pyright: ignore[reportPrivateUsage]
    system.end.set()
    await asyncio.wait({asked.answer})
    del asked
    gc.collect()
    await resolver.aclose()

    assert caplog.records == []


async def test_the_names_that_are_known_are_bounded(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(net_dns, "_KNOWN", 2)
    resolver = Resolver(NetPolicy())
    for name in ("oldest.example", "b.example", "a.example", "b.example", "c.example"):
        await resolver.addresses(name, deadline=5)

    assert list(resolver._known) == ["b.example", "c.example"]  # pyright: ignore[reportPrivateUsage]
    await resolver.aclose()
