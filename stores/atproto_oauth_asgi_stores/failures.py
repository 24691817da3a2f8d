"""What a driver's error means to the core."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError, StatementError

from atproto_oauth_asgi.errors import StoreError, StoreUnavailable

#: What SQLite says, and how to mend it.
_MENDS = (
    ("database is locked", "another process keeps the database locked; end it or wait for it"),
    ("readonly database", "the database is read-only; give this process write permission"),
    ("disk is full", "the disk is full; make room on it"),
    ("disk i/o error", "the disk reports errors; check it and its free space"),
    ("unable to open", "the database file cannot be opened; check its folder and permissions"),
    ("not a database", "the file is not an SQLite database; check the store's URL"),
    ("malformed", "the database file is damaged; restore a backup"),
    ("no such table", "a table is missing; run `atproto-oauth-asgi db upgrade`"),
)
#: SQLSTATE of a serialization failure and of a deadlock; MySQL's number of the latter.
_LOST_RACE = frozenset({"40001", "40P01", "1213"})


@contextmanager
def driver_errors_translated() -> Generator[None]:
    """Raise `StoreUnavailable`, or `StoreError` for a broken constraint, for driver errors."""
    try:
        yield
    except (SQLAlchemyError, OSError) as exc:
        raise translate(exc) from exc


def translate(exc: SQLAlchemyError | OSError) -> StoreError:
    """Return the error to raise from a driver's error."""
    if isinstance(exc, StatementError):
        # The parameters are sealed bytes and hashes; an engine that we were given may print them.
        exc.hide_parameters = True
    if isinstance(exc, IntegrityError):
        return StoreError("An id, key or cookie exists already; make a new random one.")
    said = str(exc.orig if isinstance(exc, DBAPIError) else exc).lower()
    for words, mend in _MENDS:
        if words in said:
            return StoreUnavailable(f"The store cannot be used: {mend}.")
    return StoreUnavailable(
        f"The store's database does not answer ({type(exc).__name__}); check that it runs and "
        "that the store's URL names it."
    )


def is_lost_race(exc: BaseException | None) -> bool:
    """Tell whether the database gave up a transaction for another's sake."""
    if not isinstance(exc, DBAPIError):
        return False
    codes = [getattr(exc.orig, name, None) for name in ("sqlstate", "pgcode")]
    codes += list(getattr(exc.orig, "args", ()))[:1]
    return any(str(code) in _LOST_RACE for code in codes)
