"""A token endpoint may take its time: the code works once."""

from __future__ import annotations

import asyncio

from tests.app.faulty_store import FaultyStore
from tests.app.world import PAGE, world
from tests.virtual_time import in_virtual_time


def test_a_token_endpoint_that_needs_half_a_minute_signs_somebody_in() -> None:
    async def run() -> None:
        async with world() as here:
            callback = await here.approved()
            async with here.network.pause_token_endpoint() as pause:
                back = asyncio.create_task(here.browser.get(callback, headers=PAGE))
                await pause.arrived()
                await asyncio.sleep(29)
                pause.release()
            assert (await back).status_code == 303
            assert await here.who() == here.did()

    in_virtual_time(run)


def test_without_a_lifespan_a_request_stays_until_its_login_is_over() -> None:
    async def run() -> None:
        store = FaultyStore()
        async with world(store=store, owned=False) as here:
            callback = await here.approved()
            async with here.network.pause_token_endpoint() as pause:
                back = asyncio.create_task(here.browser.get(callback, headers=PAGE))
                await pause.arrived()
                back.cancel()
                await asyncio.sleep(29)
                pause.release()
                await asyncio.gather(back, return_exceptions=True)
                # Nobody would go on with it now.
                assert len(store.sessions) == 1
            await here.oauth.runtime().aclose()

    in_virtual_time(run)
