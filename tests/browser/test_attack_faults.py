"""Every attack in Chromium succeeds when its defence is taken away."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from tests.browser.chromium import INSTALL
from tests.rings import require_tool
from tests.spec.planted import Planting, planting
from tests.spec.rules import ATTACK_FAULTS

__all__ = ["planting"]

ATTACKS = Path(__file__).with_name("test_attacks.py")
#: Each starts Chromium: every run tries one for each attack at least.
TRIED = [
    name
    for name, fault in ATTACK_FAULTS.items()
    if not fault.more or os.environ.get("ALL_FAULTS") == "1"
]

pytestmark = [
    pytest.mark.slow,
    # The first of them waits for its turn among all.
    pytest.mark.timeout(900),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="faults are planted in forked processes"),
]


@pytest.fixture(autouse=True)
def _chromium() -> None:
    require_tool("chromium", INSTALL)


@pytest.mark.parametrize("name", TRIED)
def test_an_attack_succeeds_without_its_defence(name: str, planting: Planting) -> None:
    outcome = planting.outcome(name)

    assert outcome.trouble == ""
    assert outcome.failed, f"{ATTACK_FAULTS[name].tests} passes all the same"


def test_every_attack_has_a_defence_to_take_away() -> None:
    tree = ast.parse(ATTACKS.read_text(encoding="utf-8"))
    attacks = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    faulted = {ATTACK_FAULTS[name].tests.rpartition("::")[2] for name in TRIED}

    assert attacks == faulted
