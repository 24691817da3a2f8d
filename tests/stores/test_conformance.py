from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from atproto_oauth_asgi.store import Store
from atproto_oauth_asgi.testing.conformance import StoreConformance
from atproto_oauth_asgi_migrations import migrate_empty, upgrade
from atproto_oauth_asgi_migrations.run import on_url
from atproto_oauth_asgi_stores import MemoryStore, SQLStore
from tests.databases import Server


class MovedClock:
    def __init__(self) -> None:
        self.ahead = 0

    def __call__(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def clock(self) -> MovedClock:
        return MovedClock()

    @pytest.fixture
    async def store(self, clock: MovedClock) -> MemoryStore:
        self.clock_of_store = clock
        return MemoryStore(clock=clock)

    async def advance(self, store: Store, ms: int) -> None:
        self.clock_of_store.ahead += ms


async def move_times(store: SQLStore, ms: int) -> None:
    """Let time pass in a database whose clock cannot be moved: what lies ahead comes nearer."""
    for table in store.tables.metadata.sorted_tables:
        times = [
            column
            for column in table.c
            if isinstance(column.type, sa.BigInteger)
            and column.name not in {"version", "rotation", "browser_rotation"}
        ]
        await store.change(sa.update(table).values({column: column - ms for column in times}))


class SQLConformance(StoreConformance):
    async def advance(self, store: Store, ms: int) -> None:
        assert isinstance(store, SQLStore)
        await move_times(store, ms)


class TestSQLiteFile(SQLConformance):
    @pytest.fixture
    async def url(self, tmp_path: Path) -> str:
        url = f"sqlite:///{tmp_path}/store.db"
        assert await migrate_empty(url)
        return url

    @pytest.fixture
    async def store(self, url: str) -> AsyncGenerator[SQLStore]:
        store = SQLStore(url)
        await store.open()
        yield store
        await store.aclose()

    @pytest.fixture
    async def second_store(self, url: str) -> AsyncGenerator[SQLStore]:
        store = SQLStore(url)
        await store.open()
        yield store
        await store.aclose()


class ServerConformance(SQLConformance):
    """Runs on one database per module; every test finds it empty."""

    @pytest.fixture
    async def store(self, url: str) -> AsyncGenerator[SQLStore]:
        store = SQLStore(url)
        await store.open()
        for table in reversed(store.tables.metadata.sorted_tables):
            await store.change(sa.delete(table))
        yield store
        await store.aclose()

    @pytest.fixture
    async def second_store(self, url: str) -> AsyncGenerator[SQLStore]:
        store = SQLStore(url)
        await store.open()
        yield store
        await store.aclose()


def migrated(server: Server, driver: str = "", query: str = "") -> str:
    url = server.url(server.create_database(), driver) + query
    asyncio.run(on_url(url, upgrade))
    return url


@pytest.fixture(scope="module")
def psycopg_url(postgresql: Server) -> str:
    return migrated(postgresql)


class TestPostgreSQLWithPsycopg(ServerConformance):
    @pytest.fixture
    def url(self, psycopg_url: str) -> str:
        return psycopg_url


@pytest.fixture(scope="module")
def asyncpg_url(postgresql: Server) -> str:
    return migrated(postgresql, "asyncpg")


class TestPostgreSQLWithAsyncpg(ServerConformance):
    @pytest.fixture
    def url(self, asyncpg_url: str) -> str:
        return asyncpg_url


@pytest.fixture(scope="module")
def mariadb_url(mariadb: Server) -> str:
    return migrated(mariadb)


class TestMariaDB(ServerConformance):
    @pytest.fixture
    def url(self, mariadb_url: str) -> str:
        return mariadb_url


class TestGivenEngine(TestSQLiteFile):
    @pytest.fixture
    async def store(self, url: str) -> AsyncGenerator[SQLStore]:
        engine = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"))
        store = SQLStore(engine)
        await store.open()
        yield store
        await store.aclose()
        await engine.dispose()
