from __future__ import annotations

import pytest

from tests.app.world import world

pytestmark = pytest.mark.anyio


async def test_a_person_logs_in_and_the_app_acts_for_them() -> None:
    async with world() as here:
        back = await here.login()
        answer = await here.browser.get("/me")

        assert back.status_code == 303
        assert back.headers["location"] == "https://app.birdsong.dev"
        assert answer.json()["handle"] == "alice.test"
