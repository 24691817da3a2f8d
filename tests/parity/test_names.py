from __future__ import annotations

from tests.parity.differences import DIFFERENCES
from tests.parity.scenario import recorded, required_names
from tests.parity.scenarios import SCENARIOS

#: Traps of the real server whose rows have the names that they were measured under.
ELSEWHERE = {
    11: (
        "par no state",
        "par without DPoP",
        "par unknown param",
        "par unknown login_hint",
        "par resource param",
        "par nonce param",
        "par bad prompt",
        "par localhost redirect_uri",
        "par plain",
        "par bad login_hint",
    ),
    13: ("conf: dpop key == client key",),
    15: ("scope atproto: createRecord", "scope atproto: uploadBlob", "repo create: delete"),
}


def test_every_trap_has_rows() -> None:
    names = required_names()
    for number in range(1, 18):
        if number in ELSEWHERE:
            assert set(ELSEWHERE[number]) <= set(names)
        else:
            assert any(name.startswith(f"trap {number}: ") for name in names), number


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
