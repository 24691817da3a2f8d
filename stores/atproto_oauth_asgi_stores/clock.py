"""The one clock that every process shares: the database's, read by the statement itself."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class now_ms(FunctionElement[int]):  # noqa: N801 - reads as the SQL function it is
    """Is the time in UTC milliseconds at which the statement runs, by the database's clock."""

    type = sa.BigInteger()
    inherit_cache = True


@compiles(now_ms, "sqlite")
def _sqlite(_element: now_ms, _compiler: SQLCompiler, **_kw: Any) -> str:
    # A double holds a Julian day to 40 microseconds; unixepoch('subsec') needs SQLite 3.42.
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"


@compiles(now_ms, "postgresql")
def _postgresql(_element: now_ms, _compiler: SQLCompiler, **_kw: Any) -> str:
    # now() stands still for a whole transaction, and so for a statement that waited for a lock.
    return "CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS BIGINT)"


@compiles(now_ms, "mysql")
@compiles(now_ms, "mariadb")
def _mysql(_element: now_ms, _compiler: SQLCompiler, **_kw: Any) -> str:
    # UNIX_TIMESTAMP(NOW(3)) is ambiguous for an hour each autumn in the session's time zone, and
    # so is SYSDATE. This is when the statement started: one that waited for a lock counts its
    # durations from before the wait, so leases and lives come out shorter and never longer.
    return "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000)"
