"""Store URLs: SQLAlchemy's, with the driver filled in."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from atproto_oauth_asgi.errors import ConfigurationError

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+asyncmy",
    "mariadb": "mariadb+asyncmy",
}


def is_sqlite(url: URL) -> bool:
    """Tell whether a URL names a SQLite database."""
    return url.get_backend_name() == "sqlite"


def schema_of(url: str | URL) -> str | None:
    """Return the schema that a store URL asks for with `?schema=`, or None."""
    schema = _parsed(url).query.get("schema")
    return schema if isinstance(schema, str) and schema else None


def parse_url(url: str | URL, *, schema: str | None = None) -> URL:
    """Parse a store URL, name the driver where it names none, and take `?schema=` out.

    Raises:
        ConfigurationError: it is not a URL, or SQLite is asked for a schema or to keep a database
            in memory. The message never holds the URL, which may hold a password.
    """
    schema = schema or schema_of(url)
    parsed = _parsed(url).difference_update_query(["schema"])
    # Schemes are the same in any case, and `postgres` is an old name that many still print.
    backend, plus, driver = parsed.drivername.lower().partition("+")
    backend = "postgresql" if backend == "postgres" else backend
    named = f"{backend}{plus}{driver}"
    parsed = parsed.set(drivername=_DRIVERS.get(named, named))
    if driver == "asyncpg" and "sslmode" in parsed.query:
        # What others call sslmode is called ssl there, with the same values.
        mode = parsed.query["sslmode"]
        parsed = parsed.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
    name = parsed.database or ""
    if is_sqlite(parsed) and (
        not name or ":memory:" in name or parsed.query.get("mode") == "memory"
    ):
        raise ConfigurationError(
            "The store URL names a SQLite database in memory, which each connection has for "
            "itself; use sqlite:///file.db, or memory://."
        )
    if is_sqlite(parsed) and schema is not None:
        raise ConfigurationError("SQLite has no schemas; leave the schema out.")
    return parsed


def _parsed(url: str | URL) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError) as exc:
        raise ConfigurationError(
            "The store URL cannot be read; it looks like sqlite:///file.db or "
            "postgresql://user:password@host/database."
        ) from exc


def refuse_missing_folder(url: str | URL) -> None:
    """Find out early that an SQLite file has no place to be.

    Raises:
        ConfigurationError: the folder is not there, or the file's name is a folder's.
    """
    parsed = parse_url(url)
    name = parsed.database or ""
    if not is_sqlite(parsed) or name.startswith("file:"):
        return
    if Path(name).is_dir() or not Path(name).parent.is_dir():
        raise ConfigurationError(
            f"The store URL names the SQLite file {name!r}, whose folder is not there or which is "
            "a folder itself; make the folder or correct the URL."
        )
