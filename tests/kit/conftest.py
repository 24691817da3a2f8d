from __future__ import annotations

import pytest

from atproto_oauth_asgi import ATProtoOAuth
from tests.kit.apps import make


@pytest.fixture
def oauth() -> ATProtoOAuth:
    """An app's object, with settings that would reach the internet and a database that is away."""
    return make(store_url="postgresql+asyncpg://nobody@127.0.0.1:1/none")
