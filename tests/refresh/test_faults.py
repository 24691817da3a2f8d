"""Every scenario fails under each fault that it names: it would be noticed."""

from __future__ import annotations

import pytest

from tests.refresh import (
    faults_commit,
    faults_core,
    faults_failure,
    faults_post,
    faults_requests,
    faults_server,
    faults_store,
)
from tests.refresh.faults import FAULTS
from tests.refresh.sentences import SCENARIOS, SERVER_SCENARIOS
from tests.refresh.test_scenarios import MODULES as SCENARIO_MODULES

MODULES = (
    faults_commit,
    faults_core,
    faults_failure,
    faults_post,
    faults_requests,
    faults_server,
    faults_store,
    *SCENARIO_MODULES,
)
PAIRS = [(name, fault) for name, one in SCENARIOS.items() for fault in one.without]


@pytest.mark.parametrize(("name", "fault"), PAIRS)
def test_a_broken_promise_is_noticed(name: str, fault: str) -> None:
    with pytest.raises(AssertionError):
        SCENARIOS[name].play(FAULTS[fault])


def test_no_fault_is_left_over() -> None:
    on_servers = {fault for one in SERVER_SCENARIOS.values() for fault in one.without}
    assert {fault for _, fault in PAIRS} | on_servers == set(FAULTS)
