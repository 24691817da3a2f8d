"""Faults that only a database server brings to light."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles

from atproto_oauth_asgi.errors import StoreError
from atproto_oauth_asgi_stores import SQLStore, clock, database, primary, refreshes, revisions
from atproto_oauth_asgi_stores.failures import driver_errors_translated
from tests.refresh.faults import fault, nothing


@fault("commits wait for the pool")
def _commits_wait(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SQLStore, "change_surely", SQLStore.change)


@fault("the clock stands still in a statement")
def _transaction_clock(patch: pytest.MonkeyPatch) -> None:
    class now_of_transaction(clock.now_ms):  # noqa: N801 - reads as the SQL function it is
        inherit_cache = True

    def compiled(*_args: Any, **_kw: Any) -> str:
        return "CAST(floor(extract(epoch FROM now()) * 1000) AS BIGINT)"

    compiles(now_of_transaction, "postgresql")(compiled)
    patch.setattr(refreshes, "now_ms", now_of_transaction)


@fault("replicas are taken for primaries")
def _any_server(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(primary, "judge_read_only", nothing)
    patch.setattr(revisions, "judge_read_only", nothing)


@fault("the next try is made in the same transaction")
def _same_transaction(patch: pytest.MonkeyPatch) -> None:
    async def faulty(
        self: Any, write: Callable[[AsyncConnection], Awaitable[Any]], **_: Any
    ) -> object:
        engines = await self.engines()
        with driver_errors_translated():
            async with engines.writer.begin() as connection:
                return await again(connection, write)

    async def again(
        connection: AsyncConnection, write: Callable[[AsyncConnection], Awaitable[Any]]
    ) -> object:
        for _ in range(database.RACES - 1):
            try:
                with driver_errors_translated():
                    return await write(connection)
            except StoreError:
                continue
        return await write(connection)

    patch.setattr(SQLStore, "transact", faulty)
