"""A session load and a batch of the purge with a million session rows against ten thousand."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import os
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

from sqlalchemy.engine import make_url

from atproto_oauth_asgi.store import ENDED_KEPT_MS
from atproto_oauth_asgi_stores import SQLStore
from atproto_oauth_asgi_stores.records import load_query
from bench.interleave import Figure, compare
from bench.postgresql import migrated, postgresql
from tests.databases import Server

ROWS = 1_000_000
FEW = 10_000
BATCH = 500
#: How many loads at once, and over how many connections: as many as the store has for reading.
CALLERS = 64
POOL = 8
_LOADS = 100
_DAY = 86_400_000
#: Bytes of a sealed key and of sealed tokens: with the rest a row is 2.5 KB.
_KEY, _TOKENS = 170, 2_000

_FILL = """
SET session_replication_role = replica;
WITH clock AS (SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now),
     rows AS (SELECT i, md5('browser ' || i) AS browser, md5('session ' || i) AS session
              FROM generate_series({first}, {last}) i),
     browsers AS (
       INSERT INTO atproto_oauth_browser
         (id, cookie_hash, rotation, active_session_id, created, seen, expires)
       SELECT browser, sha256(('cookie ' || i)::bytea), 0, session, now, now, {browser_expires}
       FROM rows, clock WHERE {in_browser})
INSERT INTO atproto_oauth_session
  (id, browser_id, browser_rotation, client_id, did, issuer, handle, scope, pds, sealed_dpop_key,
   sealed_tokens, sealed_key, access_expires, version, status, ended_reason, ended_at, attempts,
   failures, refresh_after, refreshed, created, seen, expires)
SELECT session, CASE WHEN {in_browser} THEN browser END, 0,
       'https://app.birdsong.dev/oauth/client-metadata.json',
       'did:plc:' || left(md5('did ' || i), 24), 'https://bsky.social',
       'user' || i || '.bsky.social',
       'atproto transition:generic', 'https://morel.us-east.host.bsky.network',
       substr(noise, 1 + i % 997, {key}), substr(noise, 1 + i % 991, {tokens}), 'k1',
       now + 3600000, 1, '{status}', {reason}, {ended_at}, 0, 0, now, now, now, now, {expires}
FROM rows, clock, (SELECT decode('{noise}', 'hex') AS noise) AS bytes;
"""

#: What is over, each a kind that the purge deals with in its own way.
_LIVE: Mapping[str, str] = {
    "status": "active",
    "reason": "NULL",
    "ended_at": "NULL",
    "expires": f"now + {_DAY} + i",
    "browser_expires": f"now + {_DAY} + i",
    "in_browser": "true",
}
_OVER: Mapping[str, Mapping[str, str]] = {
    "nothing over": {},
    "500 sessions": {**_LIVE, "expires": "now - 1000"},
    "500 browsers": {**_LIVE, "browser_expires": "now - 1000"},
    "500 ended rows": {
        **_LIVE,
        "status": "ended",
        "reason": "'logout'",
        "ended_at": f"now - {ENDED_KEPT_MS} - 1000",
        "in_browser": "false",
    },
}


# asyncpg has no types of its own.
class _Pool(Protocol):
    async def fetchrow(self, query: str, *arguments: object) -> object: ...


class _Asyncpg(Protocol):
    def create_pool(
        self, url: str, /, *, min_size: int, max_size: int
    ) -> AbstractAsyncContextManager[_Pool]: ...


@dataclass(frozen=True, slots=True)
class Growth:
    """What the same work took by the clock with few rows and with many."""

    name: str
    few: float
    many: float
    #: Median over rounds of the time with many rows / with few.
    ratio: float

    def __str__(self) -> str:
        return (
            f"  {self.name:<30} few rows {self.few:8.3f} ms   many rows {self.many:8.3f} ms"
            f"   ratio {self.ratio:6.2f}"
        )


class Place:
    """A database with so many sessions, of which one can be loaded and some can be over."""

    def __init__(self, server: Server, database: str, rows: int) -> None:
        self._server = server
        self._database = database
        self._rows = self._last = rows
        self.url = server.url(database)
        self.store = SQLStore(server.url(database, "asyncpg"))

    @classmethod
    async def filled(cls, server: Server, rows: int) -> Place:
        place = cls(server, await migrated(server), rows)
        await asyncio.to_thread(place._fill, 1, rows, _LIVE)
        for table in ("browser", "session"):
            place._run(f"VACUUM ANALYZE atproto_oauth_{table}")
        place._run("CHECKPOINT")
        return place

    def _run(self, sql: str) -> None:
        self._server.run(sql, self._database)

    def _fill(self, first: int, last: int, how: Mapping[str, str]) -> None:
        noise = os.urandom(_TOKENS + 1_000).hex()
        self._run(
            _FILL.format(first=first, last=last, noise=noise, key=_KEY, tokens=_TOKENS, **how)
        )

    def cookie(self) -> bytes:
        return hashlib.sha256(b"cookie %d" % random.randint(1, self._rows)).digest()

    async def load(self) -> float:
        """Load sessions one after the other and return the median in milliseconds."""
        times: list[float] = []
        for _ in range(_LOADS):
            cookie = self.cookie()
            start = time.perf_counter()
            loaded = await self.store.load(cookie)
            times.append((time.perf_counter() - start) * 1000)
            assert loaded is not None
            assert loaded.session is not None
        return statistics.median(times)

    async def purge(self, how: Mapping[str, str]) -> float:
        """Purge a batch that is over and return the milliseconds that it took."""
        if how:
            await asyncio.to_thread(self._fill, self._last + 1, self._last + BATCH, how)
            self._last += BATCH
        start = time.perf_counter()
        done = await self.store.purge_expired(BATCH)
        took = (time.perf_counter() - start) * 1000
        assert done == (BATCH if how else 0), done
        return took


async def measure(*, rounds: int, rows: int = ROWS, few: int = FEW) -> Sequence[Growth | Figure]:
    """Return the figures; goals: ratios near 1 for more rows, 0.35 of raw asyncpg for the load."""
    with postgresql() as server:
        small, large = await Place.filled(server, few), await Place.filled(server, rows)
        try:
            growth = [await _grown("load by cookie", small.load, large.load, rounds)]
            for name, how in _OVER.items():
                growth.append(
                    await _grown(
                        f"purge, {name}",
                        partial(small.purge, how),
                        partial(large.purge, how),
                        rounds,
                    )
                )
            return [*growth, *await _beside_raw(large, rounds)]
        finally:
            await small.store.aclose()
            await large.store.aclose()


async def _grown(
    name: str,
    small: Callable[[], Awaitable[float]],
    large: Callable[[], Awaitable[float]],
    rounds: int,
) -> Growth:
    few: list[float] = []
    many: list[float] = []
    # The first round finds cold caches and unprepared statements.
    for number in range(rounds + 1):
        for run, times in random.sample([(small, few), (large, many)], 2):
            took = await run()
            if number:
                times.append(took)
    return Growth(
        name=name,
        few=statistics.median(few),
        many=statistics.median(many),
        ratio=statistics.median(m / f for f, m in zip(few, many, strict=True)),
    )


async def _beside_raw(place: Place, rounds: int) -> list[Figure]:
    query = load_query(place.store.tables)
    compiled = query.compile(dialect=make_url("postgresql+asyncpg://").get_dialect()())
    text, names = compiled.string, compiled.positiontup or []

    asyncpg = cast("_Asyncpg", importlib.import_module("asyncpg"))
    async with asyncpg.create_pool(place.url, min_size=POOL, max_size=POOL) as pool:

        async def raw() -> None:
            cookie = place.cookie()
            arguments = [cookie if n == "cookie" else compiled.params[n] for n in names]
            assert await pool.fetchrow(text, *arguments) is not None

        async def load() -> None:
            assert await place.store.load(place.cookie()) is not None

        return await compare(
            [
                (f"raw asyncpg fetchrow, {CALLERS} callers", _at_once(raw)),
                (f"load by cookie, {CALLERS} callers", _at_once(load)),
            ],
            rounds=rounds,
            operations=CALLERS * 10,
        )


def _at_once(work: Callable[[], Awaitable[None]]) -> Callable[[int], Awaitable[None]]:
    async def caller(count: int) -> None:
        for _ in range(count):
            await work()

    async def run(count: int) -> None:
        await asyncio.gather(*(caller(max(1, count // CALLERS)) for _ in range(CALLERS)))

    return run
