"""Where a revision puts its tables."""

from __future__ import annotations

from alembic import op

#: What an app writes into the `[alembic]` part of its ini file to have the tables in a schema.
INI_NAME = "atproto_oauth_schema"


def schema() -> str | None:
    """Return the database schema that was asked for, or None for the connection's default."""
    config = op.get_context().config
    if config is None:
        return None
    chosen: object = config.attributes.get("schema") or config.get_main_option(INI_NAME)
    return chosen if isinstance(chosen, str) and chosen else None
