"""What autogenerate and `check` look at."""

from __future__ import annotations

from typing import Protocol

from atproto_oauth_asgi_stores.tables import VERSION_TABLE, metadata_for


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
