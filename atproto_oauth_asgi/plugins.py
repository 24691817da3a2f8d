"""Finding what lives outside the core: stores, and the migration of an empty database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from atproto_oauth_asgi.errors import ConfigurationError
from atproto_oauth_asgi.store import Store

#: Entry points named by URL scheme; each is called with the store URL and returns a `Store`.
STORES = "atproto_oauth_asgi.stores"
#: Entry points named by URL scheme; each is awaited with the store URL, see `migrate_empty`.
MIGRATE = "atproto_oauth_asgi.migrate"

#: Schemes that this distribution serves itself, and the extra that brings their driver.
_EXTRAS = {
    "mariadb": "mysql",
    "mysql": "mysql",
    "postgres": "postgres",
    "postgresql": "postgres",
}

StoreFactory = Callable[[str], Store]
Migrator = Callable[[str], Awaitable[bool]]

_registered: dict[str, StoreFactory] = {}


def register_store(scheme: str, factory: StoreFactory) -> None:
    """Serve a URL scheme in this process, before any installed plugin that does.

    Args:
        scheme: The part of the URL before `+` or `:`.
        factory: Called with the whole URL.
    """
    _registered[scheme.lower()] = factory


def open_store(url: str) -> Store:
    """Make the store that a URL names; nothing is connected before `Store.open`.

    Raises:
        ConfigurationError: No plugin serves the URL's scheme, it cannot be loaded, or it refuses
            the URL.
    """
    scheme = scheme_of(url)
    factory = _registered.get(scheme)
    if factory is None:
        found = _find(STORES, scheme)
        if found is None:
            known = sorted({*_registered, *(entry.name for entry in entry_points(group=STORES))})
            extra = _EXTRAS.get(scheme)
            mend = (
                "Install a package that adds one"
                if extra is None
                else f"Install it again with `pip install 'atproto-oauth-asgi[{extra}]'`"
            )
            raise ConfigurationError(
                f"No store serves {scheme!r} URLs here; there are stores for "
                f"{', '.join(known) or 'nothing'}. {mend}, or change STORE_URL."
            )
        factory = cast("StoreFactory", _load(found))
    return factory(url)


async def migrate_empty(url: str) -> bool:
    """Make the tables where there are none, for stores that can; tell whether that was done.

    Raises:
        ConfigurationError: The URL is wrong, or the plugin cannot be loaded.
        StoreUnavailable: The database does not answer.
    """
    found = _find(MIGRATE, scheme_of(url))
    return False if found is None else await cast("Migrator", _load(found))(url)


def scheme_of(url: str) -> str:
    """Return the part of a store URL that names its plugin: `postgresql+psycopg:…` → `postgresql`.

    Raises:
        ConfigurationError: It is not a URL.
    """
    scheme, colon, _ = url.partition(":")
    if not colon:
        # The text is not repeated: it may be a password that got into the wrong setting.
        raise ConfigurationError(
            "STORE_URL is not a URL; write something like sqlite:///atproto-oauth.db."
        )
    return scheme.partition("+")[0].lower()


def _find(group: str, scheme: str) -> EntryPoint | None:
    # One installation may be seen twice on the path; two different plugins are a question.
    found = {entry.value: entry for entry in entry_points(group=group, name=scheme)}
    if len(found) > 1:
        raise ConfigurationError(
            f"More than one plugin serves {scheme!r} URLs ({', '.join(sorted(found))}); "
            "uninstall all but one, or pass the store object itself."
        )
    return next(iter(found.values()), None)


def _load(entry: EntryPoint) -> object:
    try:
        return entry.load()
    except (ImportError, AttributeError) as exc:
        raise ConfigurationError(
            f"The plugin {entry.value} cannot be loaded; install what it needs, or install it "
            "again."
        ) from exc
