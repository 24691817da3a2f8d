"""Workers are killed and paused, the database and the token endpoint fail: the log decides.

`CHAOS_SEED` repeats a run as far as chance allows; `CHAOS_OPERATIONS` makes it longer, and
`CHAOS_DATABASE=mariadb` runs it there.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
import sqlalchemy as sa

from atproto_oauth_asgi import ATProtoOAuth
from atproto_oauth_asgi.errors import ATProtoOAuthError, NoSession, SessionRevoked
from atproto_oauth_asgi.store import SessionFilter, SessionRecord
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi_migrations import upgrade
from atproto_oauth_asgi_migrations.run import on_url
from atproto_oauth_asgi_stores import SQLStore
from tests.chaos.app_worker import Fault, JournalStore, Options, oauth_of, prepare
from tests.chaos.judge import Judge, Verdict
from tests.chaos.people import Person, Told
from tests.chaos.witness import TokenTrouble, Witness
from tests.chaos.workers import Workers
from tests.databases import Server
from tests.proxy import Proxy
from tests.refresh.fleet import GET_SESSION, SECRET_KEYS

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SEED = os.environ.get("CHAOS_SEED") or str(secrets.randbits(32))
OPERATIONS = int(os.environ.get("CHAOS_OPERATIONS", "600"))
DATABASE = os.environ.get("CHAOS_DATABASE", "postgresql")
#: Words of the statement that stores new tokens, and of no other.
COMMIT = (b"UPDATE atproto_oauth_session", b"sealed_tokens=", b"access_expires=")
PROCESSES = 4
PEOPLE = 16
LIFE = 2.0


@dataclass(slots=True)
class Chaos:
    """Does to the workers and their database what a bad day does."""

    server: Server
    proxy: Proxy
    workers: Workers
    random: random.Random
    count: Counter[str]
    pausing: set[asyncio.Task[None]]

    async def reign(self) -> None:
        """Make one trouble after the other until cancelled."""
        while True:
            await asyncio.sleep(self.random.uniform(0.3, 1.5))
            self.proxy.requests.clear()
            self.workers.bury()
            # One that came up while the database was away has ended by itself.
            await self.workers.start()
            (what,) = self.random.choices(
                ("kill", "pause", "stop the database", "cut after commit", "cut all"),
                (3, 3, 1, 2, 1),
            )
            self.count[what] += 1
            await self._do(what)

    async def _do(self, what: str) -> None:
        if what == "kill":
            await self.workers.kill()
            await self.workers.start()
        elif what == "pause":
            # Short, or longer than everything anybody waits for.
            seconds = self.random.choice((0.3, 1.0, 2.5, 8.0))
            task = asyncio.create_task(self.workers.pause(seconds))
            self.pausing.add(task)
            task.add_done_callback(self.pausing.discard)
        elif what == "stop the database":
            await asyncio.to_thread(self.server.stop)
            await asyncio.sleep(self.random.uniform(0.1, 1.5))
            await asyncio.to_thread(self.server.start)
        elif what == "cut after commit":
            # The next new tokens arrive, and nobody is told so.
            self.proxy.cut_after(self.random.choice((1, 2, 4)))
        else:
            self.proxy.swallow_answers()
            await asyncio.sleep(self.random.uniform(0.02, 0.2))
            self.proxy.flow()

    async def end(self) -> None:
        """Let everything work again."""
        for task in self.pausing:
            task.cancel()
        await asyncio.gather(*self.pausing, return_exceptions=True)
        self.proxy.flow()
        if self.server.process.poll() is not None:
            await asyncio.to_thread(self.server.start)
        self.workers.bury()


@asynccontextmanager
async def running(*tasks: asyncio.Task[None]) -> AsyncGenerator[tuple[asyncio.Task[None], ...]]:
    """Cancel tasks at the end of the block; one that failed fails it."""
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            task.result()


async def all_rows(store: SQLStore) -> list[SessionRecord]:
    rows: list[SessionRecord] = []
    while some := await store.list_sessions(
        SessionFilter(), after=rows[-1].id if rows else None, limit=500
    ):
        rows += some
    return rows


async def ends(store: SQLStore) -> dict[str, float]:
    """Return when rows ended, in seconds by the wall clock of this one machine."""
    row = store.tables.session.c
    found = await store.rows(sa.select(row.id, row.ended_at).where(row.ended_at.is_not(None)))
    return {cast("str", one.id): cast("int", one.ended_at) / 1000 for one in found}


async def settle(oauth: ATProtoOAuth, did: str) -> None:
    """Call until the PDS answers, or the session is known to be over."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            async with oauth.session_for(did) as session:
                if (await session.get(GET_SESSION)).status_code == 200:
                    return
        except (NoSession, SessionRevoked):
            return
        except ATProtoOAuthError:
            pass
        await asyncio.sleep(0.1)
    raise AssertionError(f"the session of {did} came to no end")


async def judged(
    server: Server,
    folder: Path,
    patch: pytest.MonkeyPatch,
    operations: int,
    fault: Fault | None = None,
    slow: float = 0.02,
    leaving: float = 0.04,
) -> Verdict:
    """Let people, workers and chaos run for so many operations, and judge what became of it."""
    print(f"\nCHAOS_SEED={SEED} CHAOS_OPERATIONS={operations}", flush=True)
    url = server.url(server.create_database())
    await on_url(url, upgrade)
    network = Network(accounts=(), token_life=LIFE)
    trouble = TokenTrouble(f"{SEED} trouble", slow)
    witness = Witness(network, trouble, patch)
    prepare(patch)
    told = Told()
    journal = folder / "journal"
    async with network.serve(), Proxy(server.port, aim=COMMIT) as proxy:
        options: Options = {
            "store_url": url.replace(f":{server.port}/", f":{proxy.port}/"),
            "plc_url": network.plc.origin,
            "handle_resolver_url": network.host.origin,
            "secret_key": base64.urlsafe_b64encode(SECRET_KEYS[0]).decode(),
            "journal": str(journal),
            "fault": fault,
        }
        workers = Workers(options, PROCESSES, f"{SEED} workers")
        chaos = Chaos(server, proxy, workers, random.Random(f"{SEED} chaos"), Counter(), set())
        try:
            await workers.start()
            people = [
                asyncio.create_task(
                    Person(
                        network, witness, workers, told, f"{SEED} person {number}", leaving
                    ).live()
                )
                for number in range(PEOPLE)
            ]
            async with running(asyncio.create_task(chaos.reign()), *people) as tasks:
                while told.operations.total() + witness.refreshes < operations:
                    await asyncio.sleep(0.1)
                    if any(task.done() for task in tasks):
                        break
            trouble.active = False
            await chaos.end()
            await workers.stop()
        finally:
            await chaos.end()
            await workers.close()
        store = JournalStore(url, str(journal))
        oauth = oauth_of(options, store)
        async with oauth:
            active = [row.did for row in await all_rows(store) if row.status == "active"]
            few = asyncio.Semaphore(8)

            async def in_turn(did: str) -> None:
                async with few:
                    await settle(oauth, did)

            await asyncio.gather(*(in_turn(did) for did in active))
            judge = Judge(witness, workers, told, journal, await ends(store))
            verdict = judge.judge(await all_rows(store))
        await store.aclose()
    told.operations["refresh"] = witness.refreshes
    print(
        f"operations {dict(told.operations)}\ntroubles {dict(chaos.count + trouble.count)}\n"
        f"answers {dict(sorted(told.statuses.items()))}\nendings {dict(verdict.endings)}\n"
        f"commits cut {proxy.cuts}; slow answers {dict(verdict.slow)}\n"
        f"rotations lost, because {dict(verdict.excuses)}; misnamed {verdict.misnamed}\n"
        f"violations {len(verdict.violations)}"
    )
    return verdict


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Server:
    return cast("Server", request.getfixturevalue(DATABASE))


@pytest.mark.timeout(120 + OPERATIONS // 3)
async def test_no_session_is_lost_for_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = await judged(server, tmp_path, monkeypatch, OPERATIONS)
    assert not verdict.violations, f"seed {SEED}:\n" + "\n".join(verdict.violations)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("fault", "words", "slow", "leaving"),
    [
        # Two workers have to meet.
        ("lease removed", "nobody revoked it", 0.02, 0.04),
        ("commits skipped", "left in peace", 0.02, 0.04),
        # Somebody has to leave while a refresh is under way.
        ("nothing revoked", "left in peace", 0.5, 0.3),
    ],
)
async def test_the_judge_sees_workers_that_lose_sessions(
    server: Server, tmp_path: Path, fault: Fault, words: str, slow: float, leaving: float
) -> None:
    found: list[str] = []
    # Once is enough as a rule.
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            verdict = await judged(server, folder, patch, 250, fault, slow, leaving)
        found = [one for one in verdict.violations if words in one]
        if found:
            break
    assert found
