"""How long a refresh waits for a body that cannot be sent twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from tests.refresh.fleet import Fleet, Worker, fleet, timing, within
from tests.virtual_time import in_virtual_time

BLOB = "/xrpc/com.atproto.repo.uploadBlob"


async def _chunks() -> AsyncGenerator[bytes]:
    yield b"one "
    yield b"two"


@asynccontextmanager
async def _uploading(here: Fleet, worker: Worker) -> AsyncGenerator[None]:
    async with here.network.hold(BLOB) as pds:
        upload = worker.call(
            worker.session.post(BLOB, content=_chunks(), headers={"content-type": "text/plain"})
        )
        await within(2, pds.arrived())
        yield
        pds.release()
        await within(100, upload)


async def _lives(here: Fleet, worker: Worker, *, left: float) -> None:
    now = here.clock()
    here.row.access_expires = now + round(left * 1000)
    here.row.refreshed = now - round((3600 - left) * 1000)
    here.row.refresh_after = 0
    await worker.look_again()


@pytest.mark.parametrize(
    ("left", "drain", "waits"),
    [
        pytest.param(30.0, 2.0, 30.0, id="as long as the token lives"),
        pytest.param(0.5, 2.0, 2.0, id="as long as a call, though the token dies sooner"),
        pytest.param(-5.0, 0.25, 0.25, id="as long as a call, though the token is dead"),
        pytest.param(1800.0, 0.25, 0.25, id="as long as a call after an early refusal"),
    ],
)
def test_a_stream_is_waited_for(left: float, drain: float, waits: float) -> None:
    async def run() -> None:
        with timing(drain=drain):
            async with fleet(expired=False) as here, here.worker() as one:
                async with _uploading(here, one):
                    await _lives(here, one, left=left)
                    start = time.monotonic()
                    # A refusal starts a refresh whether one is due or not.
                    refused = one.call(one.runtime.upkeep.renew(one.live, used=1))
                    await asyncio.wait({refused})
                    await one.settled()
                    assert abs(one.wire.acquired().at - start - waits) < 0.001
                assert one.live.version == 2

    in_virtual_time(run)
