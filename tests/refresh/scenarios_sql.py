"""The refresh on a real database file."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import sqlalchemy as sa
from sqlalchemy import Connection, event
from sqlalchemy.engine.interfaces import DBAPICursor, ExecutionContext
from sqlalchemy.pool import QueuePool

from atproto_oauth_asgi import ATProtoOAuth
from atproto_oauth_asgi.live import LiveSession
from atproto_oauth_asgi.runtime import Runtime
from atproto_oauth_asgi.store import SessionFilter
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi_migrations import migrate_empty
from atproto_oauth_asgi_stores import SQLStore
from tests.app.world import BASE_URL, world
from tests.refresh import fleet as fleets
from tests.refresh.fleet import SECRET_KEYS, within
from tests.refresh.sentences import shows

DRIVER = "the driver has a thread for each connection"


@dataclass(slots=True)
class InDatabase:
    network: Network
    store: SQLStore
    runtime: Runtime
    live: LiveSession

    async def refresh(self) -> None:
        flight = self.runtime.upkeep.begin(self.live)
        assert flight is not None
        assert flight.task is not None
        await within(60, asyncio.wait({flight.task}))


@asynccontextmanager
async def in_database(url: str, store: SQLStore) -> AsyncGenerator[InDatabase, None]:
    """Log alice in, let her access token run out, and go on with another store."""
    network = Network()
    first = SQLStore(url)
    async with world(network, store=first, secret_keys=SECRET_KEYS) as here:
        await here.login()
        await first.change(
            sa.update(first.tables.session).values(access_expires=1, refresh_after=1)
        )
    await first.aclose()
    network.log.clear()
    async with ATProtoOAuth(
        BASE_URL,
        store=store,
        timing=fleets.TIMING,
        net_policy=network.policy(),
        secret_keys=SECRET_KEYS,
    ) as oauth:
        runtime = oauth.runtime()
        (record,) = await store.list_sessions(SessionFilter())
        yield InDatabase(network, store, runtime, runtime.sessions.live(record))


@asynccontextmanager
async def on_disk(path: Path | None = None) -> AsyncGenerator[InDatabase, None]:
    """Do so on a SQLite file."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{path or Path(folder) / 'store.db'}"
        await asyncio.to_thread(lambda: asyncio.run(migrate_empty(url)))
        async with in_database(url, SQLStore(url)) as here:
            yield here


@shows("6.2.connection", without=("a connection is held",), real_time=DRIVER)
async def no_connection_is_held_while_servers_are_asked() -> None:
    async with on_disk() as here:
        engines = await here.store.engines()
        pools = [
            cast("QueuePool", engine.sync_engine.pool)
            for engine in (engines.reader, engines.writer)
        ]
        held: list[int] = []
        async with (
            here.network.hold(f"/{here.live.did}") as looking,
            here.network.pause_token_endpoint("refresh_token") as posting,
        ):
            refreshing = asyncio.create_task(here.refresh())
            for pause in (looking, posting):
                await within(30, pause.arrived())
                held.append(sum(pool.checkedout() for pool in pools))
                pause.release()
            await within(60, refreshing)

        assert held == [0, 0]
        assert here.live.version == 2


@shows("6.2.rowcount", "6.2.transaction", without=(
    "writes return rows", "writes read first", "a refresh is one transaction",
), real_time=DRIVER)  # fmt: skip
async def each_write_is_one_guarded_update_in_its_own_transaction() -> None:
    async with on_disk() as here:
        engines = await here.store.engines()
        statements: list[str] = []

        def note(
            _connection: Connection,
            _cursor: DBAPICursor,
            statement: str,
            _parameters: object,
            _context: ExecutionContext | None,
            _many: bool,
        ) -> None:
            statements.append(statement.split(maxsplit=1)[0])
            if " RETURNING " in f" {' '.join(statement.split())} ".upper():
                statements.append("RETURNING")

        def ended(_connection: Connection) -> None:
            statements.append("COMMIT")

        event.listen(engines.writer.sync_engine, "before_cursor_execute", note)
        event.listen(engines.writer.sync_engine, "commit", ended)
        await here.refresh()

        # Acquire, two marks (the second after the nonce challenge), and the commit.
        assert statements == ["BEGIN", "UPDATE", "COMMIT"] * 4
        assert here.live.version == 2
