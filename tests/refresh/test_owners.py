"""Those who own an event loop come and go in any order: what is in the air is seen through."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from atproto_oauth_asgi import ATProtoOAuth, ATProtoOAuthMiddleware, Event, refresh_request
from atproto_oauth_asgi.authorization_server import attempt
from atproto_oauth_asgi.core import Login
from atproto_oauth_asgi.errors import RefreshFailed, StoreUnavailable
from atproto_oauth_asgi.net import Net
from atproto_oauth_asgi.testing import Network
from tests.app.faulty_store import FaultyStore
from tests.app.world import make_app, world
from tests.refresh.fleet import GET_SESSION, SCOPE, SECRET_KEYS, TIMING, Fleet, fleet
from tests.refresh.wire import Wire
from tests.virtual_time import in_virtual_time

pytestmark = pytest.mark.spec("J1", "J4")


@dataclass
class Process:
    """Is an app on one event loop, with its own way to the store."""

    here: Fleet
    told: list[Event] = field(default_factory=list[Event])

    def __post_init__(self) -> None:
        self.wire = Wire(self.here.store)
        self.oauth = ATProtoOAuth(
            self.here.base_url,
            store=self.wire,
            timing=TIMING,
            net_policy=self.here.policy,
            secret_keys=SECRET_KEYS,
            scope=SCOPE,
            on_event=self.told.append,
        )
        self.did = self.here.network.account("alice.test").did

    def browser(self) -> httpx.AsyncClient:
        app = ATProtoOAuthMiddleware(make_app(), oauth=self.oauth)
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url=self.here.base_url,
            cookies=self.here.cookies,
        )

    async def begin(self) -> None:
        """Begin a refresh, as a request does that goes away."""
        runtime = self.oauth.runtime()
        runtime.upkeep.begin(runtime.sessions.live(await self.here.record()))

    async def own(self, during: Callable[[], Awaitable[object]]) -> None:
        async with self.oauth:
            await during()


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_who_left_earlier_leaves_a_later_ones_refresh_alone() -> None:
    async def run() -> None:
        async with (
            fleet() as here,
            here.network.pause_token_endpoint("refresh_token", when="after") as pause,
        ):
            process, never = Process(here), asyncio.Event()

            async def leave_something() -> None:
                process.oauth.runtime().tasks.start(never.wait(), name="slow")

            async def refresh() -> None:
                await process.begin()
                await pause.arrived()

            first = asyncio.create_task(process.own(leave_something))
            await asyncio.sleep(TIMING.marked_lease - 5)
            second = asyncio.create_task(process.own(refresh))
            # The first waits no longer; the second does.
            await asyncio.sleep(10)
            pause.release()
            never.set()
            await asyncio.gather(first, second)
            assert (here.row.version, here.refreshes) == (2, 1)

    in_virtual_time(run)


def test_a_last_owner_that_is_cancelled_while_another_leaves_stops_nobody() -> None:
    async def run() -> None:
        async with fleet() as here:
            process, slow = Process(here), asyncio.Event()
            runtime = process.oauth.runtime()

            async def leave_something() -> None:
                runtime.tasks.start(slow.wait(), name="slow")

            first = asyncio.create_task(process.own(leave_something))
            await runtime.tasks.closing.wait()
            second = asyncio.create_task(process.own(turns))
            while runtime.entries < 2 or not runtime.tasks.closing.is_set():  # noqa: ASYNC110  # no event
                await asyncio.sleep(0)
            second.cancel()
            await asyncio.gather(second, return_exceptions=True)
            slow.set()
            await first
            # Whoever comes without an owner, and for however long.
            async with process.browser() as browser:
                assert (await browser.get("/me")).status_code == 200
            assert here.row.version == 2
            await process.oauth.runtime().aclose()

    in_virtual_time(run)


def test_a_commit_goes_on_when_another_owner_has_come() -> None:
    async def run() -> None:
        async with fleet() as here:
            process, away = Process(here), True

            async def outage() -> None:
                if away:
                    raise StoreUnavailable("The database does not answer; this is a planted fault.")

            async def refresh() -> None:
                async with process.browser() as browser:
                    assert (await browser.get("/me")).status_code == 200

            process.wire.before["commit"] = outage
            first = asyncio.create_task(process.own(refresh))
            await asyncio.sleep(2)
            assert process.oauth.runtime().tasks.closing.is_set()
            second = asyncio.create_task(process.own(lambda: asyncio.sleep(60)))
            await asyncio.sleep(TIMING.wait * 4)
            away = False
            await asyncio.gather(first, second)
            assert here.row.version == 2

    in_virtual_time(run)


def test_a_login_that_uses_a_job_while_another_leaves_waits_for_itself_never() -> None:
    async def run() -> None:
        network, store, slow = Network(), FaultyStore(), asyncio.Event()

        async def on_login(_: Login) -> None:
            async with here.oauth.session_for(here.did("bob.test")):
                pass

        async with world(network, store=store) as bob:
            await bob.login("bob.test")
        async with world(
            network, store=store, owned=False, timing=TIMING, on_login=on_login
        ) as here:

            async def job() -> None:
                async with here.oauth.session_for(here.did("bob.test")):
                    here.oauth.runtime().tasks.start(slow.wait(), name="slow")
                    await leave.wait()

            leave = asyncio.Event()
            leaving = asyncio.create_task(job())
            await turns()
            callback = await here.approved("alice.test")
            leave.set()
            await here.oauth.runtime().tasks.closing.wait()
            asyncio.get_running_loop().call_later(1, slow.set)
            async with asyncio.timeout(30):
                assert (await here.browser.get(callback)).status_code == 303
                await leaving
            assert len(store.sessions) == 2

    in_virtual_time(run)


def test_a_store_is_not_closed_under_who_comes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    close = Net.aclose

    async def slowly(net: Net) -> None:
        await close(net)
        await asyncio.sleep(1)

    monkeypatch.setattr(Net, "aclose", slowly)

    async def run() -> None:
        async with fleet() as here:
            process, passed = Process(here), list[str]()

            async def note(what: str) -> None:
                passed.append(what)

            monkeypatch.setattr(process.wire, "open", lambda: note("opened"))
            monkeypatch.setattr(process.wire, "aclose", lambda: note("closed"))
            first = asyncio.create_task(process.own(turns))
            await asyncio.sleep(0.5)
            await process.own(lambda: note("used"))
            await first
            assert passed == ["opened", "closed", "opened", "used", "closed"]

    in_virtual_time(run)


class Crowd:
    """Is a crowd of owners, jobs and requests that come, go and are cancelled at random."""

    def __init__(self, seed: int, process: Process) -> None:
        self.random = random.Random(seed)
        self.process = process
        self.wrong: list[object] = []
        self.in_the_air = 0
        self._outage_ends = 0.0

    async def attempt(self, *args: Any, **kwargs: Any) -> Any:
        """Answer a token request when the server has done its work, sooner or later."""
        answer = await attempt(*args, **kwargs)
        self.in_the_air += 1
        try:
            await asyncio.sleep(self.random.choice([0, 0.5, 5, 45]))
        finally:
            self.in_the_air -= 1
        return answer

    async def close(self, net: Net) -> None:
        if self.in_the_air:
            self.wrong.append("the connections were closed with a token request in the air")
        await _close(net)

    async def commit(self) -> None:
        now = asyncio.get_running_loop().time()
        if self.random.random() < 0.3 and now > self._outage_ends + 60:
            self._outage_ends = now + 2.5
        if now < self._outage_ends:
            raise StoreUnavailable("The database does not answer; this is a planted fault.")

    async def one(self, kind: str, seconds: float) -> None:
        process = self.process
        if kind == "owner":
            async with process.oauth:
                if self.random.random() < 0.7:
                    await process.begin()
                await asyncio.sleep(seconds)
        elif kind == "job":
            async with process.oauth.session_for(process.did) as session:
                if self.random.random() < 0.8:
                    with contextlib.suppress(RefreshFailed):
                        await session.get(GET_SESSION)
                await asyncio.sleep(seconds)
        else:
            async with process.browser() as browser:
                await browser.get(self.random.choice(["/me", "/who"]))

    async def visit(self, kind: str) -> None:
        choose = self.random
        seconds = choose.choice([0, 0, 0.1, 3, 30])
        await asyncio.sleep(choose.choice([0, 0, 0.01, 1, 5, 40]) * choose.random())
        task = asyncio.create_task(self.one(kind, seconds))
        for _ in range(choose.choice([0, 0, 1, 2, 3])):
            await asyncio.sleep(choose.choice([0.001, 0.1, 1, 6, 46]) * choose.random())
            task.cancel()
        await asyncio.wait({task})
        if not task.cancelled() and task.exception() is not None:
            self.wrong.append((kind, repr(task.exception())))

    async def crowd(self) -> None:
        here, oauth = self.process.here, self.process.oauth
        kinds = self.random.choice(
            [
                ["owner", "job", "request"],
                ["owner", "job"],
                ["owner", "request"],
                ["job", "request"],
                ["job"],
                ["request"],
            ]
        )
        for _ in range(2):
            visits = [
                asyncio.create_task(self.visit(self.random.choice(kinds)))
                for _ in range(self.random.randint(2, 8))
            ]
            _, left = await asyncio.wait(visits, timeout=500)
            self.wrong += left
            await asyncio.sleep(200)
            if (runtime := oauth.running()) is not None:
                state = (runtime.tasks.closing.is_set(), runtime.owners, runtime.attending)
                if state != (False, 0, 0) or runtime.tasks.running():
                    self.wrong.append((state, runtime.tasks.running()))
            if here.refreshes != here.row.version - 1 or not here.alive_at_the_server:
                self.wrong.append((here.refreshes, here.row.version, here.alive_at_the_server))
            # The next crowd has to refresh.
            await asyncio.sleep(4000)


_close = Net.aclose


@pytest.mark.parametrize("seed", [8, 28, 118, *range(1000, 1100)])
def test_whoever_comes_and_goes_nothing_is_lost_and_nobody_is_stuck(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with fleet() as here:
            process = Process(here)
            crowd = Crowd(seed, process)
            process.wire.before["commit"] = crowd.commit
            monkeypatch.setattr(refresh_request, "attempt", crowd.attempt)

            async def aclose(net: Net) -> None:
                await crowd.close(net)

            monkeypatch.setattr(Net, "aclose", aclose)
            await crowd.crowd()
            async with process.browser() as browser:
                await browser.get("/me")
                await asyncio.sleep(100)
                assert (await browser.get("/me")).status_code == 200
            if (runtime := process.oauth.running()) is not None:
                await runtime.aclose()
        names = {event.name for event in process.told}
        assert crowd.wrong == []
        assert names.isdisjoint(
            {"session.lost_rotation", "session.ended", "refresh.failed", "task.failed"}
        )

    in_virtual_time(run)
