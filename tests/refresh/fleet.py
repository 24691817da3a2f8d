"""Workers that share one store, on the embedded network, and one session that they keep alive."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import httpx
import pytest

from atproto_oauth_asgi import ATProtoOAuth, ATProtoOAuthMiddleware
from atproto_oauth_asgi.instrumentation import Event
from atproto_oauth_asgi.live import Flight, LiveSession
from atproto_oauth_asgi.net_policy import NetPolicy
from atproto_oauth_asgi.refresh_timing import RefreshTiming
from atproto_oauth_asgi.runtime import Runtime
from atproto_oauth_asgi.session import OAuthSession
from atproto_oauth_asgi.store import Refreshed, SessionRecord
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.tokens import Tokens
from atproto_oauth_asgi.vault import Owner
from atproto_oauth_asgi_stores.memory import MemoryStore
from atproto_oauth_asgi_stores.memory_rows import SessionRow
from tests.app.world import BASE_URL, make_app, world
from tests.refresh.told import check
from tests.refresh.wire import Clock, Wire

T = TypeVar("T")

SECRET_KEYS = (b"k" * 32,)
SCOPE = "atproto transition:generic"
#: The life of an access token of the network, in seconds.
LIFE = 3600.0
LOOPBACK_URL = "http://127.0.0.1:8123"
GET_SESSION = "/xrpc/com.atproto.server.getSession"

#: What workers are given: the defaults, which in virtual time cost nothing.
TIMING = RefreshTiming()
#: For real time, where a busy machine is no finding: nobody gives up soon.
PATIENT = RefreshTiming(wait=30.0, poll_longest=0.03)
#: The same where dead workers must not be waited for for long.
QUICK = replace(PATIENT, lease=0.4, marked_lease=2.0, watch=0.25, commit_again=0.02)
#: Longer than the longest refresh: two token requests, and all that waits for others. Seconds.
PATIENCE = 400.0


async def within(seconds: float, work: Awaitable[T]) -> T:
    """Wait, and fail the test instead of hanging."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError as exc:
        raise AssertionError(f"not done within {seconds} seconds") from exc


@dataclass(slots=True)
class Worker:
    """One process: its own `ATProtoOAuth`, its own view of the session."""

    oauth: ATProtoOAuth
    wire: Wire
    runtime: Runtime
    live: LiveSession
    session: OAuthSession
    browser: httpx.AsyncClient
    calls: list[asyncio.Task[Any]]

    def call(self, call: Coroutine[object, object, T]) -> asyncio.Task[T]:
        """Make a call beside the test; it ends with the worker at the latest."""
        task = asyncio.create_task(call)
        self.calls.append(task)
        return task

    def start(self) -> Flight:
        flight = self.runtime.upkeep.begin(self.live)
        assert flight is not None, "no refresh was due"
        return flight

    async def refresh(self, seconds: float = PATIENCE) -> Flight:
        """Refresh as a request would, and wait for the end of it."""
        flight = self.start()
        assert flight.task is not None
        await within(seconds, asyncio.wait({flight.task}))
        return flight

    async def done(self, flight: Flight, seconds: float = PATIENCE) -> None:
        assert flight.task is not None
        await within(seconds, asyncio.wait({flight.task}))

    async def settled(self, seconds: float = PATIENCE) -> None:
        async def all_done() -> None:
            while tasks := self.runtime.tasks.running():
                await asyncio.wait(tasks)

        await within(seconds, all_done())

    async def look_again(self) -> None:
        """See the row as a process sees it that has never seen it before."""
        record = await self.wire.load_session(self.live.id)
        assert record is not None
        self.live.version = 0
        self.live.adopt(record)

    async def get(self) -> httpx.Response:
        """Call the PDS."""
        return await self.session.get(GET_SESSION)


@dataclass(slots=True)
class Fleet:
    network: Network
    clock: Clock
    store: MemoryStore
    cookies: httpx.Cookies
    session_id: str
    policy: NetPolicy
    base_url: str

    @property
    def row(self) -> SessionRow:
        return self.store._sessions[self.session_id]

    async def record(self) -> SessionRecord:
        record = await self.store.load_session(self.session_id)
        assert record is not None
        return record

    def expire(self) -> None:
        """Let the access token expire for everybody who reads the row from now on."""
        self.clock.move(LIFE + 1)

    @property
    def refreshes(self) -> int:
        """Return how many refresh requests the server processed or refused."""
        return len(self.network.token_requests("refresh_token"))

    @property
    def sent(self) -> int:
        """Return how many of any kind arrived, nonce challenges included."""
        return len(self.network.token_requests("refresh_token", challenged=True))

    @property
    def revocations(self) -> int:
        """Return how many revocations were really asked for."""
        return sum(one.error != "use_dpop_nonce" for one in self.network.log.of("revoke"))

    @property
    def alive_at_the_server(self) -> bool:
        return bool(self.network.sessions("alice.test"))

    @asynccontextmanager
    async def worker(
        self,
        *,
        timing: RefreshTiming | None = None,
        base_url: str | None = None,
        defects: bool = False,
    ) -> AsyncGenerator[Worker, None]:
        """Open a process of the app; where `defects` come, they are no finding."""
        base_url = base_url or self.base_url
        wire = Wire(self.store)
        told: list[Event] = []
        oauth = ATProtoOAuth(
            base_url,
            store=wire,
            timing=timing or TIMING,
            net_policy=self.policy,
            secret_keys=SECRET_KEYS,
            scope=SCOPE,
            on_event=told.append,
        )
        app = ATProtoOAuthMiddleware(make_app(), oauth=oauth)
        async with (
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url=base_url, cookies=self.cookies
            ) as browser,
            oauth,
        ):
            runtime = oauth.runtime()
            live = runtime.sessions.live(await self.record())
            wire.passed.clear()
            worker = Worker(oauth, wire, runtime, live, runtime.session(live), browser, [])
            try:
                yield worker
            except BaseException:
                # A broken promise may leave something behind that never ends.
                for left in runtime.tasks.running():
                    left.cancel()
                raise
            finally:
                for task in worker.calls:
                    task.cancel()
                await asyncio.gather(*worker.calls, return_exceptions=True)
        did = self.network.account("alice.test").did
        check(told, session=self.session_id, did=did, defects=defects)

    async def commit_elsewhere(self, worker: Worker, token: str = "newer") -> Tokens:
        """Write a new version as a worker does that this test does not play."""
        live = worker.live
        tokens = Tokens(access_token=token, refresh_token=f"{token}-refresh", pds=live.pds)
        vault = worker.oauth.core.vault
        owner = Owner(
            session_id=live.id, did=live.did, issuer=live.issuer, client_id=live.client_id
        )
        row = self.row
        row.sealed_tokens, row.sealed_key = vault.seal_tokens(owner, tokens), vault.key_id
        now = self.store._now()
        row.access_expires, row.refresh_after, row.refreshed = now + 3_600_000, now + 10_000, now
        row.version += 1
        row.lease_owner, row.lease_until = "another", None
        row.attempts, row.first_sent, row.failures = 0, None, 0
        return tokens

    async def tokens_in_the_row(self, worker: Worker) -> Tokens:
        return worker.oauth.core.vault.tokens(await self.record())


@asynccontextmanager
async def fleet(*, expired: bool = True, served: bool = False) -> AsyncGenerator[Fleet, None]:
    """Log alice in, and let her access token run out.

    Args:
        expired: Whether it has run out; otherwise a refresh is merely allowed.
        served: Whether the network is met on loopback ports, served by a thread of its own; for
            scenarios in real time only.
    """
    clock = Clock()
    store = MemoryStore(clock=clock)
    network = Network()
    base_url = LOOPBACK_URL if served else BASE_URL
    if served:
        await asyncio.to_thread(network.start)
    try:
        policy = network.policy(apps={}) if served else network.policy()
        async with world(
            network,
            store=store,
            base_url=base_url,
            secret_keys=SECRET_KEYS,
            net_policy=policy,
            scope=SCOPE,
        ) as here:
            back = await here.login()
            assert back.status_code == 303, back.text
            session_id = next(iter(store._sessions))
            made = Fleet(network, clock, store, here.browser.cookies, session_id, policy, base_url)
        network.log.clear()
        if expired:
            made.expire()
        else:
            # The interval between two refreshes is no part of most tests.
            made.row.refresh_after = 0
        yield made
    finally:
        if served:
            await asyncio.to_thread(network.stop)


@contextmanager
def timing(base: RefreshTiming | None = None, **seconds: float) -> Generator[None]:
    """Change times for a block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.refresh.fleet.TIMING", replace(base or TIMING, **seconds))
        yield


@contextmanager
def logged() -> Generator[list[logging.LogRecord]]:
    """Gather what the package logs."""
    records: list[logging.LogRecord] = []

    class Gather(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Gather()
    logger = logging.getLogger("atproto_oauth_asgi")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield records
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def events(records: list[logging.LogRecord]) -> list[str]:
    return [record.getMessage() for record in records]


__all__ = [
    "PATIENCE",
    "PATIENT",
    "QUICK",
    "Fleet",
    "Refreshed",
    "Worker",
    "events",
    "fleet",
    "logged",
    "timing",
    "within",
]
