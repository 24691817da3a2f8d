from __future__ import annotations

import asyncio
import io
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import create_async_engine

from atproto_oauth_asgi.errors import ConfigurationError
from atproto_oauth_asgi_migrations import current, differences, migrate_empty, sql, upgrade
from atproto_oauth_asgi_migrations.check import problems
from atproto_oauth_asgi_migrations.run import config, on_url
from atproto_oauth_asgi_stores import SQLStore
from atproto_oauth_asgi_stores.tables import PREFIX, SCHEMA_HEAD, metadata_for

pytestmark = pytest.mark.anyio
Result = TypeVar("Result")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


def on_sync_engine(url: str, work: Callable[[sa.Connection], Result]) -> Result:
    engine = sa.create_engine(url)
    try:
        with engine.begin() as connection:
            return work(connection)
    finally:
        engine.dispose()


def test_the_head_is_the_one_that_the_stores_know() -> None:
    script = ScriptDirectory.from_config(config())

    assert script.get_heads() == [SCHEMA_HEAD]
    first = script.get_revision("aoa_0001")
    assert first.branch_labels == {"atproto_oauth_asgi"}


def test_the_revisions_have_no_problems() -> None:
    assert problems() == []


def test_the_tables_are_as_the_stores_expect_them(url: str) -> None:
    def make(connection: sa.Connection) -> tuple[str | None, list[str], str | None]:
        before = current(connection)
        upgrade(connection)
        upgrade(connection)
        return before, differences(connection), current(connection)

    assert on_sync_engine(url, make) == (None, [], SCHEMA_HEAD)


def test_a_difference_is_found(url: str) -> None:
    def alter(connection: sa.Connection) -> list[str]:
        upgrade(connection)
        connection.execute(sa.text("DROP INDEX ix_atproto_oauth_session_did"))
        connection.execute(sa.text("ALTER TABLE atproto_oauth_browser ADD COLUMN extra INTEGER"))
        return differences(connection)

    found = on_sync_engine(url, alter)

    assert len(found) == 2
    assert any("ix_atproto_oauth_session_did" in one for one in found)


def test_an_apps_own_tables_are_nobodys_business(url: str) -> None:
    def beside(connection: sa.Connection) -> list[str]:
        connection.execute(sa.text("CREATE TABLE users (id INTEGER PRIMARY KEY)"))
        connection.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        connection.execute(sa.text("INSERT INTO alembic_version VALUES ('theirs')"))
        upgrade(connection)
        return differences(connection)

    assert on_sync_engine(url, beside) == []
    names = on_sync_engine(url, lambda connection: sa.inspect(connection).get_table_names())
    assert {"users", "alembic_version"} < set(names)


def test_every_constraint_and_index_has_a_name_of_ours() -> None:
    for table in metadata_for().sorted_tables:
        assert table.name.startswith(PREFIX)
        for constraint in table.constraints:
            assert isinstance(constraint.name, str)
            assert "atproto_oauth_" in constraint.name
        for index in table.indexes:
            assert index.name is not None
            # PostgreSQL cuts names off at 63 bytes.
            assert len(index.name) < 63


def test_every_end_and_foreign_key_has_an_index() -> None:
    for table in metadata_for().sorted_tables:
        indexed = {column.name for index in table.indexes for column in index.columns}
        wanted = {column.name for column in table.c if column.foreign_keys}
        assert wanted | {"expires"} <= indexed


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql", "mysql"])
def test_the_sql_can_be_printed_without_a_database(dialect: str) -> None:
    out = io.StringIO()

    sql(dialect, out)

    assert "CREATE TABLE atproto_oauth_session" in out.getvalue()
    assert f"'{SCHEMA_HEAD}'" in out.getvalue()


def test_the_tables_go_into_the_schema_that_is_asked_for() -> None:
    out = io.StringIO()

    sql("postgresql", out, schema="auth")

    assert "CREATE TABLE auth.atproto_oauth_session" in out.getvalue()
    assert "INSERT INTO auth.atproto_oauth_alembic_version" in out.getvalue()
    assert "REFERENCES auth.atproto_oauth_browser" in out.getvalue()
    assert "ON auth.atproto_oauth_session" in out.getvalue()


def test_ids_compare_by_bytes_and_payloads_are_large() -> None:
    postgresql, mysql = io.StringIO(), io.StringIO()
    sql("postgresql", postgresql)
    sql("mysql", mysql)

    assert 'did VARCHAR(2048) COLLATE "C"' in postgresql.getvalue()
    assert "did VARBINARY(2048)" in mysql.getvalue()
    assert "sealed_tokens MEDIUMBLOB" in mysql.getvalue()


async def test_an_upgrade_that_fails_leaves_nothing(url: str) -> None:
    def fail(connection: sa.Connection) -> None:
        upgrade(connection)
        raise ConfigurationError("stop here")

    with pytest.raises(ConfigurationError, match="stop here"):
        await on_url(url, fail)

    assert await on_url(url, current) is None
    assert await migrate_empty(url)


async def test_only_an_empty_database_is_filled(url: str, tmp_path: Path) -> None:
    assert await migrate_empty(url)
    assert not await migrate_empty(url)

    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE atproto_oauth_session (id TEXT)")
    other.execute("CREATE TABLE users (id TEXT)")
    other.close()
    assert not await migrate_empty(f"sqlite:///{tmp_path}/other.db")


async def test_an_apps_database_counts_as_empty(url: str) -> None:
    await on_url(url, lambda c: c.execute(sa.text("CREATE TABLE users (id TEXT)")) and None)

    assert await migrate_empty(url)


async def test_tasks_that_upgrade_together_take_turns(url: str, tmp_path: Path) -> None:
    urls = [url, url, url, f"sqlite:///{tmp_path}/other.db"]

    done = await asyncio.gather(*(migrate_empty(one) for one in urls))

    assert sorted(done) == [False, False, True, True]


async def test_tasks_on_connections_of_theirs_take_turns(tmp_path: Path) -> None:
    engines = [create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/{n}.db") for n in range(4)]

    async def run(number: int) -> list[str]:
        async with engines[number].begin() as connection:
            await connection.run_sync(upgrade)
            return await connection.run_sync(differences)

    assert await asyncio.gather(*map(run, range(4))) == [[], [], [], []]
    for engine in engines:
        await engine.dispose()


def test_threads_that_upgrade_together_take_turns(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path}/{number % 3}.db" for number in range(9)]

    def run(url: str) -> bool:
        return asyncio.run(migrate_empty(url))

    with ThreadPoolExecutor(9) as pool:
        done = list(pool.map(run, urls))

    assert sum(done) == 3


START = """
import asyncio, sys
from atproto_oauth_asgi_migrations import migrate_empty
from atproto_oauth_asgi_stores import SQLStore
from atproto_oauth_asgi.testing.conformance_base import one_time

async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    made = await migrate_empty(sys.argv[1])
    store = SQLStore(sys.argv[1])
    await store.open()
    await store.put(one_time(sys.argv[2]))
    await store.aclose()
    print(made, flush=True)

asyncio.run(main())
"""


def test_processes_that_start_together_on_an_empty_file_all_start(url: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", START, url, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()

    answers = [process.communicate(timeout=40) for process in processes]

    assert [error for _, error in answers] == [""] * 4
    assert sorted(answer for answer, _ in answers) == ["False\n"] * 3 + ["True\n"]

    async def use() -> None:
        store = SQLStore(url)
        await store.check()
        await store.aclose()

    asyncio.run(use())
