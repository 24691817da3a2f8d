"""What MySQL understands and MariaDB does not need to: the same dialect speaks to both.

No MySQL server can be had from Debian, PyPI or npm, so the kit runs on MariaDB. Here is what its
documented grammar and rules refuse of that, in everything that the store sends.
"""

from __future__ import annotations

import re
from io import StringIO

import pytest
from sqlalchemy import event

from atproto_oauth_asgi.store import SessionFilter
from atproto_oauth_asgi.testing.conformance_base import (
    browser,
    hashed,
    one_time,
    refreshed,
    session,
)
from atproto_oauth_asgi_migrations import sql
from atproto_oauth_asgi_stores import SQLStore
from atproto_oauth_asgi_stores.server_engines import limits_of
from tests.stores.places import Place

pytestmark = pytest.mark.anyio

#: MySQL 8.4 reference manual, by section: what it does not have.
REFUSED = {
    "15.2 (no RETURNING)": re.compile(r"\bRETURNING\b", re.IGNORECASE),
    "15.1.15 (no IF NOT EXISTS for an index)": re.compile(r"INDEX IF (NOT )?EXISTS", re.IGNORECASE),
    "15.1.9 (no IF EXISTS for a column)": re.compile(r"COLUMN IF (NOT )?EXISTS", re.IGNORECASE),
    "14.23 (no sequences)": re.compile(r"\b(NEXT|NEXTVAL|SEQUENCE)\b", re.IGNORECASE),
    "15.2.15.12 (no writing to what a subquery reads)": re.compile(
        r"^(?:UPDATE|DELETE FROM) (\w+) .*\bFROM \1\b", re.IGNORECASE | re.DOTALL
    ),
    "15.2.15.10 (no LIMIT under IN)": re.compile(
        r"\bIN \(SELECT [^)]*\bLIMIT\b", re.IGNORECASE | re.DOTALL
    ),
}


def refused(statement: str) -> list[str]:
    return [why for why, what in REFUSED.items() if what.search(statement.strip())]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE t SET a = 1 RETURNING a",
        "CREATE INDEX IF NOT EXISTS i ON t (a)",
        "UPDATE t SET a = (SELECT max(b) FROM t AS u)",
        "DELETE FROM t WHERE a IN (SELECT a FROM u LIMIT 5)",
    ],
)
def test_what_is_refused_is_seen(statement: str) -> None:
    assert refused(statement)


def test_migrations_are_written_for_mysql() -> None:
    out = StringIO()
    sql("mysql", out)

    statements = out.getvalue().split(";")
    assert len(statements) > 10
    assert [one for one in statements if refused(one)] == []


def test_the_limits_of_a_connection_leave_out_what_only_mariadb_has() -> None:
    limits = limits_of("mysql", patient=False)

    # A comment to MySQL, for which only `/*!` is none.
    assert "idle_write_transaction_timeout" in limits
    left = re.sub(r"/\*!50708(.*?)\*/", r"\1", re.sub(r"/\*M!.*?\*/", "", limits))
    assert [one.split()[-3:] for one in left.split(",")] == [
        ["innodb_lock_wait_timeout", "=", "5"],
        ["lock_wait_timeout", "=", "5"],
        ["max_execution_time", "=", "10000"],
    ]


@pytest.fixture
async def statements(place: Place, store: SQLStore) -> list[str]:
    """Are those that the store sends from now on."""
    assert place.driver == "asyncmy"
    sent: list[str] = []
    engines = await store.engines()

    def note(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        sent.append(statement)

    each = {engines.reader, engines.writer, engines.single}
    for engine in each:
        assert engine is not None
        event.listen(engine.sync_engine, "before_cursor_execute", note)
    return sent


@pytest.mark.parametrize("place", ["asyncmy"], indirect=True)
async def test_all_that_the_store_sends_is_understood_by_mysql(
    place: Place, store: SQLStore, statements: list[str]
) -> None:
    assert place.url.startswith("mysql+")
    await store.open()
    await store.put(one_time())
    await store.consume(hashed("state"), kind="login")
    await store.record_outcome(hashed("state"), "ok")
    for name in ("one", "two", "three"):
        await store.create_session(session(name), browser=browser(), replaces=["none"])
    await store.load(hashed("cookie"))
    await store.list_sessions(
        SessionFilter(did="d", status="active", refreshed_before_ms=1), after="a"
    )
    await store.switch_active("browser", "one")
    await store.detach("browser", "one")
    await store.touch("browser", "two")
    assert await store.acquire_refresh(
        "two", version=1, owner="me", lease_ms=9, watched=("other", 1)
    )
    await store.mark_refresh("two", version=1, owner="me", lease_ms=9, first=True)
    await store.release_refresh("two", version=1, owner="me", wait_ms=9, unspent=True)
    await store.count_attempt("two", version=1)
    await store.commit_refresh("two", version=1, owner="me", refreshed=refreshed())
    await store.reseal("two", version=2, sealed_dpop_key=b"k", sealed_tokens=b"t", sealed_key="key")
    await store.require_reauth("two", version=2)
    await store.end_session("two", "logout", version=2)
    await store.purge_expired(10)

    kinds = {statement.split()[0] for statement in statements}
    assert kinds >= {"SELECT", "INSERT", "UPDATE"}
    assert [(one, refused(one)) for one in statements if refused(one)] == []
