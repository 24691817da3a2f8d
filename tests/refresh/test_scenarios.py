from __future__ import annotations

import pytest
from _pytest.mark import ParameterSet

from tests.refresh import (
    scenarios_commit,
    scenarios_endings,
    scenarios_failure,
    scenarios_idempotence,
    scenarios_lease,
    scenarios_mark,
    scenarios_post,
    scenarios_requests,
    scenarios_server,
    scenarios_sql,
    scenarios_takeover,
)
from tests.refresh.sentences import SCENARIOS, SENTENCES, SERVER_SCENARIOS, Scenario

MODULES = (
    scenarios_commit,
    scenarios_endings,
    scenarios_failure,
    scenarios_idempotence,
    scenarios_lease,
    scenarios_mark,
    scenarios_post,
    scenarios_requests,
    scenarios_server,
    scenarios_sql,
    scenarios_takeover,
)


#: Numbered rules that some sentences show, too.
RULES = {
    "6.1.flight": "J1",
    "6.2.adopt": "J1",
    "6.4.columns": "J3",
    "J3": "J3",
    "6.task": "J4",
    "J5": "J5",
    "J6.issuer": "J6",
    "J6.pds": "J6",
    "5.401.refresh": "J7",
    "5.401.interval": "J7",
    "6.7.newer": "J8",
    "6.7.never": "J8",
    "6.3.nonce": "J8",
    "6.7.revoked": "J8",
    "6.9.first": "K1",
    "6.9.unreachable": "K1",
    "6.5.ended": "K5",
    "6.4.life": "L1",
}


def _with_rules(scenario: Scenario) -> ParameterSet:
    rules = sorted({RULES[sentence] for sentence in scenario.shows if sentence in RULES})
    marks = (pytest.mark.spec(*rules),) if rules else ()
    return pytest.param(scenario.name, marks=marks, id=scenario.name)


@pytest.mark.parametrize("name", [_with_rules(scenario) for scenario in SCENARIOS.values()])
def test_a_refresh_keeps_its_promises(name: str) -> None:
    SCENARIOS[name].play()


def test_every_sentence_is_shown() -> None:
    shown = {sentence for one in SCENARIOS.values() for sentence in one.shows}
    shown |= {sentence for one in SERVER_SCENARIOS.values() for sentence in one.shows}
    assert shown <= SENTENCES.keys()
    assert SENTENCES.keys() - shown == set()
