from __future__ import annotations

import pytest

from tests.network.walker import Key
from tests.parity.client import confidential
from tests.parity.embedded import embedded_world

pytestmark = pytest.mark.anyio


async def test_keys_and_metadata_are_cached_for_ten_minutes() -> None:
    k1, k2 = Key("k1"), Key("k2")
    async with embedded_world("usual") as world:
        folder = world.site.folder(k1)
        client = confidential(world, await world.account("alice.test"), folder, k1)
        await client.par()
        folder.publish(k2)
        await world.age(599)
        still = await client.par()
        client.client_key = k2
        early = await client.par()
        await world.age(2)
        late = await client.par()

    assert still.status_code == 201
    assert early.json()["error"] == "invalid_client"
    assert late.status_code == 201
