"""Column types that compare byte by byte on every database."""

from __future__ import annotations

from typing import TypedDict

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine


class _TableOptions(TypedDict):
    mysql_engine: str
    mysql_default_charset: str
    mysql_collate: str
    mariadb_engine: str
    mariadb_default_charset: str
    mariadb_collate: str


#: Of every table: other engines have no row locks, and other character sets no emoji.
MYSQL = _TableOptions(
    mysql_engine="InnoDB",
    mysql_default_charset="utf8mb4",
    mysql_collate="utf8mb4_bin",
    mariadb_engine="InnoDB",
    mariadb_default_charset="utf8mb4",
    mariadb_collate="utf8mb4_bin",
)


class Ident(TypeDecorator[str]):
    """Is an id, a DID or a short name: compared and sorted by its UTF-8 bytes.

    The default collations of MySQL ignore case and trailing spaces, and those of PostgreSQL sort
    by language; an id must do neither.

    Args:
        length: How long it may be, in bytes.
    """

    impl = sa.String
    cache_ok = True

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[str] | TypeEngine[bytes]:
        """Choose the column type (called by SQLAlchemy)."""
        if dialect.name in {"mysql", "mariadb"}:
            return dialect.type_descriptor(sa.VARBINARY(self.length))
        if dialect.name == "postgresql":
            return dialect.type_descriptor(sa.String(self.length, collation="C"))
        return dialect.type_descriptor(sa.String(self.length))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | bytes | None:
        """Encode where the column is binary (called by SQLAlchemy)."""
        if value is not None and dialect.name in {"mysql", "mariadb"}:
            return value.encode()
        return value

    def process_result_value(
        self,
        value: str | bytes | None,
        dialect: Dialect,  # noqa: ARG002 - SQLAlchemy passes it by this name
    ) -> str | None:
        """Decode where the column is binary (called by SQLAlchemy)."""
        return value.decode() if isinstance(value, bytes) else value


def digest() -> TypeEngine[bytes]:
    """Return the type of a SHA-256 hash."""
    return sa.LargeBinary(32).with_variant(sa.VARBINARY(32), "mysql", "mariadb")


def sealed() -> TypeEngine[bytes]:
    """Return the type of a sealed payload; MySQL's BLOB would end at 64 KiB."""
    return sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
