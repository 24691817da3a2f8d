"""PostgreSQL as the tests have it, in a folder and on a port of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from atproto_oauth_asgi_migrations import upgrade
from atproto_oauth_asgi_migrations.run import on_url
from tests.databases import PostgreSQL, Server


@contextmanager
def postgresql() -> Generator[Server]:
    """Run the server until the end of the block."""
    folder = Path(tempfile.mkdtemp(prefix="db-"))
    folder.chmod(0o755)
    server: Server | None = None
    try:
        server = PostgreSQL(folder)
        server.start()
        yield server
    finally:
        if server is not None:
            server.close()
        shutil.rmtree(folder, ignore_errors=True)


async def migrated(server: Server) -> str:
    """Make a database with our tables and return its name."""
    database = server.create_database()
    await on_url(server.url(database), upgrade)
    return database
