"""Virtual time: waiting costs nothing, and "nothing happens meanwhile" is a proof.

`in_virtual_time(work)` runs a coroutine function in an event loop of its own. While anything can
run its clock stands still; when nothing can, it jumps to the next timer. `time.monotonic`,
`time.time` and `time.time_ns` show the same clock, `time.sleep` moves it without giving way (the
process stands still), and `suspend` moves the wall clock alone (the machine sleeps). So a lease of
75 s is tested at its real length, in milliseconds, and a slow machine changes nothing.

Fit for it is what happens in one thread: apps, the embedded network in process, `MemoryStore`.
Not fit are sockets and threads of others (served networks, `aiosqlite`, processes): they go on in
real time, which this clock would jump over. Only executor threads are waited for.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import selectors
import sys
import time
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

#: When it begins: late enough that an hour before is no negative number. Seconds.
START, WALL_START = 100_000.0, 1_767_225_600.0
#: Nobody waits that long for good: a test that does has lost its way. Seconds.
LONGEST = 7 * 86_400.0
#: Whose own references to the clocks are replaced, where they were taken at import.
PACKAGES = ("atproto_oauth_asgi", "atproto_oauth_asgi_stores")


class VirtualClock:
    """Counts nanoseconds; only `move` lets them pass."""

    def __init__(self) -> None:
        self._passed = 0
        self._suspended = 0

    def move(self, seconds: float) -> None:
        """Let time pass, rounded up so that a timer set for then is due."""
        self._passed += max(0, math.ceil(seconds * 1e9))
        assert self._passed < LONGEST * 1e9, "the test waits for something that never comes"

    def suspend(self, seconds: float) -> None:
        """Let time pass that the monotonic clock does not see."""
        self._suspended += round(seconds * 1e9)

    def monotonic(self) -> float:
        return START + self._passed / 1e9

    def time_ns(self) -> int:
        return round(WALL_START * 1e9) + self._passed + self._suspended

    def time(self) -> float:
        return self.time_ns() / 1e9


class VirtualLoop(asyncio.SelectorEventLoop):
    """Never waits: where another loop would, its clock jumps."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        #: Calls that other threads work on; while there are any, time stands still.
        self.away = 0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.clock.monotonic()

    def run_in_executor(  # type: ignore[override]  # its overload is generic in other names
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = super().run_in_executor(executor, func, *args)
        self.away += 1
        future.add_done_callback(self._came_back)
        return future

    def _came_back(self, _: object) -> None:
        self.away -= 1

    async def shutdown_default_executor(self, *args: Any) -> None:
        # Python joins its threads in a thread of its own.
        self.away += 1
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self.away -= 1


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._loop.away and timeout != 0:
            return super().select(None)
        ready = super().select(0)
        if not ready and timeout != 0:
            assert timeout is not None, "the test waits for something that never comes"
            self._loop.clock.move(timeout)
        return ready


def in_virtual_time(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `work()` in virtual time and return what it returns.

    Raises:
        AssertionError: nothing is left that could ever happen, or only what happens for ever.
    """
    clock = VirtualClock()
    with _clocks(clock), asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        return runner.run(work())


def suspend(seconds: float) -> None:
    """Let the machine sleep: the wall clock goes on, the monotonic clock stands still."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop), "only virtual time can be suspended"
    loop.clock.suspend(seconds)


@contextmanager
def _clocks(clock: VirtualClock) -> Generator[None]:
    """Let everybody read this clock who asks the time module, now or when it was imported."""
    shown: dict[str, Callable[..., object]] = {
        "monotonic": clock.monotonic,
        "time": clock.time,
        "time_ns": clock.time_ns,
        "sleep": clock.move,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, replacement in shown.items():
            for place, key in _taken(getattr(time, name)):
                patch.setitem(place, key, replacement)
            patch.setattr(time, name, replacement)
        yield


def _taken(function: object) -> Generator[tuple[dict[str, Any], str]]:
    """Find where the library keeps a function: under a module's name, or as a default argument."""
    for module in [*sys.modules.values()]:
        if module.__name__.partition(".")[0] not in PACKAGES:
            continue
        for name, value in [*vars(module).items()]:
            if value is function:
                yield vars(module), name
            if inspect.isclass(value) and value.__module__ == module.__name__:
                defaults: dict[str, Any] = getattr(value.__init__, "__kwdefaults__", None) or {}
                yield from ((defaults, key) for key in [*defaults] if defaults[key] is function)
