"""What `python dev.py spec` prints: each rule, its tests, and whether its faults are caught.

Takes numbers of rules, or letters of sections; without any it reports on all.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from tests.spec.marks import Carried, carried
from tests.spec.planting import Outcome, files_of
from tests.spec.rules import FAULTS, ROOT, RULES, Rule


class _Chosen(Carried):
    """Runs only the tests that carry one of the rules."""

    def __init__(self, numbers: frozenset[str]) -> None:
        super().__init__()
        self._numbers = numbers

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if carried(item) & self._numbers]


@dataclass(slots=True)
class Line:
    """One rule as it came out."""

    rule: Rule
    tests: int = 0
    outcomes: set[str] = field(default_factory=set[str])
    faults: list[Outcome] = field(default_factory=list[Outcome])

    @property
    def passed(self) -> str:
        if self.rule.none or not self.tests:
            return "-"
        if "failed" in self.outcomes:
            return "FAILED"
        return "yes" if "passed" in self.outcomes else "SKIPPED"

    @property
    def caught(self) -> str:
        if not self.faults:
            return "-"
        return f"{sum(fault.caught for fault in self.faults)}/{len(self.faults)}"

    @property
    def gaps(self) -> list[str]:
        found: list[str] = []
        if self.rule.none:
            return found
        if not self.tests:
            found.append("has no test")
        elif self.passed != "yes":
            found.append(f"tests: {self.passed.lower()}")
        if self.rule.needs_fault and not self.faults:
            found.append("no fault is planted")
        return found + [
            f"not caught: {fault.name} {fault.trouble}".rstrip()
            for fault in self.faults
            if not fault.caught
        ]

    def __str__(self) -> str:
        note = f"not applicable: {self.rule.none}" if self.rule.none else self.rule.says
        if self.rule.design:
            note += f" [design: {self.rule.design}]"
        return (
            f"{self.rule.number:4} {self.rule.level:6} {self.tests:5} {self.passed:7}"
            f" {self.caught:6} {note}"
        )


def run_tests(lines: dict[str, Line]) -> None:
    """Run the tests that carry the rules, and note how they ended."""
    chosen = _Chosen(frozenset(lines))
    files = sorted({file for number in lines for file in files_of(number, "tests")})
    if files:
        pytest.main(["-q", "--no-header", *files], plugins=[chosen])
    for number, line in lines.items():
        tests = chosen.tests.get(number, set())
        line.tests = len(tests)
        line.outcomes = {chosen.outcomes.get(test, "skipped") for test in tests}


def plant_faults(lines: dict[str, Line]) -> str | None:
    """Plant the rules' faults; return what is wrong with the control, if something is."""
    names = [fault.name for fault in FAULTS.values() if fault.rule in lines]
    if not names:
        return None
    trouble: str | None = "the planting stopped"
    with subprocess.Popen(
        [sys.executable, "-m", "tests.spec.planting", *names],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for text in process.stdout:
            outcome = Outcome(**json.loads(text))
            if outcome.name:
                lines[FAULTS[outcome.name].rule].faults.append(outcome)
            elif outcome.failed or outcome.trouble:
                trouble = f"fail without a fault, too: {outcome.failed} {outcome.trouble}"
            else:
                trouble = None
    return trouble


def main(arguments: Sequence[str]) -> int:
    """Run everything and print the table; 1 when a rule that binds is not covered."""
    lines = {
        number: Line(rule)
        for number, rule in RULES.items()
        if not arguments or {number, number[0]} & set(arguments)
    }
    run_tests(lines)
    trouble = plant_faults(lines)
    print("\nrule level  tests passed  faults requirement")
    for line in lines.values():
        print(line)
    gaps: dict[str, list[str]] = defaultdict(list)
    for number, line in lines.items():
        if line.gaps:
            gaps[number] = line.gaps
    binding = [line for line in lines.values() if line.rule.needs_test]
    covered = [line for line in binding if not line.gaps]
    faults = [fault for line in lines.values() for fault in line.faults]
    for number, found in gaps.items():
        print(f"gap: {number} ({lines[number].rule.level}): {'; '.join(found)}")
    if trouble:
        print(f"gap: control: {trouble}")
    print(
        f"{len(covered)} of {len(binding)} rules that apply are covered"
        f" ({len(lines) - len(binding)} do not apply);"
        f" {sum(fault.caught for fault in faults)} of {len(faults)} planted faults are caught."
    )
    bad = any(lines[number].rule.level not in {"MAY", "REC"} for number in gaps)
    return 1 if bad or trouble else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
