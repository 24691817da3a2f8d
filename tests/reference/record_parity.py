"""Write down what the reference server does: `python -m tests.reference.record_parity [NAME...]`.

Names are those of scenario functions; without any, all of them are played anew. The record is then
proved by `tests/reference/test_parity.py`; read the difference before you commit it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from tests.parity.scenario import RECORD, recorded
from tests.parity.scenarios import SCENARIOS
from tests.parity.site import ClientSite
from tests.reference.conftest import running_networks
from tests.reference.parity_world import Played
from tests.reference.tls import ThrowawayCA, TLSSite


async def _record(names: list[str]) -> None:
    began = time.monotonic()
    with running_networks() as factory, ThrowawayCA() as ca, TLSSite(ca) as tls:
        site = ClientSite(tls.origin)
        with tls.serve_in_thread(site):
            played = Played(factory, ca, site)
            rows = {
                name: outcome
                for scenario in SCENARIOS
                if not names or scenario.play.__name__ in names
                for name, outcome in (await played.outcomes(scenario)).items()
            }
    known = {name for scenario in SCENARIOS for name in scenario.names}
    kept = {name: outcome for name, outcome in recorded().items() if names and name in known}
    text = json.dumps({**kept, **rows}, indent=1, ensure_ascii=False, sort_keys=True)
    RECORD.write_text(text + "\n", encoding="utf-8")
    print(f"{len(rows)} rows in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    asyncio.run(_record(sys.argv[1:]))
