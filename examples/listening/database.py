"""The app's own tables. People are filed under their DID, never under their handle."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

from sqlalchemy import ForeignKey, MetaData
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

DATABASE_URL = os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///listening.db")

engine = create_async_engine(DATABASE_URL)
sessions = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "ix": "ix_%(table_name)s_%(column_0_name)s",
        }
    )


class User(Base):
    __tablename__ = "users"

    did: Mapped[str] = mapped_column(primary_key=True)
    #: For display; it changes hands, and there may be none.
    handle: Mapped[str | None]
    closed: Mapped[bool] = mapped_column(default=False)


class Play(Base):
    __tablename__ = "plays"

    id: Mapped[int] = mapped_column(primary_key=True)
    did: Mapped[str] = mapped_column(ForeignKey("users.did"), index=True)
    artist: Mapped[str]
    track: Mapped[str]
    #: In UTC.
    played: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC).replace(tzinfo=None))
    #: Of the record in the person's repository, once it is there.
    uri: Mapped[str | None] = mapped_column(default=None)


async def database() -> AsyncGenerator[AsyncSession]:
    async with sessions() as session:
        yield session


async def welcome(did: str, handle: str | None) -> User:
    """Make or update a person's row; two logins at the same moment make one."""
    for last in (False, True):
        async with sessions() as session:
            user = await session.get(User, did)
            if user is None:
                user = User(did=did, closed=False)
                session.add(user)
            user.handle = handle
            try:
                await session.commit()
            except IntegrityError:
                if last:
                    raise
            else:
                return user
    raise AssertionError("unreachable")
