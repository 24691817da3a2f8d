"""One worker's way to the store that all workers share: it notes what passes, and may fail."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar, cast

from atproto_oauth_asgi.store import EndedReason, Loaded, Refreshed, SessionRecord
from atproto_oauth_asgi_stores.memory import MemoryStore

T = TypeVar("T")
Hook = Callable[[], Awaitable[None]]


class Clock:
    """Is the store's clock, which is nobody else's; tests move it."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def __call__(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead_ms

    def move(self, seconds: float) -> None:
        self.ahead_ms += round(seconds * 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """Is one call that came back."""

    name: str
    at: float
    result: object
    owner: str | None = None
    lease_ms: int | None = None
    first: bool | None = None
    refreshed: Refreshed | None = None


class Instead(Exception):
    """Makes a call return something without being made."""

    def __init__(self, result: object) -> None:
        super().__init__()
        self.result = result


class Wire(MemoryStore):
    """Shares its rows with another memory store."""

    def __init__(self, shared: MemoryStore) -> None:
        super().__init__()
        self.__dict__.update(shared.__dict__)
        self.passed: list[Passed] = []
        #: Awaited around each call of that name; what they raise comes out of the call.
        self.before: dict[str, Hook] = {}
        self.after: dict[str, Hook] = {}

    def of(self, name: str) -> list[Passed]:
        return [one for one in self.passed if one.name == name]

    def won(self, name: str) -> list[Passed]:
        return [one for one in self.of(name) if one.result is True]

    def acquired(self) -> Passed:
        """Return the first acquire that took the lease."""
        won = self.won("acquire")
        assert won, "the lease was never taken"
        return won[0]

    async def _pass(
        self,
        name: str,
        call: Callable[[], Awaitable[T]],
        *,
        owner: str | None = None,
        lease_ms: int | None = None,
        first: bool | None = None,
        refreshed: Refreshed | None = None,
    ) -> T:
        try:
            if (before := self.before.get(name)) is not None:
                await before()
            result = await call()
        except Instead as instead:
            result = cast("T", instead.result)
        self.passed.append(
            Passed(
                name=name, at=time.monotonic(), result=result,
                owner=owner, lease_ms=lease_ms, first=first, refreshed=refreshed,
            )
        )  # fmt: skip
        if (after := self.after.get(name)) is not None:
            await after()
        return result

    async def load(self, cookie_hash: bytes, /) -> Loaded | None:
        return await self._pass("load", lambda: super(Wire, self).load(cookie_hash))

    async def load_session(self, session_id: str, /) -> SessionRecord | None:
        return await self._pass("read", lambda: super(Wire, self).load_session(session_id))

    async def acquire_refresh(
        self,
        session_id: str,
        /,
        *,
        version: int,
        owner: str,
        lease_ms: int,
        watched: tuple[str, int] | None = None,
    ) -> bool:
        return await self._pass(
            "acquire",
            lambda: super(Wire, self).acquire_refresh(
                session_id, version=version, owner=owner, lease_ms=lease_ms, watched=watched
            ),
            owner=owner,
            lease_ms=lease_ms,
        )

    async def mark_refresh(
        self, session_id: str, /, *, version: int, owner: str, lease_ms: int, first: bool
    ) -> bool:
        return await self._pass(
            "mark",
            lambda: super(Wire, self).mark_refresh(
                session_id, version=version, owner=owner, lease_ms=lease_ms, first=first
            ),
            owner=owner,
            lease_ms=lease_ms,
            first=first,
        )

    async def commit_refresh(
        self, session_id: str, /, *, version: int, owner: str, refreshed: Refreshed
    ) -> bool:
        return await self._pass(
            "commit",
            lambda: super(Wire, self).commit_refresh(
                session_id, version=version, owner=owner, refreshed=refreshed
            ),
            owner=owner,
            refreshed=refreshed,
        )

    async def release_refresh(
        self, session_id: str, /, *, version: int, owner: str, wait_ms: int | None, unspent: bool
    ) -> bool:
        return await self._pass(
            "release",
            lambda: super(Wire, self).release_refresh(
                session_id, version=version, owner=owner, wait_ms=wait_ms, unspent=unspent
            ),
            owner=owner,
        )

    async def end_session(
        self, session_id: str, reason: EndedReason, /, *, version: int | None = None
    ) -> bool:
        return await self._pass(
            "end", lambda: super(Wire, self).end_session(session_id, reason, version=version)
        )


def counted(fail: Callable[[int], Awaitable[None]]) -> Hook:
    """Return a hook that is told how often it was called before."""
    calls = 0

    async def hook() -> None:
        nonlocal calls
        calls += 1
        await fail(calls - 1)

    return hook
