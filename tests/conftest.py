from __future__ import annotations

import pytest
from hypothesis import settings

pytest_plugins = ["tests.databases"]

# A slow machine is no finding; the per-test timeout ends what really hangs.
settings.register_profile("project", deadline=None)
settings.load_profile("project")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
