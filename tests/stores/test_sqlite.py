from __future__ import annotations

import asyncio
import gc
import sqlite3
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool

from atproto_oauth_asgi.errors import (
    ConfigurationError,
    SchemaOutOfDate,
    StoreError,
    StoreUnavailable,
)
from atproto_oauth_asgi.testing.conformance_base import (
    cancelled_after,
    hashed,
    one_time,
    session,
)
from atproto_oauth_asgi_stores import SQLStore, loop_engines
from tests.stores.threads import threads_of_drivers, wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(path: Path) -> AsyncGenerator[SQLStore]:
    store = SQLStore(f"sqlite:///{path}")
    yield store
    await store.aclose()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_engines, "LOCK_TIMEOUT", 0.1)


# --- Settings of the file ---


async def test_a_commit_survives_a_power_cut(store: SQLStore, path: Path) -> None:
    await store.put(one_time())

    async def pragma(name: str) -> object:
        async with (await store.engines()).writer.connect() as connection:
            return (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one()

    assert await pragma("journal_mode") == "wal"
    assert await pragma("synchronous") == 2  # FULL
    assert await pragma("foreign_keys") == 1


async def test_the_clock_is_the_wall_clock_in_milliseconds(store: SQLStore, path: Path) -> None:
    before = time.time_ns() // 1_000_000
    await store.put(one_time(ms=0))
    after = time.time_ns() // 1_000_000

    with sqlite3.connect(path) as connection:
        (created,) = connection.execute("SELECT created FROM atproto_oauth_one_time").fetchone()
    connection.close()
    assert before - 1 <= created <= after + 1


async def test_time_passes_by_itself(store: SQLStore) -> None:
    started = time.monotonic()
    await store.create_session(session(refresh_after_ms=500), browser=None)
    first = await store.acquire_refresh("session", version=1, owner="me", lease_ms=1)
    assert not first or time.monotonic() - started >= 0.5

    deadline = time.monotonic() + 30
    while not await store.acquire_refresh("session", version=1, owner="me", lease_ms=1):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


# --- Failures ---


async def test_a_locked_database_is_unavailable(impatient: None, path: Path) -> None:
    store = SQLStore(f"sqlite:///{path}")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreUnavailable, match="locked"):
        await store.put(one_time(sealed=b"canary"))
    assert await store.load(hashed("cookie")) is None

    other.execute("ROLLBACK")
    other.close()
    await store.put(one_time())
    await store.aclose()


async def test_a_full_disk_is_unavailable_and_says_so(store: SQLStore) -> None:
    await store.put(one_time())
    async with (await store.engines()).writer.connect() as connection:
        await connection.exec_driver_sql("PRAGMA max_page_count = 1")

    with pytest.raises(StoreUnavailable, match="disk is full") as caught:
        await store.put(one_time("big", sealed=b"canary" * 10_000))

    shown = f"{caught.value!r} {caught.value.__cause__} {caught.value.__cause__!r}"
    assert "canary" not in shown
    async with (await store.engines()).writer.connect() as connection:
        await connection.exec_driver_sql("PRAGMA max_page_count = 100000")
    assert await store.consume(hashed("big"), kind="login") is None
    await store.put(one_time("big"))


async def test_a_readonly_database_is_unavailable_and_says_so(store: SQLStore) -> None:
    async with (await store.engines()).writer.connect() as connection:
        await connection.exec_driver_sql("PRAGMA query_only = ON")

    with pytest.raises(StoreUnavailable, match="read-only"):
        await store.put(one_time())


@pytest.mark.parametrize("name", ["none/store.db", "."])
def test_a_missing_folder_is_found_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="make the folder"):
        SQLStore(f"sqlite:///{tmp_path}/{name}")


async def test_a_folder_that_goes_away_is_unavailable_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    store = SQLStore(f"sqlite:///{tmp_path}/gone/store.db")
    (tmp_path / "gone").rmdir()

    with pytest.raises(StoreUnavailable, match="folder"):
        await store.open()
    await store.aclose()
    # The driver's thread answers a failed connection once more, after nobody listens.
    await asyncio.to_thread(wait_until, lambda: threads_of_drivers() == 0)


async def test_another_file_is_unavailable_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"not a database at all " * 100)
    store = SQLStore(f"sqlite:///{tmp_path}/store.db")

    with pytest.raises(StoreUnavailable, match="not an SQLite database"):
        await store.open()
    with pytest.raises(StoreUnavailable, match="not an SQLite database"):
        await store.put(one_time())
    await store.aclose()
    gc.collect()


async def test_missing_tables_name_the_command(tmp_path: Path) -> None:
    store = SQLStore(f"sqlite:///{tmp_path}/store.db")

    with pytest.raises(SchemaOutOfDate, match="atproto-oauth-asgi db upgrade"):
        await store.open()
    with pytest.raises(StoreUnavailable, match="db upgrade"):
        await store.put(one_time())
    await store.aclose()


@pytest.mark.parametrize("found", ["aoa_0000", None])
async def test_tables_that_are_behind_name_the_command(
    store: SQLStore, path: Path, found: str | None
) -> None:
    set_revision(path, found)

    for ask in (store.open, store.check):
        with pytest.raises(SchemaOutOfDate, match="atproto-oauth-asgi db upgrade"):
            await ask()


@pytest.mark.parametrize("found", ["aoa_9999", "something else"])
async def test_newer_tables_are_a_warning(
    store: SQLStore, path: Path, found: str, caplog: pytest.LogCaptureFixture
) -> None:
    set_revision(path, found)

    await store.open()

    assert "newer" in caplog.text


def set_revision(path: Path, revision: str | None) -> None:
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM atproto_oauth_alembic_version")
    if revision is not None:
        connection.execute("INSERT INTO atproto_oauth_alembic_version VALUES (?)", [revision])
    connection.commit()
    connection.close()


async def test_no_parameter_is_in_an_error_of_a_given_engine(path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    store = SQLStore(engine)
    await store.put(one_time(sealed=b"canary"))

    with pytest.raises(StoreError) as caught:
        await store.put(one_time(sealed=b"canary"))

    assert "canary" not in f"{caught.value} {caught.value.__cause__}"
    await engine.dispose()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?mode=memory&uri=true",
        "nonsense hunter2",
        "nonsense://user:hunter2@host/db",
    ],
)
def test_a_wrong_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        SQLStore(url)
    assert "hunter2" not in str(caught.value)


def test_sqlite_has_no_schemas(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="schema"):
        SQLStore(f"sqlite:///{tmp_path}/store.db", schema="auth")


async def test_a_given_engine_in_memory_is_refused() -> None:
    engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
    with pytest.raises(ConfigurationError, match="memory://"):
        SQLStore(engine)
    await engine.dispose()


@pytest.mark.parametrize("how", ["engine", "options"])
async def test_a_given_engine_without_transactions_is_refused(path: Path, how: str) -> None:
    url = f"sqlite+aiosqlite:///{path}"
    if how == "engine":
        engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    else:
        engine = create_async_engine(url).execution_options(isolation_level="AUTOCOMMIT")
    with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
        SQLStore(engine)
    await engine.dispose()
    # One that has them is welcome, whichever.
    strict = create_async_engine(url, isolation_level="SERIALIZABLE")
    await SQLStore(strict).check()
    await strict.dispose()


# --- Connections ---


async def test_a_given_engine_is_never_disposed(path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    store = SQLStore(engine)
    await store.put(one_time())
    pool = engine.pool

    await store.aclose()

    assert engine.pool is pool
    assert await store.consume(hashed("state"), kind="login") is not None
    await engine.dispose()


async def test_cancelled_work_ends_and_gives_its_connection_back(store: SQLStore) -> None:
    for number in range(100):
        await cancelled_after(number * 0.0001, store.put(one_time(f"{number}")))
        await cancelled_after(number * 0.0001, store.load(hashed("cookie")))

    await store.aclose()

    gc.collect()
    await store.put(one_time("after"))


async def test_a_caller_with_a_deadline_does_not_wait_for_the_database(path: Path) -> None:
    store = SQLStore(f"sqlite:///{path}")
    await store.open()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    started = time.monotonic()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(store.put(one_time()), 0.05)

    assert time.monotonic() - started < 2
    other.execute("ROLLBACK")
    other.close()
    await store.aclose()
    assert await store.consume(hashed("state"), kind="login") is not None
    await store.aclose()
