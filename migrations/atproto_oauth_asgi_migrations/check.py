"""Check that the revisions make the tables that the stores expect: `python -m …check`."""

from __future__ import annotations

import asyncio
import io
import sys
import tempfile
from pathlib import Path

import sqlalchemy as sa
from alembic.script import ScriptDirectory

from atproto_oauth_asgi_migrations.run import DIALECTS, config, differences, on_url, sql, upgrade
from atproto_oauth_asgi_stores.tables import SCHEMA_HEAD


def problems() -> list[str]:
    """Return what is wrong with the revisions, in sentences."""
    heads = ScriptDirectory.from_config(config()).get_heads()
    found = [] if heads == [SCHEMA_HEAD] else [f"SCHEMA_HEAD is {SCHEMA_HEAD}, the heads {heads}."]
    for dialect in DIALECTS:
        out = io.StringIO()
        sql(dialect, out)
        if "atproto_oauth_session" not in out.getvalue():
            found.append(f"The SQL for {dialect} makes no sessions table.")

    def compare(connection: sa.Connection) -> list[str]:
        upgrade(connection)
        return differences(connection)

    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder, 'check.db').as_posix()}"
        found += asyncio.run(on_url(url, compare))
    return found


def main() -> int:
    """Print what is wrong and return the exit status."""
    found = problems()
    for sentence in found:
        print(sentence, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
