"""The planting itself: what it must not call caught."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.spec.planting import Outcome
from tests.spec.rules import ROOT, Fault

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

_PLANT = """
import sys
from tests.spec import planting
from tests.spec.rules import FAULTS, Fault

FAULTS["x"] = Fault(name="x", rule=sys.argv[1], right=sys.argv[2], wrong=sys.argv[3])
planting.main(["x"])
"""
LIMIT = "return len(text) <= _MAX_NAME and text.isascii()"


def planted(rule: str, right: str, wrong: str) -> tuple[Outcome, Outcome]:
    """Plant a fault of this test's own; return its outcome and that of the control."""
    done = subprocess.run(
        [sys.executable, "-c", _PLANT, rule, right, wrong],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    fault, control = (Outcome(**json.loads(line)) for line in done.stdout.splitlines())
    return fault, control


def test_a_change_that_takes_nothing_away_is_not_caught() -> None:
    fault, _ = planted("A1", LIMIT, LIMIT.replace("return ", "return  "))

    assert (fault.caught, fault.trouble) == (False, "")
    assert fault.ran > 20


def test_a_change_that_breaks_the_module_is_trouble_and_not_a_catch() -> None:
    fault, _ = planted("A1", LIMIT, "return (")

    assert not fault.caught
    assert fault.trouble


def test_a_change_that_is_noticed_is_caught_and_its_test_passes_without_it() -> None:
    fault, control = planted("A1", LIMIT, "return text.isascii()")

    assert fault.caught
    assert (control.failed, control.ran, control.trouble) == ([], 1, "")


def test_a_rule_without_tests_is_trouble() -> None:
    fault, _ = planted("Z" + "9", LIMIT, "return text.isascii()")

    assert "no test in tests carries Z9" in fault.trouble


@pytest.mark.parametrize("right", ["no such text anywhere", "return None"])
def test_a_text_that_is_gone_or_not_unique_is_said(right: str) -> None:
    fault = Fault(name="x", rule="A1", right=right, wrong="")

    with pytest.raises(LookupError, match="must occur exactly once"):
        fault.change()
