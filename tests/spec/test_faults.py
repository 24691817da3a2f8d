"""Every planted fault turns a test of its rule red; without it the same test is green."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator

import pytest

from tests.spec.planting import Outcome
from tests.spec.rules import FAULTS, ROOT

pytestmark = [
    pytest.mark.slow,
    # The first of them waits for its turn among all.
    pytest.mark.timeout(900),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="faults are planted in forked processes"),
]


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
        if isinstance(item, pytest.Function)
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


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught(name: str, planting: Planting) -> None:
    outcome = planting.outcome(name)

    assert outcome.trouble == ""
    assert outcome.failed, f"{outcome.ran} tests of {FAULTS[name].rule} pass all the same"


def test_what_catches_a_fault_passes_without_one(planting: Planting) -> None:
    control = planting.outcome("")

    assert control.trouble == ""
    assert control.failed == []
