"""Session stores for atproto-oauth-asgi: memory and SQL."""

from __future__ import annotations

from atproto_oauth_asgi_stores.memory import MemoryStore as MemoryStore
from atproto_oauth_asgi_stores.sql import SQLStore as SQLStore
from atproto_oauth_asgi_stores.tables import metadata_for as metadata_for
