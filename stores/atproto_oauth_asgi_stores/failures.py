"""What a driver's error means to the core."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError, StatementError

from atproto_oauth_asgi.errors import StoreError, StoreUnavailable

_UPGRADE = "run `atproto-oauth-asgi db upgrade`"
READ_ONLY = (
    "the database is read-only; let the store's URL name the primary, or grant write permission"
)
_OPTION = "an option in the store's URL is unknown or has a wrong value; correct it"
#: What databases say, by SQLSTATE or MySQL's number, and how to mend it.
_CODES = {
    ("28P01", "28000", "1045", "1698"): (
        "the database refuses the user or password; correct them in the store's URL"
    ),
    ("3D000", "1049"): (
        "the server has no such database; create it, or correct its name in the store's URL"
    ),
    ("3F000",): f"there is no such schema; {_UPGRADE} with the same schema",
    ("42P01", "1146"): f"a table is missing; {_UPGRADE}",
    ("42703", "1054"): f"a column is missing; {_UPGRADE}",
    ("42P07", "1050", "1061"): (
        "a table or index is there already, without a revision: a migration was cut off or the "
        "tables were made otherwise; drop them if they are empty and upgrade again, or tell the "
        "revision with `atproto-oauth-asgi db stamp`"
    ),
    ("42501", "1044", "1142", "1227"): (
        "the database user may not do this; grant it the rights on our tables"
    ),
    ("25006", "1290", "1792", "1836"): READ_ONLY,
    ("53300", "1040", "1203"): (
        "the server has no connection free; raise its limit or run fewer processes"
    ),
    ("55P03", "1205"): "another process keeps a row or table locked; end it or wait for it",
    ("57014", "1969", "3024"): "a statement took too long; look at the server's load",
    ("57P03", "1053"): "the server is starting up or shutting down; wait for it",
    ("53100", "1021", "1114"): "the disk of the server is full; make room on it",
}
#: What is said where there is no code: by SQLite, and by drivers while they connect.
_WORDS = (
    ("database is locked", "another process keeps the database locked; end it or wait for it"),
    ("readonly database", "the database is read-only; give this process write permission"),
    ("disk is full", "the disk is full; make room on it"),
    ("disk i/o error", "the disk reports errors; check it and its free space"),
    ("unable to open", "the database file cannot be opened; check its folder and permissions"),
    ("not a database", "the file is not an SQLite database; check the store's URL"),
    ("malformed", "the database file is damaged; restore a backup"),
    ("no such table", f"a table is missing; {_UPGRADE}"),
    ("no such column", f"a column is missing; {_UPGRADE}"),
    ("password authentication failed", _CODES["28P01", "28000", "1045", "1698"]),
    ("no password supplied", _CODES["28P01", "28000", "1045", "1698"]),
    ("no pg_hba.conf entry", _CODES["28P01", "28000", "1045", "1698"]),
    ("too many clients", _CODES["53300", "1040", "1203"]),
    ("starting up", _CODES["57P03", "1053"]),
    ("shutting down", _CODES["57P03", "1053"]),
    ("invalid connection option", _OPTION),
    ("bad value for", _OPTION),
    ("invalid sslmode", _OPTION),
    ("`sslmode` parameter", _OPTION),
    ("queuepool limit", "all connections of this process are busy; look at the server's load"),
)
_MENDS = {code: mend for codes, mend in _CODES.items() for code in codes}
#: SQLSTATE of a serialization failure and of a deadlock; MySQL's numbers of the latter, and of
#: MariaDB's of the former.
_LOST_RACE = frozenset({"40001", "40P01", "1213", "1020"})
#: Drivers whose errors SQLAlchemy lets through while they connect.
_DRIVERS = ("asyncmy", "asyncpg", "psycopg", "sqlite3")


@contextmanager
def driver_errors_translated() -> Generator[None]:
    """Raise `StoreUnavailable`, or `StoreError` for a broken constraint, for driver errors."""
    try:
        yield
    except (SQLAlchemyError, OSError, EOFError) as exc:
        raise translate(exc) from exc
    except Exception as exc:
        if type(exc).__module__.partition(".")[0] not in _DRIVERS:
            raise
        raise translate(exc) from exc


def translate(exc: Exception) -> StoreError:
    """Return the error to raise from a driver's error."""
    if isinstance(exc, StatementError):
        # The parameters are sealed bytes and hashes; an engine that we were given may print them.
        exc.hide_parameters = True
    if isinstance(exc, IntegrityError):
        return StoreError("An id, key or cookie exists already; make a new random one.")
    mend = _mend(exc)
    if mend is not None:
        return StoreUnavailable(f"The store cannot be used: {mend}.")
    return StoreUnavailable(
        f"The store's database does not answer ({type(exc).__name__}); check that it runs and "
        "that the store's URL names it."
    )


def _mend(exc: Exception) -> str | None:
    for code in _codes(exc):
        if code in _MENDS:
            return _MENDS[code]
    said = str(exc.orig if isinstance(exc, DBAPIError) else exc).lower()
    if 'database "' in said and "does not exist" in said:
        return _MENDS["3D000"]
    return next((mend for words, mend in _WORDS if words in said), None)


def is_lost_race(exc: BaseException | None) -> bool:
    """Tell whether the database gave up a transaction for another's sake."""
    return isinstance(exc, DBAPIError) and not _LOST_RACE.isdisjoint(_codes(exc))


def _codes(exc: Exception) -> list[str]:
    """Return the error's SQLSTATE, or MySQL's number for it; nothing where it has none."""
    raised = exc.orig if isinstance(exc, DBAPIError) else exc
    codes = [getattr(raised, name, None) for name in ("sqlstate", "pgcode")]
    if type(raised).__module__.partition(".")[0] not in {"sqlite3", "builtins"}:
        codes += list(getattr(raised, "args", ()))[:1]
    return [str(code) for code in codes if isinstance(code, (str, int))]
