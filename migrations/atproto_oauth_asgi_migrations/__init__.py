"""Migrations of the SQL store's tables, run on a connection of yours or on a store URL.

In async code: `async with engine.begin() as connection: await connection.run_sync(upgrade)`.
"""

from __future__ import annotations

from atproto_oauth_asgi_migrations.environment import include_name as include_name
from atproto_oauth_asgi_migrations.run import current as current
from atproto_oauth_asgi_migrations.run import differences as differences
from atproto_oauth_asgi_migrations.run import downgrade as downgrade
from atproto_oauth_asgi_migrations.run import migrate_empty as migrate_empty
from atproto_oauth_asgi_migrations.run import sql as sql
from atproto_oauth_asgi_migrations.run import stamp as stamp
from atproto_oauth_asgi_migrations.run import upgrade as upgrade
