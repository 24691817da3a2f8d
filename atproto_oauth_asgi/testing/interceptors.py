"""Trouble between a client and the servers of a network, for `Trouble`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from atproto_oauth_asgi.testing.faults import Pause, When
from atproto_oauth_asgi.testing.malformed import KINDS, Malformation, malform
from atproto_oauth_asgi.testing.web import Answer, ConnectionDropped, Request, json_answer


@dataclass(slots=True, kw_only=True, eq=False)
class _Aimed:
    """Is aimed at one path, or at every request, so many times or always."""

    path: str | None
    left: int | None = None

    def hits(self, request: Request) -> bool:
        """Say whether this request is one of those meant, and count it."""
        if self.path not in {None, request.path} or self.left == 0:
            return False
        if self.left is not None:
            self.left -= 1
        return True

    async def before(self, request: Request) -> Answer | None:  # noqa: ARG002  # for those that do
        """Do nothing."""
        return None

    async def after(self, request: Request, answer: Answer) -> Answer:  # noqa: ARG002  # the same
        """Do nothing."""
        return answer


@dataclass(slots=True, kw_only=True, eq=False)
class Failure(_Aimed):
    """Answers an error before anything is processed."""

    status: int
    retry_after: int | None

    async def before(self, request: Request) -> Answer | None:
        """Answer the error."""
        if not self.hits(request):
            return None
        after = self.retry_after
        headers = () if after is None else (("retry-after", str(after)),)
        return json_answer(self.status, {"error": "server_error"}, *headers)


@dataclass(slots=True, kw_only=True, eq=False)
class Slowness(_Aimed):
    """Lets requests wait before they are processed, by the event loop's clock."""

    seconds: float

    async def before(self, request: Request) -> Answer | None:
        """Wait."""
        if self.hits(request):
            await asyncio.sleep(self.seconds)
        return None


@dataclass(slots=True, kw_only=True, eq=False)
class Hang(_Aimed):
    """Never answers, and never processes, what comes until it is released."""

    pause: Pause = field(default_factory=lambda: Pause(grant=None, when="before"))

    async def before(self, request: Request) -> Answer | None:
        """Wait for the end of the block, then drop the connection."""
        if self.hits(request):
            await self.pause.hold()
            raise ConnectionDropped
        return None


@dataclass(slots=True, kw_only=True, eq=False)
class Drop(_Aimed):
    """Ends connections, before or after the request was processed."""

    when: When

    async def before(self, request: Request) -> Answer | None:
        """Drop what is not to be processed."""
        if self.when == "before" and self.hits(request):
            raise ConnectionDropped
        return None

    async def after(self, request: Request, answer: Answer) -> Answer:
        """Drop what was processed."""
        if self.when == "after" and self.hits(request):
            raise ConnectionDropped
        return answer


@dataclass(slots=True, kw_only=True, eq=False)
class Spoiling(_Aimed):
    """Malforms answers, in one way or in a new one each time."""

    kind: Malformation | None
    chance: random.Random

    async def after(self, request: Request, answer: Answer) -> Answer:
        """Return a malformed answer."""
        if not self.hits(request):
            return answer
        kind = self.chance.choice(KINDS) if self.kind is None else self.kind
        return malform(answer, kind, self.chance)


@dataclass(slots=True, kw_only=True, eq=False)
class Aftermath(_Aimed):
    """Does something once a request was answered, before the client reads the answer."""

    action: Callable[[], object]

    async def after(self, request: Request, answer: Answer) -> Answer:
        """Do it."""
        if self.hits(request):
            self.action()
        return answer


Kind = Literal["drop_before", "drop_after", "fail", "spoil"]
_ANY: tuple[Kind, ...] = ("drop_before", "drop_after", "fail", "spoil")


@dataclass(slots=True, kw_only=True, eq=False)
class RandomTrouble(_Aimed):
    """Lets something go wrong with a share of all requests."""

    share: float
    chance: random.Random
    _after: dict[int, Kind] = field(default_factory=dict[int, Kind])

    async def before(self, request: Request) -> Answer | None:
        """Draw what happens to the request."""
        if not self.hits(request) or self.chance.random() >= self.share:
            return None
        kind = self.chance.choice(_ANY)
        if kind == "drop_before":
            raise ConnectionDropped
        if kind == "fail":
            status = self.chance.choice((500, 502, 503, 429))
            return json_answer(status, {"error": "server_error"})
        self._after[id(request)] = kind
        return None

    async def after(self, request: Request, answer: Answer) -> Answer:
        """Let happen what was drawn."""
        kind = self._after.pop(id(request), None)
        if kind == "drop_after":
            raise ConnectionDropped
        if kind == "spoil":
            return malform(answer, self.chance.choice(KINDS), self.chance)
        return answer
