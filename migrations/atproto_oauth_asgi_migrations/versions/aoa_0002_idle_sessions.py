"""Find the sessions that were not refreshed for long without reading all others."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from atproto_oauth_asgi_migrations.target import schema

revision = "aoa_0002"
down_revision = "aoa_0001"
branch_labels = None
depends_on = None

TABLE = "atproto_oauth_session"
INDEX = "ix_atproto_oauth_session_status_refreshed"


def upgrade() -> None:
    # Not concurrently: that waits for every transaction, and so for the replicas that wait here
    # for their turn to migrate. Whoever cannot let writers wait makes it beforehand.
    if not _is_there():
        op.create_index(INDEX, TABLE, ["status", "refreshed"], schema=schema())


def downgrade() -> None:
    op.drop_index(INDEX, TABLE, schema=schema())


def _is_there() -> bool:
    if op.get_context().as_sql:
        return False
    indexes = sa.inspect(op.get_bind()).get_indexes(TABLE, schema=schema())
    return INDEX in {index["name"] for index in indexes}
