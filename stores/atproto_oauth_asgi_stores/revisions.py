"""What revision the tables are at, and whether that will do."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection

from atproto_oauth_asgi.errors import SchemaOutOfDate
from atproto_oauth_asgi_stores.primary import judge_read_only, read_only, refuse_read_only
from atproto_oauth_asgi_stores.tables import (
    SCHEMA_HEAD,
    SCHEMA_MINIMUM,
    VERSION_TABLE,
    version_table,
)

_log = logging.getLogger("atproto_oauth_asgi.store")
_OURS = re.compile(r"aoa_(\d+)")
#: Alembic's own, where the row of ours is when an app runs our revisions with its own.
APP_VERSION_TABLE = "alembic_version"


async def revisions_in(connection: AsyncConnection, schema: str | None) -> Sequence[str]:
    """Read our revisions from our version table, or else from the app's.

    Raises:
        StoreUnavailable: the server takes no writes; it is asked in the same statement.
    """
    ours = version_table(VERSION_TABLE, schema)
    try:
        found = (await connection.execute(sa.select(ours.c.version_num, read_only()))).all()
    except (OperationalError, ProgrammingError) as exc:
        if exc.connection_invalidated:
            raise
        # Either there is no such table, or this raises as well.
        if await connection.run_sync(lambda c: sa.inspect(c).has_table(VERSION_TABLE, schema)):
            raise
    else:
        judge_read_only(any(refused for _, refused in found))
        return [revision for revision, _ in found]
    await refuse_read_only(connection)
    return await connection.run_sync(lambda c: revisions_of_app(c, schema))


def revisions_of_app(connection: sa.Connection, schema: str | None) -> Sequence[str]:
    """Read our revisions from the version table of the app's own Alembic, if there is one."""
    for place in dict.fromkeys((schema, None)):
        if sa.inspect(connection).has_table(APP_VERSION_TABLE, place):
            theirs = version_table(APP_VERSION_TABLE, place)
            everything = connection.scalars(sa.select(theirs.c.version_num)).all()
            found = [one for one in everything if _OURS.fullmatch(one)]
            if found:
                return found
    return ()


def judge_revision(found: Sequence[str]) -> None:
    """Refuse a schema that is missing or too old; say so of one that is newer, and go on.

    A newer one is what the old processes see while a deployment rolls.
    """
    if SCHEMA_HEAD in found:
        return
    least = _number(SCHEMA_MINIMUM)
    numbers = [_number(one) for one in found]
    if not found or max(numbers) < least:
        state = f"at {found[0]}, behind {SCHEMA_MINIMUM}" if found else "not there yet"
        raise SchemaOutOfDate(
            f"The store's tables are {state}: run `atproto-oauth-asgi db upgrade` (or your own "
            "Alembic, if it runs our revisions)."
        )
    if max(numbers) < _number(SCHEMA_HEAD):
        _log.info("schema.behind", extra={"found": list(found), "known": SCHEMA_HEAD})
        return
    # The tables were made by a newer version of atproto-oauth-asgi: upgrade this one.
    _log.warning("schema.newer", extra={"found": list(found), "known": SCHEMA_HEAD})


def _number(revision: str) -> float:
    """Return a revision's place in their order; one that is not of our making is from later."""
    ours = _OURS.fullmatch(revision)
    return int(ours[1]) if ours else float("inf")
