"""Databases of every kind that a thief may have a dump of."""

from __future__ import annotations

import asyncio
import base64
import re
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from atproto_oauth_asgi_migrations import upgrade
from atproto_oauth_asgi_migrations.run import on_url
from tests.databases import HOST, MariaDB, PostgreSQL
from tests.rings import require_tool

_HEX = re.compile(r"(?:[0-9a-fA-F]{2}){16,}")


@dataclass(frozen=True)
class Database:
    """A migrated database of a test's own, and what dumps it."""

    url: str
    dump: Callable[[], bytes]

    async def rows(self) -> dict[str, list[tuple[object, ...]]]:
        """Return all rows of all tables, whosever they are."""
        engine = create_async_engine(self.url.replace("sqlite:", "sqlite+aiosqlite:"))
        try:
            async with engine.connect() as connection:
                found = sa.MetaData()
                await connection.run_sync(found.reflect)
                return {
                    table.name: [tuple(row) for row in await connection.execute(sa.select(table))]
                    for table in found.sorted_tables
                }
        finally:
            await engine.dispose()

    async def words(self) -> set[str]:
        """Return whatever is in the dump or the rows, in all spellings that may be of use."""
        text = self.dump().decode("latin-1")
        assert "atproto_oauth_session" in text
        found = set(re.split(r"[\s'\"=&?,;()]", text))
        for run in _HEX.findall(text):
            found |= set(spelt(bytes.fromhex(run)))
        for rows in (await self.rows()).values():
            found |= {one for row in rows for value in row for one in spelt(value)}
        return {word for word in found if len(word) >= 8}


def spelt(value: object) -> Iterator[str]:
    """Spell a stolen value in all ways that a cookie or a parameter could have."""
    raw = value if isinstance(value, bytes) else str(value).encode()
    yield raw.decode("latin-1")
    yield raw.hex()
    for coded in (base64.urlsafe_b64encode(raw), base64.b64encode(raw)):
        yield coded.decode()
        yield coded.decode().rstrip("=")
        # The right length for a cookie, from whatever is long enough.
        yield coded.decode()[:43]


@pytest.fixture(params=["sqlite", "psycopg", "asyncmy"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        path = tmp_path / "sessions.db"
        made = Database(f"sqlite:///{path}", lambda: _sqlite(path))
    elif request.param == "psycopg":
        server = request.getfixturevalue("postgresql")
        assert isinstance(server, PostgreSQL)
        name = server.create_database()
        program = [str(server.programs / "pg_dump"), "--username=postgres"]
        made = Database(
            server.url(name, "psycopg"),
            lambda: _output(*program, f"--host={HOST}", f"--port={server.port}", name),
        )
    else:
        server = request.getfixturevalue("mariadb")
        assert isinstance(server, MariaDB)
        name, program = server.create_database(), ["mariadb-dump", "--no-defaults", "--user=root"]
        require_tool(program[0], "apt-get install mariadb-server")
        made = Database(
            server.url(name, "asyncmy"),
            lambda: _output(*program, f"--socket={server.folder}/s", "--hex-blob", name),
        )
    asyncio.run(on_url(made.url, upgrade))
    return made


def _sqlite(path: Path) -> bytes:
    """Return the dump, and the bytes of all files: what was deleted may still be in them."""
    with closing(sqlite3.connect(path)) as connection:
        dump = "\n".join(connection.iterdump()).encode()
    return b"\n".join([dump, *(file.read_bytes() for file in path.parent.glob(path.name + "*"))])


def _output(*command: str) -> bytes:
    return subprocess.run(command, check=True, capture_output=True, timeout=30).stdout
