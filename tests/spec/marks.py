"""Pytest plugins that read, and choose by, the rule numbers that tests carry."""

from __future__ import annotations

from collections import defaultdict

import pytest

#: Rings that a planted fault does not wait for.
SLOW = (
    "tests/browser/",
    "tests/chaos/",
    "tests/examples/",
    "tests/migrations/",
    "tests/reference/",
)
RINGS = ("reference", "browser", "slow")


def carried(item: pytest.Item) -> set[str]:
    """Return the numbers of the rules that a test carries."""
    return {str(number) for mark in item.iter_markers("spec") for number in mark.args}


class Carried:
    """Collects which tests carry which rule, and how they ended."""

    def __init__(self) -> None:
        self.tests: dict[str, set[str]] = defaultdict(set)
        self.outcomes: dict[str, str] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            for number in carried(item):
                self.tests[number].add(item.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid] = report.outcome


class Only:
    """Runs the tests that carry a rule, outside the slow rings; or those of the given names.

    The name of a function stands for all its parameters.
    """

    def __init__(self, *, rule: str = "", names: frozenset[str] = frozenset()) -> None:
        self._rule = rule
        self._names = names
        self.failed: list[str] = []
        self.broken: list[str] = []
        self.ran = 0

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.broken.append(report.nodeid)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if self._wanted(item)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.ran += report.when == "call"
        if report.failed:
            self.failed.append(report.nodeid)

    def _wanted(self, item: pytest.Item) -> bool:
        if not self._rule:
            return not self._names.isdisjoint({item.nodeid, item.nodeid.partition("[")[0]})
        slow = item.nodeid.startswith(SLOW) or any(
            item.get_closest_marker(ring) is not None for ring in RINGS
        )
        return self._rule in carried(item) and not slow
