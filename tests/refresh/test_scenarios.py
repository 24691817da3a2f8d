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
RULES: dict[str, tuple[str, ...]] = {
    "6.1.flight": ("J1",),
    "6.2.adopt": ("J1",),
    "6.4.columns": ("J3",),
    "J3": ("J3",),
    "6.task": ("J4",),
    "J5": ("J5",),
    "J6.issuer": ("J6", "N3"),
    "J6.pds": ("J6", "N1", "N2"),
    "5.401.refresh": ("J7",),
    "5.401.interval": ("J7",),
    "6.7.newer": ("J8",),
    "6.7.never": ("I16", "J8"),
    "6.3.nonce": ("J8",),
    "6.7.revoked": ("J8",),
    "6.9.first": ("K1",),
    "6.9.unreachable": ("K1",),
    "6.5.ended": ("K5",),
    "6.4.life": ("L1",),
    "6.3.verify": ("J6", "N4"),
    "6.3.unspent": ("J6", "N4"),
    "5.wait": ("J9",),
    "5.vain": ("J9",),
    "6.8.never": ("J10",),
}


def _with_rules(scenario: Scenario) -> ParameterSet:
    rules = sorted({rule for sentence in scenario.shows for rule in RULES.get(sentence, ())})
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
