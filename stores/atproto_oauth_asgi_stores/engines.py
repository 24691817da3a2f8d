"""The engines for a store URL, or for an engine of the app's."""

from __future__ import annotations

from sqlalchemy import event
from sqlalchemy.engine import URL, Dialect
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, InvalidRequestError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry, StaticPool

from atproto_oauth_asgi.errors import ConfigurationError
from atproto_oauth_asgi_stores.loop_engines import Engines
from atproto_oauth_asgi_stores.server_engines import migration_engine, server_engines
from atproto_oauth_asgi_stores.sqlite_engines import sqlite_engines
from atproto_oauth_asgi_stores.urls import is_sqlite, parse_url

#: What to install for a driver, and what to write instead of one that cannot be awaited.
_EXTRAS = {"psycopg": "postgres", "asyncpg": "asyncpg", "asyncmy": "mysql"}
_AWAITABLE = {"postgresql": "psycopg", "mysql": "asyncmy", "mariadb": "asyncmy"}


def given_engines(engine: AsyncEngine) -> Engines:
    """Use an engine of the app's as it is; it is never disposed.

    Raises:
        ConfigurationError: it has no transactions.
    """
    given: object = getattr(engine.dialect, "_on_connect_isolation_level", None)
    level = engine.sync_engine.get_execution_options().get("isolation_level", given)
    if level == "AUTOCOMMIT":
        raise ConfigurationError(
            "The engine is in AUTOCOMMIT mode, so what belongs together would not be written"
            " together; give the store one with transactions."
        )
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
    if engine.dialect.name != "sqlite":
        return Engines(reader=alone, single=alone, writer=engine)
    if isinstance(engine.pool, StaticPool):
        raise ConfigurationError(
            "A SQLite database in memory has one connection, which cannot hold two transactions; "
            "give the store an engine on a file, or use memory://."
        )
    return Engines(reader=alone, writer=engine)


def own_engines(url: str | URL, *, schema: str | None = None) -> Engines:
    """Make engines for a store URL; nothing is connected yet.

    Raises:
        ConfigurationError: the URL is not one, or its driver is not installed.
    """
    parsed = parse_url(url, schema=schema)
    try:
        engines = sqlite_engines(parsed) if is_sqlite(parsed) else server_engines(parsed)
    except ValueError as exc:
        raise _wrong_options(parsed) from exc
    except (ImportError, NoSuchModuleError, ArgumentError, InvalidRequestError, TypeError) as exc:
        raise _unusable(parsed) from exc
    _tell_wrong_options(engines, parsed)
    return engines


def engines_to_migrate(url: str | URL, *, schema: str | None = None) -> Engines:
    """Make engines whose writer waits for its turn; raises as `own_engines` does."""
    engines = own_engines(url, schema=schema)
    parsed = parse_url(url)
    if is_sqlite(parsed):
        return engines
    patient = Engines(reader=engines.reader, writer=migration_engine(parsed))
    _tell_wrong_options(patient, parsed)
    return patient


def _tell_wrong_options(engines: Engines, url: URL) -> None:
    """Tell of options in the URL that a driver refuses as Python does a function's arguments."""

    def connect(
        dialect: Dialect,
        _record: ConnectionPoolEntry,
        arguments: list[object],
        named: dict[str, object],
    ) -> DBAPIConnection:
        try:
            return dialect.connect(*arguments, **named)
        except (TypeError, ValueError) as exc:
            # A certificate that does not verify is a ValueError too, and may do so tomorrow.
            if isinstance(exc, OSError):
                raise
            raise _wrong_options(url) from exc

    if url.query:
        for engine in {engines.reader, engines.writer, engines.single or engines.writer}:
            event.listen(engine.sync_engine, "do_connect", connect)


def _wrong_options(url: URL) -> ConfigurationError:
    return ConfigurationError(
        f"An option in the store's URL is unknown to the driver {url.get_driver_name()}, or has a "
        "value that it cannot read; correct it or leave it out."
    )


def _unusable(url: URL) -> ConfigurationError:
    backend, _, driver = url.drivername.partition("+")
    extra = _EXTRAS.get(driver)
    if extra is not None:
        mend = f"install it: `pip install 'atproto-oauth-asgi[{extra}]'`"
    elif backend in _AWAITABLE:
        mend = f"write {backend}:// or {backend}+{_AWAITABLE[backend]}:// in the store URL"
    else:
        mend = "install it or correct the URL"
    return ConfigurationError(f"The store URL's driver {url.drivername!r} cannot be used; {mend}.")
