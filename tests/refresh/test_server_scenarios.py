"""The promises of a refresh that need a database server: kept, and noticed when broken."""

from __future__ import annotations

import pytest

from tests.refresh import faults_server, scenarios_server
from tests.refresh.faults import FAULTS
from tests.refresh.sentences import SERVER_SCENARIOS, ServerScenario
from tests.stores.places import Place

pytestmark = pytest.mark.anyio
MODULES = (scenarios_server, faults_server)
CASES = [
    pytest.param(driver, one, id=f"{one.name}-{driver}")
    for one in SERVER_SCENARIOS.values()
    for driver in one.drivers
]
# One driver for each kind of server.
BROKEN = [
    pytest.param(driver, one, fault, id=f"{one.name}-{fault}-{driver}")
    for one in SERVER_SCENARIOS.values()
    for fault in one.without
    for driver in one.drivers
    if driver != "asyncpg"
]


@pytest.mark.parametrize(("place", "scenario"), CASES, indirect=["place"])
async def test_a_refresh_keeps_its_promises_on_a_server(
    place: Place, scenario: ServerScenario
) -> None:
    await scenario.run(place)


@pytest.mark.parametrize(("place", "scenario", "fault"), BROKEN, indirect=["place"])
async def test_a_promise_that_is_broken_on_a_server_is_noticed(
    place: Place, scenario: ServerScenario, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    FAULTS[fault](monkeypatch)
    with pytest.raises(AssertionError):
        await scenario.run(place)
