"""Migrations on PostgreSQL and MariaDB."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import StringIO
from typing import TypeVar, cast

import pytest
import sqlalchemy as sa
from sqlalchemy.util import await_only

from atproto_oauth_asgi.errors import ConfigurationError, StoreUnavailable
from atproto_oauth_asgi.testing.conformance_base import hashed, one_time
from atproto_oauth_asgi_migrations import (
    current,
    differences,
    downgrade,
    environment,
    sql,
    stamp,
    upgrade,
)
from atproto_oauth_asgi_migrations.run import on_url
from atproto_oauth_asgi_stores import SQLStore
from atproto_oauth_asgi_stores.tables import SCHEMA_HEAD
from tests.databases import Server

Result = TypeVar("Result")


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Server:
    return cast("Server", request.getfixturevalue(request.param))


@pytest.fixture
def url(server: Server) -> str:
    return server.url(server.fresh_database())


def on(url: str, work: Callable[[sa.Connection], Result]) -> Result:
    return asyncio.run(on_url(url, work))


def names(connection: sa.Connection) -> set[str]:
    return set(sa.inspect(connection).get_table_names())


def test_the_tables_are_as_the_stores_expect_them(url: str) -> None:
    def make(connection: sa.Connection) -> tuple[str | None, list[str], str | None]:
        before = current(connection)
        upgrade(connection)
        upgrade(connection)
        return before, differences(connection), current(connection)

    assert on(url, make) == (None, [], SCHEMA_HEAD)


def test_a_difference_is_found(url: str) -> None:
    def alter(connection: sa.Connection) -> list[str]:
        upgrade(connection)
        connection.execute(sa.text("ALTER TABLE atproto_oauth_browser ADD COLUMN extra INTEGER"))
        connection.execute(sa.text("ALTER TABLE atproto_oauth_session DROP COLUMN handle"))
        return differences(connection)

    assert len(on(url, alter)) == 2


def test_the_way_back_leaves_nothing_of_ours(url: str) -> None:
    def there_and_back(connection: sa.Connection) -> set[str]:
        connection.execute(sa.text("CREATE TABLE users (id INT)"))
        upgrade(connection)
        downgrade(connection, "base")
        return names(connection)

    assert on(url, there_and_back) == {"users", "atproto_oauth_alembic_version"}
    assert on(url, current) is None
    on(url, upgrade)
    assert on(url, current) == SCHEMA_HEAD


def test_a_stamp_writes_the_revision_only(url: str) -> None:
    on(url, stamp)

    assert on(url, current) == SCHEMA_HEAD
    assert on(url, names) == {"atproto_oauth_alembic_version"}


@pytest.mark.parametrize("run", [upgrade, stamp])
def test_a_revision_that_there_is_not_is_one_sentence(url: str, run: Callable[..., None]) -> None:
    with pytest.raises(ConfigurationError, match="Name a revision"):
        on(url, partial(run, revision="aoa_9999"))
    with pytest.raises(ConfigurationError, match="Name a revision"):
        on(url, lambda connection: downgrade(connection, "nonsense"))


def test_tables_without_a_revision_are_not_touched(url: str) -> None:
    on(url, lambda c: c.execute(sa.text("CREATE TABLE atproto_oauth_one_time (a INT)")).close())

    with pytest.raises(StoreUnavailable, match="atproto-oauth-asgi db stamp"):
        on(url, upgrade)


def test_the_printed_sql_makes_the_same_tables(server: Server, url: str) -> None:
    out = StringIO()
    name = url.rpartition("/")[2]
    sql("postgresql" if "postgres" in url else "mariadb", out)

    server.run(out.getvalue(), name)

    assert on(url, lambda connection: (current(connection), differences(connection))) == (
        SCHEMA_HEAD,
        [],
    )


REPLICA = """
import asyncio, sys
from atproto_oauth_asgi.cli import main
from atproto_oauth_asgi_stores import SQLStore

print("ready", flush=True)
sys.stdin.readline()
assert main(["db", "upgrade", "--url", sys.argv[1]]) == 0

async def use():
    store = SQLStore(sys.argv[1])
    await store.open()
    await store.purge_expired(10)
    await store.aclose()

asyncio.run(use())
"""


@pytest.mark.slow
def test_sixteen_replicas_that_start_together_all_start(url: str) -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # Four processes, and twelve event loops in threads of this one.
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", REPLICA, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    with ThreadPoolExecutor(12) as pool:
        for replica in [pool.submit(on, url, upgrade) for _ in range(12)]:
            replica.result()

    answers = [process.communicate(timeout=50) for process in processes]

    assert [error for _, error in answers] == [""] * 4
    assert [process.returncode for process in processes] == [0] * 4
    assert on(url, lambda connection: (current(connection), differences(connection))) == (
        SCHEMA_HEAD,
        [],
    )


def test_whoever_waits_too_long_for_another_migration_is_told(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "MIGRATION_PATIENCE", 0)
    monkeypatch.setattr("atproto_oauth_asgi_stores.server_engines.MIGRATION_PATIENCE", 1)

    async def both() -> None:
        held, end = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            def wait(connection: sa.Connection) -> None:
                with environment.taking_turns(connection, None):
                    held.set()
                    await_only(end.wait())

            await on_url(url, wait)

        holding = asyncio.ensure_future(hold())
        await held.wait()
        with pytest.raises(StoreUnavailable, match=r"Another migration|locked"):
            await on_url(url, upgrade)
        end.set()
        await holding

    asyncio.run(both())


def test_a_schema_is_made_and_kept_to(postgresql: Server) -> None:
    url = postgresql.url(postgresql.fresh_database())

    def make(connection: sa.Connection) -> tuple[list[str], str | None, set[str]]:
        upgrade(connection, schema="auth")
        return (
            differences(connection, schema="auth"),
            current(connection, schema="auth"),
            names(connection),
        )

    assert on(url, make) == ([], SCHEMA_HEAD, set())


def test_the_printed_sql_makes_the_schema(postgresql: Server) -> None:
    name = postgresql.fresh_database()
    out = StringIO()
    sql("postgresql", out, schema="auth")

    postgresql.run(out.getvalue(), name)

    found = on(postgresql.url(name), lambda c: (current(c, schema="auth"), names(c)))
    assert found == (SCHEMA_HEAD, set())


@pytest.mark.parametrize("driver", ["asyncpg"])
def test_another_driver_migrates_as_well(postgresql: Server, driver: str) -> None:
    url = postgresql.url(postgresql.fresh_database(), driver)

    on(url, upgrade)

    assert on(url, differences) == []


def test_texts_of_any_language_fit(server: Server, url: str) -> None:
    on(url, upgrade)

    async def write() -> object:
        store = SQLStore(url)
        await store.put(one_time())
        await store.consume(hashed("state"), kind="login")
        await store.record_outcome(hashed("state"), "後 😀 ß")
        found = await store.consume(hashed("state"), kind="login")
        await store.aclose()
        return found and found.outcome

    assert asyncio.run(write()) == "後 😀 ß"
