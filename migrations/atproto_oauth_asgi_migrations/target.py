"""Where a revision puts its tables."""

from __future__ import annotations

from alembic import op


def schema() -> str | None:
    """Return the database schema that was asked for, or None for the connection's default."""
    config = op.get_context().config
    chosen: object = None if config is None else config.attributes.get("schema")
    return chosen if isinstance(chosen, str) else None
