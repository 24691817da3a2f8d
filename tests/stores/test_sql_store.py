"""What the SQL store does with engines, event loops, schemas and URLs of servers."""

from __future__ import annotations

import asyncio
import gc
import time
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from atproto_oauth_asgi.errors import ConfigurationError, SchemaOutOfDate
from atproto_oauth_asgi.plugins import open_store
from atproto_oauth_asgi.testing.conformance_base import browser, hashed, one_time, session
from atproto_oauth_asgi_migrations import upgrade
from atproto_oauth_asgi_migrations.run import on_url
from atproto_oauth_asgi_stores import SQLStore
from atproto_oauth_asgi_stores.urls import parse_url, schema_of
from tests.databases import Server

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def url(postgresql: Server) -> str:
    url = postgresql.url(postgresql.create_database())
    asyncio.run(on_url(url, upgrade))
    return url


def with_driver(url: str, driver: str) -> str:
    return url.replace("postgresql:", f"postgresql+{driver}:")


# --- URLs ---


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("postgres://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("postgresql://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("PostgreSQL://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("postgres+asyncpg://u:p@h/d", "postgresql+asyncpg://u:p@h/d"),
        ("postgresql+asyncpg://u:p@h/d", "postgresql+asyncpg://u:p@h/d"),
        ("mysql://u:p@h/d", "mysql+asyncmy://u:p@h/d"),
        ("mysql+other://u:p@h/d", "mysql+other://u:p@h/d"),
        ("mariadb://u:p@h/d", "mariadb+asyncmy://u:p@h/d"),
        ("sqlite:///d", "sqlite+aiosqlite:///d"),
        (
            "postgresql://h/d?schema=auth&sslmode=require",
            "postgresql+psycopg://h/d?sslmode=require",
        ),
        ("postgresql+asyncpg://h/d?sslmode=require", "postgresql+asyncpg://h/d?ssl=require"),
    ],
)
def test_urls_are_understood_as_people_write_them(written: str, meant: str) -> None:
    assert make_url(meant) == parse_url(written)


@pytest.mark.parametrize(
    ("url", "schema"),
    [
        ("postgresql://h/d?schema=auth", "auth"),
        ("postgresql://h/d", None),
        ("mysql://h/?schema=", None),
    ],
)
def test_a_url_may_name_the_schema(url: str, schema: str | None) -> None:
    assert schema == schema_of(url)


def test_sqlite_has_no_schemas_in_urls_either(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="SQLite has no schemas"):
        SQLStore(f"sqlite:///{tmp_path}/store.db?schema=auth")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "mysql", "mariadb"])
def test_every_scheme_has_its_door(scheme: str) -> None:
    assert isinstance(open_store(f"{scheme}://user:password@host/database"), SQLStore)


# --- Schemas ---


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_tables_in_a_schema_are_found_there(postgresql: Server, driver: str) -> None:
    name = postgresql.fresh_database()
    plain = postgresql.url(name, driver)
    url = f"{plain}?schema=auth%20stuff"
    with pytest.raises(SchemaOutOfDate):
        await checked(url)
    await on_url(url, lambda c: upgrade(c, schema="auth stuff"), schema="auth stuff")

    store = open_store(url)
    await store.open()
    await store.create_session(session(), browser=browser())
    assert await store.load(hashed("cookie"))
    assert await store.purge_expired(10) == 0
    await store.aclose()

    other = SQLStore(plain, schema="auth stuff")
    assert await other.load_session("session")
    await other.aclose()
    with pytest.raises(SchemaOutOfDate):
        await checked(plain)


async def checked(url: str) -> None:
    store = SQLStore(url)
    try:
        await store.check()
    finally:
        await store.aclose()


# --- Engines ---


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_a_given_engine_is_used_and_never_disposed(url: str, driver: str) -> None:
    engine = create_async_engine(with_driver(url, driver))
    store = SQLStore(engine)
    await store.open()
    await store.put(one_time(driver))
    pool = engine.pool

    await store.aclose()

    assert engine.pool is pool
    found = await store.consume(hashed(driver), kind="login")
    assert found is not None
    assert found.first
    async with engine.begin() as connection:
        # The app's own transactions are still transactions.
        await connection.execute(sa.text("CREATE TABLE mine (id INT)"))
        await connection.rollback()
    async with engine.connect() as connection:
        assert not await connection.run_sync(lambda c: sa.inspect(c).has_table("mine"))
    await engine.dispose()


def test_event_loops_after_one_another_share_a_store(url: str) -> None:
    store = SQLStore(url)
    for number in range(3):
        asyncio.run(store.put(one_time(f"loop {number}")))

    async def consume_all() -> list[bool]:
        found = [await store.consume(hashed(f"loop {n}"), kind="login") for n in range(3)]
        return [one is not None and one.first for one in found]

    assert asyncio.run(consume_all()) == [True, True, True]
    gc.collect()


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_connections_end_with_their_event_loop(postgresql: Server, url: str, driver: str) -> None:
    store = SQLStore(with_driver(url, driver))

    async def use() -> None:
        await asyncio.gather(*(store.load(hashed("cookie")) for _ in range(4)))
        await store.put(one_time())
        await store.consume(hashed("state"), kind="login")
        await store.purge_expired(100)

    asyncio.run(use())
    gc.collect()

    wait_until_alone(postgresql, url)
    asyncio.run(empty_of(store))


def wait_until_alone(server: Server, url: str) -> None:
    """Wait until the server has no connection to the database any more."""
    name = make_url(url).database
    question = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
    deadline = time.monotonic() + 10
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        while connection.execute(question, [name]).fetchone() != (0,):
            assert time.monotonic() < deadline
            time.sleep(0.02)


async def empty_of(store: SQLStore) -> None:
    await store.change(sa.delete(store.tables.one_time))
    await store.aclose()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_a_loop_closed_without_shutdown_keeps_no_connection(
    postgresql: Server, url: str, driver: str
) -> None:
    store = SQLStore(with_driver(url, driver))
    for _ in range(2):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(store.load(hashed("cookie")))
        loop.run_until_complete(store.change(sa.delete(store.tables.one_time)))
        loop.close()

    # The next loop to come along finds what is left, and the drivers close it, not without a
    # word: nothing can be awaited any more.
    asyncio.run(empty_of(store))
    gc.collect()

    wait_until_alone(postgresql, url)


# --- The schema's check ---


async def test_the_check_may_be_left_to_an_app_with_revisions_of_its_own(
    postgresql: Server,
) -> None:
    store = SQLStore(postgresql.url(postgresql.fresh_database()), check_schema=False)

    await store.open()
    await store.check()
    await store.aclose()
