from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.spec.marks import Carried
from tests.spec.rules import FAULTS, ROOT, RULES, Rule

NUMBER = re.compile(r"[A-Q][0-9]{1,2}")
_COLLECT = """
import json, sys
import pytest
from tests.spec.marks import Carried
carried = Carried()
status = pytest.main(["--collect-only", "-q", "-p", "no:randomly"], plugins=[carried])
with open(sys.argv[1], "w") as file:
    json.dump({number: sorted(tests) for number, tests in carried.tests.items()}, file)
sys.exit(status)
"""


# Collecting the whole suite for a part of it takes its time on a busy machine.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def marked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[str]]:
    """Return the tests that carry each rule: of the whole suite, whatever part runs now."""
    option = request.config.option
    if not (option.file_or_dir or option.keyword or option.markexpr):
        whole = Carried()
        whole.pytest_collection_finish(request.session)
        return {number: sorted(tests) for number, tests in whole.tests.items()}
    path: Path = tmp_path_factory.mktemp("marks") / "marks.json"
    done = subprocess.run(
        [sys.executable, "-c", _COLLECT, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    carried: dict[str, list[str]] = json.loads(path.read_text())
    return carried


def test_every_rule_that_applies_has_a_test(marked: dict[str, list[str]]) -> None:
    assert [
        rule.number for rule in RULES.values() if rule.needs_test and not marked.get(rule.number)
    ] == []


def test_no_test_carries_a_number_that_is_no_rule(marked: dict[str, list[str]]) -> None:
    assert sorted(set(marked) - set(RULES)) == []


def test_every_rule_that_binds_has_a_planted_fault() -> None:
    faulted = {fault.rule for fault in FAULTS.values()}

    assert [
        rule.number for rule in RULES.values() if rule.needs_fault and rule.number not in faulted
    ] == []


def test_faults_are_planted_for_rules_of_the_table() -> None:
    assert {fault.rule for fault in FAULTS.values()} - set(RULES) == set()


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.number)
def test_a_row_says_what_its_rule_asks_for(rule: Rule) -> None:
    assert NUMBER.fullmatch(rule.number)
    assert rule.level in {"MUST", "SHOULD", "MAY", "REF", "REC"}
    assert rule.says.endswith(".")
    assert not (rule.none and (rule.design or rule.unplanted))
