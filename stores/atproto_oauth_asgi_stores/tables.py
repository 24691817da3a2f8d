"""The tables. Times are UTC milliseconds of the database's clock; `sealed` columns are opaque."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import sqlalchemy as sa

from atproto_oauth_asgi_stores.types import MYSQL, Ident, digest, sealed

#: The revision that these tables are at; a test compares it with the migrations.
SCHEMA_HEAD = "aoa_0002"
#: The oldest revision that this version works with: while a deployment rolls, the new processes
#: may start before the migration.
SCHEMA_MINIMUM = "aoa_0001"
#: Our own version table, so that ours never meets an app's `alembic_version`.
VERSION_TABLE = "atproto_oauth_alembic_version"
PREFIX = "atproto_oauth_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """The tables in one database schema."""

    metadata: sa.MetaData
    one_time: sa.Table
    browser: sa.Table
    session: sa.Table


@cache
def tables_in(schema: str | None = None) -> Tables:
    """Return the tables for a schema (None: wherever the connection's default is)."""
    metadata = sa.MetaData(schema=schema)
    one_time = sa.Table(
        PREFIX + "one_time",
        metadata,
        sa.Column("key_hash", digest(), nullable=False),
        sa.Column("kind", Ident(16), nullable=False),
        sa.Column("browser_hash", digest(), nullable=False),
        sa.Column("sealed", sealed()),
        sa.Column("outcome", sa.Text()),
        sa.Column("consumed", sa.BigInteger()),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key_hash", name="pk_atproto_oauth_one_time"),
        sa.Index("ix_atproto_oauth_one_time_expires", "expires"),
        **MYSQL,
    )
    browser = sa.Table(
        PREFIX + "browser",
        metadata,
        sa.Column("id", Ident(128), nullable=False),
        sa.Column("cookie_hash", digest(), nullable=False),
        sa.Column("prev_cookie_hash", digest()),
        sa.Column("prev_until", sa.BigInteger()),
        # How often the cookie changed. A session keeps the number it was born under, so that
        # the cookie before it is known not to see it, however close together the two came.
        sa.Column("rotation", sa.BigInteger(), nullable=False),
        # No foreign key: sessions point here already, and a dangling id names no session.
        sa.Column("active_session_id", Ident(128)),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("seen", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_atproto_oauth_browser"),
        sa.UniqueConstraint("cookie_hash", name="uq_atproto_oauth_browser_cookie_hash"),
        sa.Index("ix_atproto_oauth_browser_prev_cookie_hash", "prev_cookie_hash"),
        sa.Index("ix_atproto_oauth_browser_expires", "expires"),
        **MYSQL,
    )
    session = sa.Table(
        PREFIX + "session",
        metadata,
        sa.Column("id", Ident(128), nullable=False),
        sa.Column("browser_id", Ident(128)),
        sa.Column("browser_rotation", sa.BigInteger(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("did", Ident(2048), nullable=False),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("handle", sa.Text()),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("pds", sa.Text(), nullable=False),
        sa.Column("client_kid", Ident(256)),
        sa.Column("sealed_dpop_key", sealed()),
        sa.Column("sealed_tokens", sealed()),
        sa.Column("sealed_key", Ident(64)),
        sa.Column("access_expires", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("status", Ident(16), nullable=False),
        sa.Column("ended_reason", Ident(16)),
        sa.Column("ended_at", sa.BigInteger()),
        sa.Column("lease_owner", Ident(64)),
        sa.Column("lease_until", sa.BigInteger()),
        sa.Column("first_sent", sa.BigInteger()),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("refresh_after", sa.BigInteger(), nullable=False),
        sa.Column("refreshed", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("seen", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_atproto_oauth_session"),
        sa.ForeignKeyConstraint(
            ["browser_id"],
            [browser.c.id],
            name="fk_atproto_oauth_session_browser_id",
            ondelete="SET NULL",
        ),
        sa.Index("ix_atproto_oauth_session_browser_id", "browser_id"),
        sa.Index("ix_atproto_oauth_session_did", "did"),
        sa.Index("ix_atproto_oauth_session_client_kid", "client_kid"),
        sa.Index("ix_atproto_oauth_session_sealed_key", "sealed_key"),
        # The purge asks for unended rows past their end, and ended ones stay for long.
        sa.Index("ix_atproto_oauth_session_status_expires", "status", "expires"),
        sa.Index("ix_atproto_oauth_session_ended_at", "ended_at"),
        # Keeping sessions alive asks for active ones that were not refreshed for long.
        sa.Index("ix_atproto_oauth_session_status_refreshed", "status", "refreshed"),
        **MYSQL,
    )
    return Tables(metadata=metadata, one_time=one_time, browser=browser, session=session)


def version_table(name: str, schema: str | None = None) -> sa.Table:
    """Return a version table of Alembic's, which is in nobody's metadata."""
    return sa.Table(name, sa.MetaData(schema=schema), sa.Column("version_num", sa.String(32)))


def metadata_for(schema: str | None = None) -> sa.MetaData:
    """Return the metadata of our tables, for an app's own Alembic `target_metadata`."""
    return tables_in(schema).metadata
