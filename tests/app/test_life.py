"""Lifespan, its absence, several event loops, and what stops a start."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atproto_oauth_asgi import (
    ATProtoOAuth,
    ATProtoOAuthMiddleware,
)
from atproto_oauth_asgi.errors import ConfigurationError, StoreUnavailable
from atproto_oauth_asgi.store import Store
from atproto_oauth_asgi.testing import Network
from tests.app.faulty_store import FaultyStore
from tests.app.world import BASE_URL, QUICK, make_app, world

pytestmark = pytest.mark.anyio

SECRET = (b"k" * 32,)


def sqlite(path: Path) -> str:
    return f"sqlite:///{path / 'sessions.db'}"


async def made(path: Path) -> str:
    """Return the URL of a SQLite store with its tables."""
    from atproto_oauth_asgi.plugins import migrate_empty

    assert await migrate_empty(sqlite(path))
    return sqlite(path)


class Server:
    """Drives the lifespan of an app as a server does."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.sent: list[Message] = []
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._answered: asyncio.Queue[Message] = asyncio.Queue()

    async def start(self) -> Message:
        async def send(message: Message) -> None:
            self.sent.append(message)
            self._answered.put_nowait(message)

        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self.task = asyncio.ensure_future(self._run(scope, send))
        self._to_app.put_nowait({"type": "lifespan.startup"})
        return await self._next()

    async def _run(self, scope: Scope, send: Callable[[Message], Awaitable[None]]) -> None:
        await self.app(scope, self._to_app.get, send)

    async def stop(self) -> Message:
        self._to_app.put_nowait({"type": "lifespan.shutdown"})
        message = await self._next()
        await self.task
        return message

    async def _next(self) -> Message:
        async with asyncio.timeout(10):
            return await self._answered.get()


def new_oauth(network: Network, store: Store | str = "memory://") -> ATProtoOAuth:
    return ATProtoOAuth(
        BASE_URL,
        store=store,
        secret_keys=SECRET,
        net_policy=network.policy(),
        timing=QUICK,
    )


# --- Lifespan --------------------------------------------------------------------------------


async def test_a_lifespan_opens_before_the_app_starts_and_drains_after_it_stopped() -> None:
    events: list[str] = []
    oauth = new_oauth(Network())

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        runtime = oauth.running()
        events.append(f"start {runtime is not None and runtime.opened}")
        yield
        events.append(f"stop {oauth.running() is not None}")

    server = Server(ATProtoOAuthMiddleware(Starlette(lifespan=lifespan), oauth=oauth))

    assert (await server.start())["type"] == "lifespan.startup.complete"
    assert oauth.runtime().owners == 1
    assert (await server.stop())["type"] == "lifespan.shutdown.complete"
    assert events == ["start True", "stop True"]
    assert oauth.running() is None


async def test_an_app_added_to_sees_the_same() -> None:
    oauth = new_oauth(Network())
    app = Starlette()
    app.add_middleware(ATProtoOAuthMiddleware, oauth=oauth)
    server = Server(app)

    assert (await server.start())["type"] == "lifespan.startup.complete"
    assert oauth.runtime().owners == 1
    await server.stop()
    assert oauth.running() is None


@pytest.mark.parametrize("how", ["raises", "returns"])
async def test_an_app_that_does_not_speak_lifespan_is_answered_for(how: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            if how == "raises":
                raise NotImplementedError
            return
        await JSONResponse({})(scope, receive, send)

    oauth = new_oauth(Network())
    server = Server(ATProtoOAuthMiddleware(app, oauth=oauth))

    assert (await server.start())["type"] == "lifespan.startup.complete"
    assert oauth.runtime().owners == 1
    assert (await server.stop())["type"] == "lifespan.shutdown.complete"
    assert oauth.running() is None


async def test_an_app_that_fails_while_it_starts_is_not_taken_for_one_without_lifespan() -> None:
    async def app(_: Scope, receive: Receive, __: Send) -> None:
        await receive()
        raise ZeroDivisionError

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    oauth = new_oauth(Network())
    scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    # Servers judge it as they judge the app alone: some go on, others stop with the traceback.
    with pytest.raises(ZeroDivisionError):
        await ATProtoOAuthMiddleware(app, oauth=oauth)(scope, receive, send)
    assert not sent
    assert oauth.running() is None


async def test_an_app_that_fails_to_start_leaves_nothing_open() -> None:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        if oauth.running() is not None:
            raise ZeroDivisionError
        yield

    oauth = new_oauth(Network())
    server = Server(ATProtoOAuthMiddleware(Starlette(lifespan=lifespan), oauth=oauth))

    assert (await server.start())["type"] == "lifespan.startup.failed"
    with pytest.raises(ZeroDivisionError):
        await server.task
    assert oauth.running() is None


async def test_a_shutdown_waits_for_a_login_under_way() -> None:
    network = Network()
    oauth = new_oauth(network)
    app = ATProtoOAuthMiddleware(make_app(), oauth=oauth)
    network.register_client_app(BASE_URL, app)
    server = Server(app)
    await server.start()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE_URL) as browser:
        begun = await browser.post(
            "/oauth/login", data={"identifier": "alice.test"}, headers={"origin": BASE_URL}
        )
        callback = network.approve(begun.headers["location"], "alice.test")
        async with network.pause_token_endpoint() as pause:
            request = asyncio.create_task(browser.get(callback))
            await pause.arrived()
            stopping = asyncio.create_task(server.stop())
            await asyncio.sleep(0.05)
            assert not stopping.done()
            pause.release()
            await stopping
        assert (await request).status_code == 303
    assert len(network.sessions()) == 1


# --- What stops a start ----------------------------------------------------------------------


async def test_a_database_that_is_behind_stops_the_start_with_the_command(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    oauth = new_oauth(Network(), store=sqlite(tmp_path))
    server = Server(ATProtoOAuthMiddleware(make_app(), oauth=oauth))
    with caplog.at_level(logging.CRITICAL):
        message = await server.start()
    with pytest.raises(ConfigurationError, match="db upgrade"):
        await server.task

    assert message["type"] == "lifespan.startup.failed"
    assert "atproto-oauth-asgi db upgrade" in message["message"]
    assert [record.message for record in caplog.records] == ["oauth.not_started"]
    assert oauth.running() is None


def test_a_test_client_says_what_stops_the_start(tmp_path: Path) -> None:
    app = ATProtoOAuthMiddleware(make_app(), oauth=new_oauth(Network(), store=sqlite(tmp_path)))
    with pytest.raises(ConfigurationError, match="db upgrade"), TestClient(app):
        pass


async def test_without_lifespan_the_first_request_says_so(tmp_path: Path) -> None:
    async with world(store=sqlite(tmp_path), owned=False) as here:
        with pytest.raises(ConfigurationError, match="db upgrade"):
            await here.begin()


def test_a_server_without_asyncio_is_told_to_use_it() -> None:
    """Drive the start as hypercorn's trio worker does: in a loop that asyncio knows nothing of."""
    app = ATProtoOAuthMiddleware(make_app(), oauth=new_oauth(Network()))
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    with pytest.raises(ConfigurationError, match="asyncio"):
        app({"type": "lifespan"}, receive, send).__await__().__next__()
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert "-k asyncio" in sent[0]["message"]


async def test_a_database_that_does_not_answer_stops_the_start() -> None:
    oauth = new_oauth(Network(), store=FaultyStore("open"))
    server = Server(ATProtoOAuthMiddleware(make_app(), oauth=oauth))

    assert (await server.start())["type"] == "lifespan.startup.failed"
    with pytest.raises(StoreUnavailable):
        await server.task
    with pytest.raises(StoreUnavailable):
        async with oauth:
            pass


@pytest.mark.parametrize("store", ["sqlite:///x.db", None])
def test_secret_keys_are_asked_for_with_the_command_that_makes_them(store: str | None) -> None:
    with pytest.raises(ConfigurationError, match="atproto-oauth-asgi secrets generate"):
        ATProtoOAuth(BASE_URL, store=store)


def test_a_store_of_the_apps_own_needs_secret_keys_too() -> None:
    with pytest.raises(ConfigurationError, match="SECRET_KEYS"):
        ATProtoOAuth("http://127.0.0.1:8000", store=FaultyStore())


async def test_in_loopback_development_nothing_has_to_be_prepared(tmp_path: Path) -> None:
    base_url, network = "http://127.0.0.1:8000", Network()
    async with world(network, base_url=base_url, store=sqlite(tmp_path), secret_keys=()) as here:
        await here.login()
        cookie = here.cookie
    key = tmp_path / "sessions.db.key"
    assert key.stat().st_mode & 0o777 == 0o600
    async with world(network, base_url=base_url, store=sqlite(tmp_path), secret_keys=()) as again:
        again.browser.cookies.set(again.oauth.cookies.session, cookie or "")
        assert (await again.browser.get("/me")).json()["handle"] == "alice.test"
    key.unlink()
    with pytest.raises(ConfigurationError, match="sealed with another key"):
        async with world(network, base_url=base_url, store=sqlite(tmp_path), secret_keys=()):
            pass


# --- Without lifespan, and with several loops ------------------------------------------------


async def test_without_lifespan_everything_works_and_it_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "atproto_oauth_asgi.footing"):
        async with world(owned=False) as here:
            await here.login()
            assert (await here.browser.get("/me")).json()["handle"] == "alice.test"
            await here.logout()
            assert not here.network.sessions()
            assert not here.oauth.runtime().tasks.running()
            await here.oauth.runtime().aclose()

    assert [record.message for record in caplog.records] == ["oauth.no_lifespan"]


async def test_without_lifespan_a_refused_login_is_revoked_before_the_request_ends() -> None:
    async with world(owned=False) as here:
        begun = await here.begin("alice.test")
        back = await here.browser.get(here.network.approve(begun.headers["location"], "bob.test"))

        assert back.status_code == 400
        assert not here.network.sessions()
        assert not here.oauth.runtime().tasks.running()
        await here.oauth.runtime().aclose()


async def test_without_lifespan_a_browser_that_goes_away_does_not_stop_the_login() -> None:
    async with world(owned=False) as here:
        callback = await here.approved()
        async with here.network.pause_token_endpoint() as pause:
            gone = asyncio.create_task(here.browser.get(callback))
            await pause.arrived()
            gone.cancel()
            await asyncio.sleep(0)
            assert not gone.done()
            pause.release()
            await asyncio.gather(gone, return_exceptions=True)
        again = await here.browser.get(callback)

        assert again.status_code == 303
        assert await here.who() == here.did()
        await here.oauth.runtime().aclose()


def login_with_test_client(client: TestClient, network: Network) -> None:
    begun = client.post(
        "/oauth/login",
        data={"identifier": "alice.test"},
        headers={"origin": BASE_URL},
        follow_redirects=False,
    )
    assert begun.status_code == 303
    back = client.get(
        network.approve(begun.headers["location"], "alice.test"), follow_redirects=False
    )
    assert back.status_code == 303
    assert client.get("/me").json()["handle"] == "alice.test"
    assert client.post("/oauth/logout", json={}, headers={"origin": BASE_URL}).status_code == 204
    assert client.get("/who").json() == {"did": None}


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("entered", [True, False])
async def test_an_event_loop_for_each_request_is_borne(
    tmp_path: Path, store: str, entered: bool
) -> None:
    url = await made(tmp_path) if store == "sqlite" else "memory://"

    def visit() -> None:
        network = Network()
        oauth = new_oauth(network, store=url)
        app = ATProtoOAuthMiddleware(make_app(), oauth=oauth)
        network.register_client_app(BASE_URL, app)
        client = TestClient(app, base_url=BASE_URL)
        if entered:
            with client:
                login_with_test_client(client, network)
        else:
            login_with_test_client(client, network)

    await asyncio.to_thread(visit)


async def test_two_loops_at_once_share_sessions_and_nothing_else(tmp_path: Path) -> None:
    url, network = await made(tmp_path), Network()
    async with world(network, store=url) as here:
        await here.login()
        did = here.did()

        async def job() -> str | None:
            async with here.oauth.session_for(did) as session:
                return session.handle

        # A worker thread with a loop of its own, as Celery has.
        assert await asyncio.to_thread(asyncio.run, job()) == "alice.test"
        assert (await here.browser.get("/me")).json()["handle"] == "alice.test"


async def test_the_end_of_a_request_does_not_wait_for_what_is_over() -> None:
    """A task that is done is let go of one round of the loop later; others need that round too."""
    async with world(owned=False) as here:
        runtime = await here.oauth.open()
        turns = 0

        async def turn() -> None:
            nonlocal turns
            turns += 1

        before = runtime.arrive()
        task = runtime.tasks.start(turn(), name="over")
        task.remove_done_callback(runtime.tasks._ended)  # pyright: ignore[reportPrivateUsage]
        await task
        began = time.monotonic()
        await runtime.depart(before)

        assert (task.done(), turns) == (True, 1)
        assert time.monotonic() - began < runtime.timing.marked_lease / 2
        await runtime.aclose()


async def rounds() -> None:
    """Let whatever can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_request_that_is_cancelled_while_it_leaves_leaves_nothing_behind() -> None:
    async with world(owned=False) as here:
        runtime, done = here.oauth.runtime(), list[int]()
        events = [asyncio.Event(), asyncio.Event()]

        async def work(number: int) -> None:
            await events[number].wait()
            done.append(number)

        before = runtime.arrive()
        started: dict[asyncio.Task[Any], int] = {
            runtime.tasks.start(work(number), name="work"): number for number in range(2)
        }
        order = [started[task] for task in runtime.tasks.running()]
        leaving = asyncio.create_task(runtime.depart(before))
        await rounds()
        leaving.cancel()
        await rounds()
        for number in order:
            assert not leaving.done()
            events[number].set()
            await rounds()
        with pytest.raises(asyncio.CancelledError):
            await leaving

        assert sorted(done) == [0, 1]
        assert runtime.attending == 0
