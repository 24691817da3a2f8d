"""The embedded default: a SQLite file that makes its own tables and its own key."""

from __future__ import annotations

import secrets
from collections import Counter
from pathlib import Path

from atproto_oauth_asgi.errors import ConfigurationError
from atproto_oauth_asgi.instrumentation import Events
from atproto_oauth_asgi.plugins import migrate_empty, scheme_of
from atproto_oauth_asgi.sealing import KeyRing
from atproto_oauth_asgi.secret import make_key_file, read_key_file
from atproto_oauth_asgi.settings import Settings
from atproto_oauth_asgi.store import SessionFilter, Store
from atproto_oauth_asgi.vault import sealed_with

#: Sessions that start-up looks at to see whether it can open them. Ids are random, so these are
#: drawn by lot; `db rekey` looks at all.
SAMPLE = 200


def key_ring(settings: Settings, *, own_store: bool) -> KeyRing:
    """Return the keys that seal what the store keeps.

    They are SECRET_KEYS. Only in loopback development with SQLite a key file beside the database
    stands in for them, and a key of this process where nothing outlives it anyway.

    Args:
        settings: The configuration.
        own_store: Whether the app brought a store object instead of a STORE_URL.

    Raises:
        ConfigurationError: SECRET_KEYS is needed, or the key file cannot be used.
    """
    if settings.secret_keys:
        return KeyRing(settings.secret_keys)
    scheme = None if own_store else scheme_of(settings.store_url)
    if scheme == "memory":
        return KeyRing([secrets.token_bytes(32)])
    if scheme == "sqlite" and settings.loopback:
        path = _database_file(settings.store_url)
        return KeyRing([secrets.token_bytes(32)]) if path is None else KeyRing(_key_file(path))
    msg = (
        "SECRET_KEYS is not set, so the sessions in the store could not be sealed; run "
        "`atproto-oauth-asgi secrets generate` and set ATPROTO_OAUTH_SECRET_KEYS to what it prints."
    )
    raise ConfigurationError(msg)


async def prepare(settings: Settings) -> None:
    """Make the tables of an empty SQLite database, in loopback development only.

    Raises:
        StoreUnavailable: the database cannot be written.
    """
    if settings.loopback and scheme_of(settings.store_url) == "sqlite":
        await migrate_empty(settings.store_url)


async def check_keys(settings: Settings, store: Store, ring: KeyRing, events: Events) -> None:
    """Look whether sessions are sealed with keys that are not there.

    Without SECRET_KEYS this stops: the key file was lost, and would come back wrong. With them it
    logs `store.keys_missing` and goes on: a key may have been taken away on purpose, and rows
    that do not open are kept until it is put back. One query, of `SAMPLE` rows.

    Raises:
        ConfigurationError: names the file, and what to do without it.
    """
    sealed = await store.list_sessions(SessionFilter(status="active"), limit=SAMPLE)
    missing = Counter(
        key_id
        for record in sealed
        if record.remaining_ms > 0
        for key_id in sealed_with(record) - set(ring.key_ids)
    )
    if not missing:
        return
    if settings.secret_keys or not settings.loopback:
        # Put those keys back into SECRET_KEYS, behind the first: until then the people whose
        # sessions they sealed are not signed in.
        fields = {"keys": dict(missing), "of_sessions": len(sealed), "ring": ring.key_ids}
        events.error("store.keys_missing", **fields)
        return
    path = _database_file(settings.store_url)
    where = "SECRET_KEYS" if path is None else f"{path}.key (or SECRET_KEYS)"
    msg = (
        f"The database holds sessions sealed with another key than {where}; put that key back, "
        "or delete the database file to start over."
    )
    raise ConfigurationError(msg)


def _database_file(url: str) -> Path | None:
    """Return the file of a SQLite URL; None for a database in memory."""
    _, _, name = url.partition("://")
    name = name.removeprefix("/").partition("?")[0]
    return None if name in {"", ":memory:"} else Path(name)


def _key_file(database: Path) -> tuple[bytes, ...]:
    path = database.with_name(f"{database.name}.key")
    return read_key_file(path) or make_key_file(path)
