"""What the purge and keep-alive ask of PostgreSQL, they find by an index."""

from __future__ import annotations

import time

import psycopg
import pytest

from atproto_oauth_asgi.keep_alive import IDLE
from atproto_oauth_asgi.refresh_timing import milliseconds
from atproto_oauth_asgi.store import SessionFilter
from bench.rows import Place
from tests.databases import Server

pytestmark = pytest.mark.anyio

_READ = (
    "SELECT sum(seq_tup_read) + sum(coalesce(idx_tup_fetch, 0)) FROM pg_stat_user_tables "
    "WHERE relname IN ('atproto_oauth_browser', 'atproto_oauth_session')"
)


async def test_a_purge_reads_no_row_that_is_not_over(postgresql: Server) -> None:
    place = await Place.filled(postgresql, 3_000)
    before = _rows_read(place)
    await place.purge({})
    await place.store.aclose()
    assert _rows_read(place) == before


async def test_keep_alive_reads_no_session_that_was_refreshed_lately(postgresql: Server) -> None:
    place = await Place.filled(postgresql, 3_000)
    before = _rows_read(place)
    idle = SessionFilter(status="active", refreshed_before_ms=milliseconds(IDLE))
    assert await place.store.list_sessions(idle, after="0", limit=20) == []
    await place.store.aclose()
    assert _rows_read(place) == before


def _rows_read(place: Place) -> object:
    """Count when everybody has gone: a connection tells what it read when it ends."""
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    deadline = time.monotonic() + 10
    with psycopg.connect(place.url, autocommit=True) as connection:
        while connection.execute(others).fetchone() != (1,):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return connection.execute(_READ).fetchone()
