"""The server's time for an answer begins when the request leaves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from atproto_oauth_asgi.net import Answer, Net
from tests.refresh.fleet import TIMING, fleet, within
from tests.virtual_time import in_virtual_time


@pytest.mark.spec("J1")
@pytest.mark.parametrize("late", [0.0, 0.5])
def test_a_wait_for_a_connection_is_not_taken_from_the_servers_time(
    late: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    post: Any = Net.post_form

    async def crowded(self: Net, url: str, form: dict[str, str], **more: Any) -> Answer:
        if "grant_type" in form:
            await asyncio.sleep(15)
        answer: Answer = await post(self, url, form, **more)
        return answer

    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            monkeypatch.setattr(Net, "post_form", crowded)
            async with here.network.pause_token_endpoint("refresh_token", when="after") as pause:
                flight = one.start()
                await within(40, pause.arrived())
                await asyncio.sleep(TIMING.post - 1 + 2 * late)
                pause.release()
                await one.done(flight)
            assert (flight.error, one.live.version, here.refreshes) == (None, 2, 1)

    in_virtual_time(run)


def test_a_request_that_never_leaves_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stuck(*_: object, **more: object) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    async def run() -> None:
        async with fleet() as here, here.worker() as one:
            with monkeypatch.context() as patch:
                patch.setattr(Net, "post_form", stuck)
                flight = await one.refresh()
            assert str(flight.error) == "The token endpoint did not answer in time."
            assert (here.row.attempts, here.row.lease_owner, here.sent) == (0, None, 0)

    in_virtual_time(run)
