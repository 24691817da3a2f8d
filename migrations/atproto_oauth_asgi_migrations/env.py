"""Alembic's environment: runs on a connection that it is given, and never makes one."""

from __future__ import annotations

from contextlib import nullcontext

import sqlalchemy as sa
from alembic import context

from atproto_oauth_asgi_migrations.environment import include_name_in, taking_turns
from atproto_oauth_asgi_stores.tables import VERSION_TABLE, metadata_for

attributes = context.config.attributes
schema: str | None = attributes.get("schema")
connection: sa.Connection | None = attributes.get("connection")

with nullcontext() if connection is None else taking_turns(connection, schema):
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
        if connection is None and schema is not None:
            made = sa.schema.CreateSchema(schema, if_not_exists=True)
            context.execute(made)
        context.run_migrations()
