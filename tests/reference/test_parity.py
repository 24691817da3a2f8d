"""The recorded outcomes are those of the reference server, which is asked again here."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.parity.outcome import difference
from tests.parity.scenario import Scenario, recorded
from tests.parity.scenarios import SCENARIOS
from tests.parity.site import ClientSite
from tests.reference.conftest import ReferenceFactory
from tests.reference.parity_world import Played
from tests.reference.tls import ThrowawayCA, TLSSite

# The first scenario of each variant starts a server.
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

_ROWS = [(name, scenario) for scenario in SCENARIOS for name in scenario.names]
_RECORDED = recorded()


@pytest.fixture(scope="module")
def played(reference_factory: ReferenceFactory, throwaway_ca: ThrowawayCA) -> Generator[Played]:
    with TLSSite(throwaway_ca) as tls:
        site = ClientSite(tls.origin)
        with tls.serve_in_thread(site):
            yield Played(reference_factory, throwaway_ca, site)


@pytest.mark.parametrize(("name", "scenario"), _ROWS, ids=[name for name, _ in _ROWS])
async def test_the_record_is_what_the_reference_server_does(
    name: str, scenario: Scenario, played: Played
) -> None:
    got = (await played.outcomes(scenario))[name]
    assert got == _RECORDED[name], difference(_RECORDED[name], got)
