"""Every recorded outcome of the reference server comes out of the embedded network too."""

from __future__ import annotations

import pytest

from tests.parity.differences import DIFFERENCES
from tests.parity.embedded import embedded_world
from tests.parity.outcome import Outcome, difference
from tests.parity.scenario import Scenario, recorded
from tests.parity.scenarios import SCENARIOS

pytestmark = pytest.mark.anyio

_ROWS = [(name, scenario) for scenario in SCENARIOS for name in scenario.names]
_RECORDED = recorded()


@pytest.fixture(scope="session")
def played() -> dict[str, dict[str, Outcome]]:
    """What the scenarios that have run so far produced, so that each runs once."""
    return {}


@pytest.mark.parametrize(("name", "scenario"), _ROWS, ids=[name for name, _ in _ROWS])
async def test_the_embedded_network_does_what_the_reference_server_did(
    name: str, scenario: Scenario, played: dict[str, dict[str, Outcome]]
) -> None:
    key = scenario.play.__name__
    if key not in played:
        async with embedded_world(scenario.variant) as world:
            played[key] = await scenario.outcomes(world)
    got = played[key][name]
    expected = _RECORDED[name]
    if name in DIFFERENCES:
        assert got != expected, "there is no difference left: take it out of the table"
        expected = {**expected, **DIFFERENCES[name].embedded}
    assert got == expected, difference(expected, got)
