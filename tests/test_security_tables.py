"""SECURITY.md names a test for each attack; each of them exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
#: Rows of the tables that have a test in their last cell.
ROWS = [
    line
    for line in TEXT.splitlines()
    if line.startswith("|") and line.count("|") >= 4 and not set(line) <= set("|- ")
]


def attacks() -> list[str]:
    names = ("| attack |", "| who |", "| version |")
    return [row for row in ROWS if not row.startswith(names)]


def places(row: str) -> list[str]:
    last = row.rstrip("| ").rpartition("|")[2]
    return re.findall(r"`([^`]+)`", last)


def found(name: str) -> list[Path]:
    path = ROOT / name
    if path.exists():
        return [path]
    return list((ROOT / "tests").rglob(name)) if name.endswith(".py") else []


@pytest.mark.parametrize("row", attacks())
def test_each_attack_has_a_test_that_exists(row: str) -> None:
    if "tables below" in row or "table below" in row:
        return
    file = ""
    checked = 0
    for place in places(row):
        name, _, test = place.partition("::")
        file = name or file
        if not file.endswith(".py") and not (ROOT / file).exists():
            continue  # the name of a fuzz target
        (path,) = found(file)
        if test:
            assert re.search(rf"def {test}\(", path.read_text(encoding="utf-8")), place
        checked += 1
    assert checked, "no test is named"


def test_the_tables_are_there() -> None:
    assert len(attacks()) > 40
    for heading in ("Reporting", "Supported versions", "Attacks that are tried", "Deployment"):
        assert f"## {heading}" in TEXT
