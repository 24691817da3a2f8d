from __future__ import annotations

import pytest

pytest.register_assert_rewrite("atproto_oauth_asgi.testing")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
