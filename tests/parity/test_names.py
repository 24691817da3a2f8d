from __future__ import annotations

from tests.parity.differences import DIFFERENCES
from tests.parity.scenario import recorded, required_names
from tests.parity.scenarios import SCENARIOS


def test_every_name_has_one_scenario_and_one_record() -> None:
    played = [name for scenario in SCENARIOS for name in scenario.names]
    functions = [scenario.play.__name__ for scenario in SCENARIOS]

    assert sorted(played) == sorted(set(played))
    assert sorted(functions) == sorted(set(functions))
    assert set(required_names()) == set(played)
    assert set(recorded()) == set(played)
    assert set(DIFFERENCES) <= set(played)


def test_the_list_of_names_has_what_was_measured_once() -> None:
    names = required_names()

    assert len(names) == len(set(names))
    assert len(names) >= 166
