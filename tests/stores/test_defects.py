"""The kit fails stores that break the contract: each defect by the test that names it."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import cast

import pytest

from atproto_oauth_asgi.store import Store
from atproto_oauth_asgi.testing.conformance import StoreConformance
from atproto_oauth_asgi_stores import memory, memory_rows
from atproto_oauth_asgi_stores.memory import wall_clock

pytestmark = pytest.mark.anyio


class Kit(StoreConformance):
    """The kit with a clock that it moves."""

    def __init__(self) -> None:
        self.ahead = 0

    def clock(self) -> int:
        return wall_clock() + self.ahead

    async def advance(self, store: Store, ms: int) -> None:
        self.ahead += ms


TESTS = [name for name in dir(Kit) if name.startswith("test_")]


@dataclass(frozen=True)
class Defect:
    """A memory store but for one change of its source, and the tests that must fail for it."""

    name: str
    right: str
    wrong: str
    tests: list[str]

    def stores(self) -> Callable[[Callable[[], int]], Store]:
        """Return what makes such a store with a clock."""
        sources = {module: inspect.getsource(module) for module in (memory_rows, memory)}
        places = [module for module, source in sources.items() if self.right in source]
        assert len(places) == 1, "the right code has moved"
        assert sources[places[0]].count(self.right) == 1, "the right code is not unique"
        sources[places[0]] = sources[places[0]].replace(self.right, self.wrong)
        rows = made(memory_rows, sources[memory_rows])
        store = made(memory, sources[memory])
        for name in ("OneTimeRow", "BrowserRow", "SessionRow"):
            setattr(store, name, getattr(rows, name))
        kind = cast("Callable[..., Store]", store.MemoryStore)
        return lambda clock: kind(clock=clock)


def made(like: ModuleType, source: str) -> ModuleType:
    module = ModuleType(like.__name__)
    exec(compile(source, like.__name__, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - our own source
    return module


FILE = Path(__file__).with_name("defects.toml")
DEFECTS = [Defect(**one) for one in tomllib.loads(FILE.read_text(encoding="utf-8"))["defect"]]


async def failing(make: Callable[[Callable[[], int]], Store]) -> set[str]:
    """Run the whole kit, each test on a store of its own, and name the tests that fail."""
    failed: set[str] = set()
    for name in TESTS:
        kit = Kit()
        store = make(kit.clock)
        test: Callable[..., Awaitable[None]] = getattr(kit, name)
        stores = [store] * len(inspect.signature(test).parameters)
        try:
            await test(*stores)
        except (AssertionError, pytest.fail.Exception):
            failed.add(name.removeprefix("test_"))
    return failed


async def test_the_kit_passes_the_store_without_a_defect() -> None:
    nothing = Defect(
        "nothing", "self._lock = threading.Lock()", "self._lock = threading.Lock()", []
    )

    assert await failing(nothing.stores()) == set()


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
async def test_the_kit_fails_a_defect_by_its_name(defect: Defect) -> None:
    assert await failing(defect.stores()) == set(defect.tests)
