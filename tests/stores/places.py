"""Migrated databases on servers, and drivers to reach them with."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import cast

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import QueuePool

from atproto_oauth_asgi_migrations import upgrade
from atproto_oauth_asgi_migrations.run import on_url
from atproto_oauth_asgi_stores import SQLStore
from atproto_oauth_asgi_stores.loop_engines import FRESH
from tests.databases import Server
from tests.proxy import Proxy


@dataclass(frozen=True)
class Place:
    """A migrated database on a server, and a driver to reach it with."""

    server: Server
    driver: str
    name: str

    @property
    def url(self) -> str:
        return self.server.url(self.name, self.driver)

    @property
    def postgresql(self) -> bool:
        return self.driver in {"psycopg", "asyncpg"}

    def through(self, proxy: Proxy) -> str:
        return self.url.replace(f":{self.server.port}/", f":{proxy.port}/")

    @contextmanager
    def read_only(self) -> Generator[None]:
        """Let the server take no writes, as a replica does."""
        if self.postgresql:
            setting = f"ALTER DATABASE {self.name} SET default_transaction_read_only ="
            on, off = f"{setting} on", f"{setting} off"
        else:
            on, off = "SET GLOBAL read_only = 1", "SET GLOBAL read_only = 0"
        self.server.run(on)
        try:
            yield
        finally:
            self.server.run(off)

    def as_user(self, user: str, password: str) -> str:
        return re.sub("//[a-z]+@", f"//{user}:{password}@", self.url)


@pytest.fixture(scope="module", params=["psycopg", "asyncpg", "asyncmy"])
def place(request: pytest.FixtureRequest) -> Place:
    driver: str = request.param
    name = "mariadb" if driver == "asyncmy" else "postgresql"
    server = cast("Server", request.getfixturevalue(name))
    made = Place(server, driver, server.create_database())
    asyncio.run(on_url(made.url, upgrade))
    return made


@asynccontextmanager
async def all_taken(store: SQLStore) -> AsyncGenerator[None]:
    """Use up the pool that single statements take their connections from."""
    engine = (await store.engines()).single
    assert engine is not None
    pool = cast("QueuePool", engine.sync_engine.pool)
    async with AsyncExitStack() as stack:
        # What the server's engines may have in all, less the writer's and the fresh ones.
        for _ in range(11 - 3 - FRESH):
            await stack.enter_async_context(engine.connect())
        assert pool.overflow() == pool.checkedout() - pool.size() == 1
        yield


async def empty(store: SQLStore) -> None:
    for table in reversed(store.tables.metadata.sorted_tables):
        await store.change(sa.delete(table))


@pytest.fixture
async def store(place: Place) -> AsyncGenerator[SQLStore]:
    store = SQLStore(place.url)
    await empty(store)
    yield store
    await store.aclose()
