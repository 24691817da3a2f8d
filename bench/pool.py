"""Session loads beside refreshes in flight, over one small pool: the lease against FOR UPDATE.

Twenty sessions are refreshed at once over ten connections, while the token endpoint takes half a
second. Loads of another session start at a steady pace, and each is timed from its start, so that
one which waits hides no other.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import httpx
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from starlette.applications import Starlette

from atproto_oauth_asgi import ATProtoOAuth, ATProtoOAuthMiddleware
from atproto_oauth_asgi.sessions import cookie_hash
from atproto_oauth_asgi.store import Refreshed, SessionRecord
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi_stores import SQLStore
from atproto_oauth_asgi_stores.records import record, session_query
from bench.postgresql import migrated, postgresql

REFRESHES = 20
POOL = 10
TOKEN_SECONDS = 0.5
#: Between the start of one load and the next.
PACE = 0.01
_BASE = "https://app.birdsong.dev"
_OTHER = "other.test"


class HoldingStore(SQLStore):
    """Holds the row locked, and so a connection, from before the token request until after it."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine)
        self._engine = engine
        self._held: dict[str, AsyncConnection] = {}

    async def acquire_refresh(
        self,
        session_id: str,
        /,
        *,
        version: int,
        owner: str,
        lease_ms: int,
        watched: tuple[str, int] | None = None,
    ) -> bool:
        del lease_ms, watched
        row = self.tables.session.c
        connection = await self._engine.connect()
        locked = await connection.execute(
            sa.select(row.version).where(row.id == session_id).with_for_update()
        )
        if locked.scalar_one() != version:
            await connection.close()
            return False
        await connection.execute(
            sa.update(self.tables.session).where(row.id == session_id).values(lease_owner=owner)
        )
        self._held[session_id] = connection
        return True

    async def load_session(self, session_id: str, /) -> SessionRecord | None:
        connection = self._held.get(session_id)
        if connection is None:
            return await super().load_session(session_id)
        query = session_query(self.tables)
        return record((await connection.execute(query, {"session": session_id})).one())

    async def mark_refresh(
        self, session_id: str, /, *, version: int, owner: str, lease_ms: int, first: bool
    ) -> bool:
        del version, owner, lease_ms, first
        return session_id in self._held

    async def commit_refresh(
        self, session_id: str, /, *, version: int, owner: str, refreshed: Refreshed
    ) -> bool:
        row = self.tables.session.c
        connection = self._held.pop(session_id)
        try:
            await connection.execute(
                sa.update(self.tables.session)
                .where(row.id == session_id)
                .values(
                    sealed_tokens=refreshed.sealed_tokens,
                    sealed_key=refreshed.sealed_key,
                    version=version + 1,
                    lease_owner=owner,
                )
            )
            await connection.commit()
        finally:
            await connection.close()
        return True

    async def release_refresh(
        self, session_id: str, /, *, version: int, owner: str, wait_ms: int | None, unspent: bool
    ) -> bool:
        del version, owner, wait_ms, unspent
        connection = self._held.pop(session_id, None)
        if connection is not None:
            await connection.close()
        return connection is not None


@dataclass(frozen=True, slots=True)
class Loads:
    """How long unrelated loads took, as medians over rounds."""

    name: str
    p50: float
    worst: float
    #: Of a round's worst to the idle round's worst, and of its median to the idle one's.
    worst_ratio: float
    p50_ratio: float
    #: The worst of all rounds.
    ever: float

    def __str__(self) -> str:
        return (
            f"  {self.name:<30} p50 {self.p50:8.2f} ms   worst {self.worst:8.2f} ms"
            f"   ratio to idle: worst {self.worst_ratio:7.2f}, p50 {self.p50_ratio:7.2f}"
            f"   (worst of all rounds {self.ever:.2f} ms)"
        )


async def measure(
    *, rounds: int, refreshes: int = REFRESHES, token_seconds: float = TOKEN_SECONDS
) -> list[Loads]:
    """Return the figures; goal: the worst load beside the lease takes at most 50 ms."""
    with postgresql() as server:
        url = server.url(await migrated(server), "asyncpg")
        async with AsyncExitStack() as stack:
            bench = _Bench(url, refreshes, token_seconds)
            await bench.set_up(stack)
            return await bench.measure(rounds)


class _Bench:
    def __init__(self, url: str, refreshes: int, token_seconds: float) -> None:
        self._url = url
        self._seconds = token_seconds
        self._handles = [f"user{number}.test" for number in range(refreshes)]
        self._network = Network([*self._handles, _OTHER])
        self._engines: dict[str, AsyncEngine] = {}
        self._apps: dict[str, ATProtoOAuth] = {}
        self._cookie = b""

    async def set_up(self, stack: AsyncExitStack) -> None:
        makers: tuple[tuple[str, Callable[[AsyncEngine], SQLStore]], ...] = (
            ("lease", SQLStore),
            ("FOR UPDATE", HoldingStore),
        )
        for name, make in makers:
            engine = create_async_engine(self._url, pool_size=POOL, max_overflow=0)
            stack.push_async_callback(engine.dispose)
            oauth = ATProtoOAuth(
                _BASE,
                store=make(engine),
                secret_keys=(b"k" * 32,),
                net_policy=self._network.policy(),
            )
            await stack.enter_async_context(oauth)
            self._engines[name], self._apps[name] = engine, oauth
        oauth = self._apps["lease"]
        app = ATProtoOAuthMiddleware(Starlette(), oauth=oauth)
        self._network.register_client_app(_BASE, app)
        for handle in (*self._handles, _OTHER):
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url=_BASE
            ) as browser:
                begun = await browser.post(
                    "/oauth/login", data={"identifier": handle}, headers={"origin": _BASE}
                )
                await browser.get(self._network.approve(begun.headers["location"], handle))
                self._cookie = cookie_hash(browser.cookies[oauth.cookies.session])

    async def measure(self, rounds: int) -> list[Loads]:
        cases: dict[str, Callable[[], Coroutine[object, object, list[float]]]] = {
            "idle": self._idle,
            "lease": lambda: self._beside("lease"),
            "FOR UPDATE": lambda: self._beside("FOR UPDATE"),
        }
        times: dict[str, list[list[float]]] = {name: [] for name in cases}
        for case in cases.values():
            await case()
        for _ in range(rounds):
            for name in random.sample(list(cases), len(cases)):
                times[name].append(await cases[name]())
        idle = times["idle"]
        return [
            Loads(
                name="idle" if name == "idle" else f"{len(self._handles)} refreshes, {name}",
                p50=statistics.median(map(statistics.median, own)),
                worst=statistics.median(map(max, own)),
                worst_ratio=_ratio(list(map(max, own)), list(map(max, idle))),
                p50_ratio=_ratio(
                    list(map(statistics.median, own)), list(map(statistics.median, idle))
                ),
                ever=max(map(max, own)),
            )
            for name, own in times.items()
        ]

    async def _idle(self) -> list[float]:
        return await self._loads("lease", asyncio.sleep(self._seconds * 1.2))

    async def _beside(self, name: str) -> list[float]:
        async with self._engines[name].begin() as connection:
            await connection.execute(
                sa.text(
                    "UPDATE atproto_oauth_session SET refresh_after = 0, access_expires = 0, "
                    "lease_owner = NULL, lease_until = NULL, attempts = 0"
                )
            )
        before = len(self._network.token_requests("refresh_token"))
        self._network.faults.delay(self._seconds, times=len(self._handles), grant="refresh_token")
        times = await self._loads(name, self._refresh_all(name))
        made = len(self._network.token_requests("refresh_token")) - before
        assert made == len(self._handles), f"{made} token requests"
        return times

    async def _refresh_all(self, name: str) -> None:
        runtime = self._apps[name].runtime()
        lives = [
            runtime.sessions.live(record)
            for handle in self._handles
            for record in await runtime.sessions.of_account(self._network.account(handle).did)
        ]
        for live in lives:
            # As in a process that sees the row for the first time.
            live.version = 0
            found = await runtime.store.load_session(live.id)
            assert found is not None
            live.adopt(found)
        flights = [runtime.upkeep.begin(live) for live in lives]
        await asyncio.gather(*(one.task for one in flights if one is not None and one.task))

    async def _loads(self, name: str, work: Coroutine[object, object, None]) -> list[float]:
        store = self._apps[name].core.store
        times: list[float] = []

        async def load() -> None:
            start = time.perf_counter()
            assert await store.load(self._cookie) is not None
            times.append((time.perf_counter() - start) * 1000)

        working = asyncio.create_task(work)
        loads: list[asyncio.Task[None]] = []
        while not working.done():
            loads.append(asyncio.create_task(load()))
            await asyncio.sleep(PACE)
        await asyncio.gather(working, *loads)
        return times


def _ratio(own: Sequence[float], idle: Sequence[float]) -> float:
    return statistics.median(o / i for o, i in zip(own, idle, strict=True))
