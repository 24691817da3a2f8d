"""Users and plays."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "listening_0001"
down_revision = None
branch_labels = ("listening",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("did", sa.String(), nullable=False),
        sa.Column("handle", sa.String(), nullable=True),
        sa.Column("closed", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("did", name="pk_users"),
    )
    op.create_table(
        "plays",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("did", sa.String(), nullable=False),
        sa.Column("artist", sa.String(), nullable=False),
        sa.Column("track", sa.String(), nullable=False),
        sa.Column("played", sa.DateTime(), nullable=False),
        sa.Column("uri", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["did"], ["users.did"], name="fk_plays_did"),
        sa.PrimaryKeyConstraint("id", name="pk_plays"),
    )
    op.create_index("ix_plays_did", "plays", ["did"])


def downgrade() -> None:
    op.drop_table("plays")
    op.drop_table("users")
