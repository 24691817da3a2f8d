"""Each revision is applied to tables that are full and in use, and taken back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TypeVar, cast

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from atproto_oauth_asgi.store import SessionFilter
from atproto_oauth_asgi.testing.conformance_base import (
    browser,
    hashed,
    one_time,
    refreshed,
    session,
)
from atproto_oauth_asgi_migrations import current, differences, downgrade, upgrade
from atproto_oauth_asgi_migrations.run import config, on_url
from atproto_oauth_asgi_stores import SQLStore
from atproto_oauth_asgi_stores.tables import SCHEMA_MINIMUM
from tests.databases import Server

Result = TypeVar("Result")
Rows = dict[str, list[tuple[object, ...]]]

_REVISIONS = [one.revision for one in ScriptDirectory.from_config(config()).walk_revisions()][::-1]
#: Each revision with the one before it.
UPGRADES = list(pairwise(_REVISIONS))


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    server = cast("Server", request.getfixturevalue(request.param))
    return server.url(server.fresh_database())


def on(url: str, work: Callable[[sa.Connection], Result]) -> Result:
    return asyncio.run(on_url(url, work))


async def fill(url: str) -> None:
    """Leave something of every kind, and in every state, that a store leaves."""
    store = SQLStore(url)
    await store.open()
    await store.put(one_time("used"))
    await store.put(one_time("unused", sealed=bytes(range(256)) * 300))
    await store.consume(hashed("used"), kind="login")
    await store.record_outcome(hashed("used"), "後 😀")
    for name in ("leased", "over", "refreshed"):
        await store.create_session(session(name), browser=browser(f"of {name}", name))
    await store.acquire_refresh("leased", version=1, owner="me", lease_ms=60_000)
    await store.mark_refresh("leased", version=1, owner="me", lease_ms=60_000, first=True)
    await store.end_session("over", "logout")
    await store.commit_refresh("refreshed", version=1, owner="me", refreshed=refreshed())
    await store.aclose()


def everything(connection: sa.Connection) -> Rows:
    """Return all rows of our tables, by what the database itself says that there is."""
    metadata = sa.MetaData()
    metadata.reflect(connection)
    return {
        table.name: sorted((tuple(row) for row in connection.execute(sa.select(table))), key=repr)
        for table in metadata.sorted_tables
        if "version" not in table.name
    }


async def use(url: str) -> None:
    """Go on with what was there before."""
    store = SQLStore(url)
    await store.open()
    assert await store.load(hashed("leased"))
    assert await store.commit_refresh("leased", version=1, owner="me", refreshed=refreshed())
    assert not await store.end_session("over", "revoked")
    idle = SessionFilter(status="active", refreshed_before_ms=-1000)
    assert {one.id for one in await store.list_sessions(idle)} == {"leased", "refreshed"}
    assert await store.purge_expired(10) == 0
    await store.aclose()


@pytest.mark.parametrize(("before", "revision"), UPGRADES)
def test_an_upgrade_keeps_what_is_there(url: str, before: str, revision: str) -> None:
    on(url, lambda connection: upgrade(connection, revision=before))
    assert before >= SCHEMA_MINIMUM, "fill such tables by hand: this version cannot work with them"
    asyncio.run(fill(url))
    rows = on(url, everything)
    assert all(rows.values())

    on(url, lambda connection: upgrade(connection, revision=revision))
    assert on(url, current) == revision
    assert on(url, everything) == rows

    on(url, lambda connection: downgrade(connection, before))
    assert on(url, everything) == rows
    on(url, upgrade)
    assert on(url, differences) == []
    asyncio.run(use(url))


def test_the_oldest_tables_will_do_while_a_deployment_rolls(url: str) -> None:
    on(url, lambda connection: upgrade(connection, revision=SCHEMA_MINIMUM))
    asyncio.run(fill(url))
    asyncio.run(use(url))


def test_an_index_that_was_made_beforehand_is_left_as_it_is(url: str) -> None:
    on(url, lambda connection: upgrade(connection, revision="aoa_0001"))
    statement = (
        "CREATE INDEX ix_atproto_oauth_session_status_refreshed"
        " ON atproto_oauth_session (status, refreshed)"
    )
    on(url, lambda connection: connection.execute(sa.text(statement)).close())

    on(url, upgrade)

    assert on(url, differences) == []
