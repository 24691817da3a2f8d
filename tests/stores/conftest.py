from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from atproto_oauth_asgi_migrations import migrate_empty
from tests.stores.places import place, store

__all__ = ["place", "store"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return an SQLite file with our tables."""
    path = tmp_path / "store.db"
    asyncio.run(migrate_empty(f"sqlite:///{path}"))
    return path
