"""What Alembic looks at, and whose turn it is."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol

import sqlalchemy as sa

from atproto_oauth_asgi.errors import StoreUnavailable
from atproto_oauth_asgi_stores.server_engines import MIGRATION_PATIENCE
from atproto_oauth_asgi_stores.tables import PREFIX, VERSION_TABLE, metadata_for

_LOCK = "atproto_oauth_asgi"
#: The same on every database that speaks PostgreSQL's protocol: no function of its server's.
_LOCK_NUMBER = int.from_bytes(hashlib.sha256(_LOCK.encode()).digest()[:7])


class IncludeName(Protocol):
    """Is Alembic's `include_name` hook."""

    def __call__(self, name: str | None, kind: str, parents: object, /) -> bool:
        """Tell whether Alembic is to look at a name of a kind."""
        ...


def include_name_in(schema: str | None) -> IncludeName:
    """Return an `include_name` for Alembic that sees our tables and nobody else's."""
    ours = {table.name for table in metadata_for(schema).sorted_tables} | {VERSION_TABLE}

    def include_name(name: str | None, kind: str, _parents: object, /) -> bool:
        if kind == "schema":
            return name == schema
        return kind != "table" or name in ours

    return include_name


def include_name(name: str | None, kind: str, _parents: object, /) -> bool:
    """Hide our tables from an app's own Alembic: give this to `context.configure` in its `env.py`.

    Without it `--autogenerate` proposes to drop tables that are not in the app's metadata. (An
    app that has `metadata_for()` among its `target_metadata`, and so makes the tables itself,
    needs to see them: there this must be left out.)
    """
    return kind != "table" or not (name or "").startswith(PREFIX)


@contextmanager
def taking_turns(connection: sa.Connection, schema: str | None) -> Generator[None]:
    """Let replicas that start together migrate one after another; make the schema if need be.

    Raises:
        StoreUnavailable: another migration did not end in time.
    """
    if connection.dialect.name == "postgresql":
        # Ends with the transaction, and with the connection, whatever becomes of this process.
        connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_LOCK_NUMBER})"))
        if schema is not None and not sa.inspect(connection).has_schema(schema):
            connection.execute(sa.schema.CreateSchema(schema))
        yield
    elif connection.dialect.name in {"mysql", "mariadb"}:
        # Names of locks are the whole server's, and a database's name may be too long for one.
        name = sa.text(f"CONCAT('{_LOCK} ', MD5(DATABASE()))")
        patience: sa.ColumnElement[int] = sa.literal_column(str(MIGRATION_PATIENCE))
        if connection.scalar(sa.select(sa.func.get_lock(name, patience))) != 1:
            raise StoreUnavailable(
                f"Another migration has not ended for {MIGRATION_PATIENCE} s; look at what the "
                "database is doing, and try again."
            )
        try:
            yield
        finally:
            if not connection.invalidated:
                connection.execute(sa.select(sa.func.release_lock(name)))
    else:
        # SQLite's transaction is immediate already.
        yield
