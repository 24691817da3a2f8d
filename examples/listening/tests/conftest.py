"""A database of its own for each test, and the app with the network attached."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from fastapi.testclient import TestClient

from atproto_oauth_asgi.testing import Network

FOLDER = tempfile.TemporaryDirectory(prefix="listening-")
DATABASE = Path(FOLDER.name) / "listening.db"
# Before the app is imported, which makes its engine then.
os.environ["DATABASE_URL"] = f"sqlite+aiosqlite:///{DATABASE}"


@pytest.fixture
def migrated() -> Generator[None]:
    command.upgrade(Config(Path(__file__).parents[1] / "alembic.ini"), "heads")
    yield
    DATABASE.unlink()


@pytest.fixture
def client(migrated: None, atproto_network: Network) -> Generator[TestClient]:
    from examples.listening.app import app, oauth

    atproto_network.attach(oauth)
    with TestClient(app) as client:
        yield client
