"""Make the first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from atproto_oauth_asgi_migrations.target import schema
from atproto_oauth_asgi_stores.types import MYSQL, Ident, digest, sealed

revision = "aoa_0001"
down_revision = None
branch_labels = ("atproto_oauth_asgi",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "atproto_oauth_one_time",
        sa.Column("key_hash", digest(), nullable=False),
        sa.Column("kind", Ident(16), nullable=False),
        sa.Column("browser_hash", digest(), nullable=False),
        sa.Column("sealed", sealed()),
        sa.Column("outcome", sa.Text()),
        sa.Column("consumed", sa.BigInteger()),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key_hash", name="pk_atproto_oauth_one_time"),
        schema=schema(),
        **MYSQL,
    )
    op.create_table(
        "atproto_oauth_browser",
        sa.Column("id", Ident(128), nullable=False),
        sa.Column("cookie_hash", digest(), nullable=False),
        sa.Column("prev_cookie_hash", digest()),
        sa.Column("prev_until", sa.BigInteger()),
        sa.Column("rotation", sa.BigInteger(), nullable=False),
        sa.Column("active_session_id", Ident(128)),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("seen", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_atproto_oauth_browser"),
        sa.UniqueConstraint("cookie_hash", name="uq_atproto_oauth_browser_cookie_hash"),
        schema=schema(),
        **MYSQL,
    )
    op.create_table(
        "atproto_oauth_session",
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
            [f"{schema()}.atproto_oauth_browser.id" if schema() else "atproto_oauth_browser.id"],
            name="fk_atproto_oauth_session_browser_id",
            ondelete="SET NULL",
        ),
        schema=schema(),
        **MYSQL,
    )
    for table, name, columns in INDEXES:
        op.create_index(
            f"ix_atproto_oauth_{table}_{name}", f"atproto_oauth_{table}", columns, schema=schema()
        )


INDEXES = (
    ("one_time", "expires", ["expires"]),
    ("browser", "prev_cookie_hash", ["prev_cookie_hash"]),
    ("browser", "expires", ["expires"]),
    ("session", "browser_id", ["browser_id"]),
    ("session", "did", ["did"]),
    ("session", "client_kid", ["client_kid"]),
    ("session", "sealed_key", ["sealed_key"]),
    ("session", "status_expires", ["status", "expires"]),
    ("session", "ended_at", ["ended_at"]),
)


def downgrade() -> None:
    for table in ("session", "browser", "one_time"):
        op.drop_table(f"atproto_oauth_{table}", schema=schema())
