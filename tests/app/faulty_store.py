"""A store whose operations fail when a test says so."""

from __future__ import annotations

from typing import Any, NoReturn

from atproto_oauth_asgi.errors import StoreUnavailable
from atproto_oauth_asgi_stores.memory import MemoryStore
from atproto_oauth_asgi_stores.memory_rows import BrowserRow, OneTimeRow, SessionRow

EVERYTHING = frozenset(
    name for name in vars(MemoryStore) if not name.startswith("_") and name != "aclose"
)


class Clock:
    """Is a clock in milliseconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now


class FaultyStore(MemoryStore):
    """Raises `StoreUnavailable` from the operations named in `failing`."""

    def __init__(self, *failing: str) -> None:
        self.failing = frozenset(failing)
        self.clock = Clock()
        super().__init__(clock=self.clock)

    @property
    def attempts(self) -> list[OneTimeRow]:
        return list(self._things.values())

    @property
    def browsers(self) -> list[BrowserRow]:
        return list(self._browsers.values())

    @property
    def sessions(self) -> list[SessionRow]:
        return list(self._sessions.values())

    def allow_refresh(self) -> None:
        """Let the shortest time between two refreshes pass; the next read of a row sees it."""
        self.clock.now += 11_000

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name != "failing" and name in self.failing:
            return _unavailable
        return super().__getattribute__(name)


async def _unavailable(*_: object, **__: object) -> NoReturn:
    raise StoreUnavailable("The database does not answer; this is a planted fault.")
