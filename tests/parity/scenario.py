"""Scenarios: what is done to a server, and the names under which its answers are compared."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httpx

from tests.parity.outcome import Outcome, of_answer, of_callback, steady
from tests.parity.person import Seen
from tests.parity.world import PageShown, Variant, World

HERE = Path(__file__).parent
RECORD = HERE / "recorded.json"


class Rows:
    """Collects the outcomes of one run of a scenario."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.outcomes: dict[str, Outcome] = {}

    def answer(self, name: str, answer: httpx.Response) -> httpx.Response:
        """Keep an HTTP answer, and return it."""
        self._keep(name, of_answer(answer, self._world.origins()))
        return answer

    def callback(self, name: str, url: str, state: str | None) -> str:
        """Keep a callback URL, and return it."""
        self._keep(name, of_callback(url, state, self._world.origins()))
        return url

    def seen(self, name: str, seen: Seen, state: str | None) -> Seen:
        """Keep what a person sees, and return it."""
        self._keep(name, cast("Outcome", steady(seen.outcome(state), self._world.origins())))
        return seen

    def effect(self, name: str, **facts: object) -> None:
        """Keep what can be seen of the servers afterwards."""
        self._keep(name, cast("Outcome", steady(facts, self._world.origins())))

    async def person(self, name: str, opened: Awaitable[str], state: str | None) -> None:
        """Keep the callback that a person is sent to, or that the server shows a page."""
        try:
            url = await opened
        except PageShown as exc:
            self._keep(name, {"page": exc.status})
        else:
            self.callback(name, url, state)

    def _keep(self, name: str, outcome: Outcome) -> None:
        assert name not in self.outcomes, f"{name} has two outcomes"
        self.outcomes[name] = outcome


Play = Callable[[World, Rows], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Is a function that produces the outcomes of its names, in one run."""

    names: tuple[str, ...]
    variant: Variant
    play: Play

    async def outcomes(self, world: World) -> dict[str, Outcome]:
        """Run it, and return an outcome for each name."""
        rows = Rows(world)
        await self.play(world, rows)
        assert set(rows.outcomes) == set(self.names), (
            f"{self.play.__name__} did not produce "
            f"{sorted(set(self.names) ^ set(rows.outcomes))} as it says"
        )
        return rows.outcomes


SCENARIOS: list[Scenario] = []


def scenario(*names: str, variant: Variant = "usual") -> Callable[[Play], Play]:
    """Register a scenario that produces these rows."""

    def register(play: Play) -> Play:
        SCENARIOS.append(Scenario(names=names, variant=variant, play=play))
        return play

    return register


def recorded() -> dict[str, Outcome]:
    """Return what the reference server did, by name."""
    return cast("dict[str, Outcome]", json.loads(RECORD.read_text(encoding="utf-8")))


def required_names() -> list[str]:
    """Return every name that there has to be a scenario for."""
    files = sorted((HERE / "names").glob("*.txt"))
    return [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
