"""Alembic's environment: runs on a connection that it is given, and never makes one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from atproto_oauth_asgi_migrations.environment import include_name_in
from atproto_oauth_asgi_stores.tables import VERSION_TABLE, metadata_for

attributes = context.config.attributes
schema: str | None = attributes.get("schema")
connection: sa.Connection | None = attributes.get("connection")

if connection is not None and connection.dialect.name == "postgresql":
    # Replicas that start together take turns; SQLite's transaction is immediate already.
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('atproto_oauth_asgi'))"))
context.configure(
    connection=connection,
    dialect_name=attributes.get("dialect"),
    literal_binds=connection is None,
    target_metadata=metadata_for(schema),
    version_table=VERSION_TABLE,
    version_table_schema=schema,
    include_schemas=schema is not None,
    include_name=include_name_in(schema),
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
