"""Whether the database may be written to: a refresh that reads from a replica loses sessions."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from atproto_oauth_asgi.errors import StoreUnavailable
from atproto_oauth_asgi_stores.failures import READ_ONLY


class read_only(FunctionElement[bool]):  # noqa: N801 - reads as the SQL function it is
    """Is whether the server that runs the statement takes no writes."""

    type = sa.Boolean()
    inherit_cache = True


@compiles(read_only, "sqlite")
def _sqlite(_element: read_only, _compiler: SQLCompiler, **_kw: Any) -> str:
    # A file has no replicas; one without permission says so when it is written.
    return "0"


@compiles(read_only, "postgresql")
def _postgresql(_element: read_only, _compiler: SQLCompiler, **_kw: Any) -> str:
    # On a standby it is on, whatever anybody set.
    return "(coalesce(current_setting('transaction_read_only', true), 'off') = 'on')"


@compiles(read_only, "mysql")
@compiles(read_only, "mariadb")
def _mysql(_element: read_only, _compiler: SQLCompiler, **_kw: Any) -> str:
    # Asked of the server and not of the user: administrators may write on replicas all the same.
    # Newer servers of MariaDB answer with words.
    return (
        "(CONCAT(@@global.read_only) NOT IN ('0', 'OFF')"
        " OR CONCAT(@@global.innodb_read_only) NOT IN ('0', 'OFF'))"
    )


async def refuse_read_only(connection: AsyncConnection) -> None:
    """Ask the server whether it takes writes.

    Raises:
        StoreUnavailable: it does not.
    """
    judge_read_only(await connection.scalar(sa.select(read_only())))


def judge_read_only(answer: object) -> None:
    """Raise `StoreUnavailable` for a server that takes no writes."""
    if answer:
        raise StoreUnavailable(f"The store cannot be used: {READ_ONLY}.")
