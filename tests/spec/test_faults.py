"""Every planted fault turns a test of its rule red; without it the same test is green."""

from __future__ import annotations

import os

import pytest

from tests.spec.planted import Planting, planting
from tests.spec.rules import FAULTS

__all__ = ["planting"]

pytestmark = [
    pytest.mark.slow,
    # The first of them waits for its turn among all.
    pytest.mark.timeout(900),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="faults are planted in forked processes"),
]


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught(name: str, planting: Planting) -> None:
    outcome = planting.outcome(name)

    assert outcome.trouble == ""
    assert outcome.failed, f"{outcome.ran} tests of {FAULTS[name].rule} pass all the same"


def test_what_catches_a_fault_passes_without_one(planting: Planting) -> None:
    control = planting.outcome("")

    assert control.trouble == ""
    assert control.failed == []
