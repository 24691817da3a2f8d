from __future__ import annotations

import pytest

from tests.refresh import (
    scenarios_commit,
    scenarios_failure,
    scenarios_lease,
    scenarios_post,
    scenarios_requests,
    scenarios_sql,
)
from tests.refresh.sentences import SCENARIOS, SENTENCES

pytestmark = pytest.mark.anyio
MODULES = (
    scenarios_commit,
    scenarios_failure,
    scenarios_lease,
    scenarios_post,
    scenarios_requests,
    scenarios_sql,
)


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_refresh_keeps_its_promises(name: str) -> None:
    await SCENARIOS[name].run()


def test_every_sentence_is_shown() -> None:
    shown = {sentence for scenario in SCENARIOS.values() for sentence in scenario.shows}
    assert shown <= SENTENCES.keys()
    assert SENTENCES.keys() - shown == set()
