from __future__ import annotations

import pytest
from hypothesis import Phase, settings

from tests.rings import is_fast

pytest_plugins = ["tests.canaries", "tests.databases", "tests.net_names"]

# A slow machine is no finding; the per-test timeout ends what really hangs.
settings.register_profile("project", deadline=None)
settings.load_profile("project")
# Whether a mutant is noticed is what counts, not by how small an example; the same each time.
settings.register_profile(
    "mutation", deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate)
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_fast(item.path) and not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.fast)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
