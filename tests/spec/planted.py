"""The faults that a test run asks for, tried side by side in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator

import pytest

from tests.spec.planting import Outcome
from tests.spec.rules import ROOT


class Planting:
    """The outcomes of the faults that this run asks for, as they come in."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._known: dict[str, Outcome] = {}

    def outcome(self, name: str) -> Outcome:
        assert self._process.stdout is not None
        while name not in self._known:
            line = self._process.stdout.readline()
            assert line, "the planting stopped early; run `python -m tests.spec.planting`"
            outcome = Outcome(**json.loads(line))
            self._known[outcome.name] = outcome
        return self._known[name]


@pytest.fixture(scope="module")
def planting(request: pytest.FixtureRequest) -> Generator[Planting]:
    names = [
        str(item.callspec.params["name"])
        for item in request.session.items
        # Another module has a planting of its own: each fault is tried once.
        if isinstance(item, pytest.Function)
        and item.path == request.path
        and "planting" in item.fixturenames
        and hasattr(item, "callspec")
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.spec.planting", *names],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Planting(process)
        finally:
            process.kill()
