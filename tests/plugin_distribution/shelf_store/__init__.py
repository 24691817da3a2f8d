"""A store that other people wrote: sessions in memory, on shelves that are named by URL."""

from __future__ import annotations

from atproto_oauth_asgi.errors import ConfigurationError
from atproto_oauth_asgi.store import Store
from atproto_oauth_asgi_stores import MemoryStore

_shelves: dict[str, Store] = {}


def open_shelf(url: str) -> Store:
    """Return the store of a shelf: `shelf://name`.

    Raises:
        ConfigurationError: the URL names no shelf.
    """
    name = url.partition("://")[2]
    if not name:
        raise ConfigurationError("Name a shelf: shelf://name.")
    return _shelves.setdefault(name, MemoryStore())
