"""Sessions outside of requests: jobs, what they leave behind, and operators."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from atproto_oauth_asgi import identity, session_from
from atproto_oauth_asgi.errors import NoSession, SessionRevoked
from atproto_oauth_asgi.operator_revoke import revoke
from atproto_oauth_asgi.runtime import Runtime
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.upkeep import LOOK_EVERY
from tests.app.faulty_store import FaultyStore
from tests.app.world import BASE_URL, PAGE, QUICK, live_of, world

pytestmark = pytest.mark.anyio


async def test_a_job_gets_the_newest_session_that_covers_what_it_needs() -> None:
    post = "repo:app.bsky.feed.post"
    async with world(optional_scope=post) as here:
        await here.login(scope=f"atproto {post}")
        async with here.another_browser() as other:
            begun = await other.post(
                "/oauth/login", data={"identifier": "alice.test"}, headers={"origin": BASE_URL}
            )
            await other.get(here.network.approve(begun.headers["location"], "alice.test"))
        async with here.oauth.session_for(here.did()) as newest:
            assert newest.scopes == {"atproto"}
        async with here.oauth.session_for(here.did(), scopes=f"{post}?action=create") as covering:
            assert covering.scopes == {"atproto", post}
            answer = await covering.procedure(
                "com.atproto.repo.createRecord",
                {"repo": here.did(), "collection": "app.bsky.feed.post", "record": {"text": "x"}},
            )
            assert str(answer["uri"]).startswith(f"at://{here.did()}/app.bsky.feed.post/")


async def test_a_job_without_a_session_is_told() -> None:
    async with world() as here:
        with pytest.raises(NoSession):
            async with here.oauth.session_for(here.did()):
                pass
        await here.login()
        with pytest.raises(NoSession):
            async with here.oauth.session_for(here.did(), scopes=["blob:image/png"]):
                pass
        await here.logout()
        with pytest.raises(NoSession):
            async with here.oauth.session_for(here.did()):
                pass


async def test_a_job_refreshes_and_drains_before_it_ends() -> None:
    store, network = FaultyStore(), Network()
    async with world(network, store=store) as here:
        await here.login()
        did = here.did()
    store.allow_refresh()
    network.expire_access_tokens()
    async with (
        world(network, store=store, owned=False) as job,
        job.oauth.session_for(did) as session,
    ):
        answer = await session.query("com.atproto.server.getSession")
        assert answer["handle"] == "alice.test"
    assert job.oauth.running() is None
    (row,) = store.sessions
    assert (row.version, row.lease_until) == (2, None)


async def test_a_job_inside_a_request_without_lifespan_leaves_the_request_working() -> None:
    async def view(request: Request) -> Response:
        session = session_from(request)
        async with here.oauth.session_for(session.did) as job:
            await job.query("com.atproto.server.getSession")
        return JSONResponse(await session.query("com.atproto.server.getSession"))

    app = Starlette(routes=[Route("/view", view)])
    async with world(app=app, owned=False) as here:
        await here.login()
        answer = await here.browser.get("/view", headers=PAGE)

        assert answer.json()["handle"] == "alice.test"
        await here.oauth.runtime().aclose()


async def test_a_job_without_lifespan_refreshes_after_a_request_as_before_one() -> None:
    store = FaultyStore()
    async with world(store=store, owned=False) as here:
        await here.login()
        assert (here.oauth.runtime().owners, here.oauth.runtime().attending) == (0, 0)
        for version in (2, 3):
            here.network.expire_access_tokens()
            store.allow_refresh()
            async with here.oauth.session_for(here.did()) as session:
                await session.query("com.atproto.server.getSession")
            assert store.sessions[0].version == version
        await here.oauth.runtime().aclose()


async def test_a_look_at_a_handle_that_begins_while_all_end_ends_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identity, "_TTL", 0.0)
    store, network = FaultyStore(), Network()

    async def silent(_: str) -> list[bytes]:
        await asyncio.Event().wait()
        return []

    async with world(network, store=store) as first:
        await first.login()
    network.expire_access_tokens()
    store.allow_refresh()
    policy = network.policy(resolve_txt=silent)
    async with (
        network.hold(f"/{first.did()}") as pause,
        world(network, store=store, net_policy=policy) as here,
    ):
        runtime = here.oauth.runtime()
        (record,) = await runtime.sessions.of_account(first.did())
        runtime.upkeep._refresher.start(runtime.sessions.live(record))
        await pause.arrived()
        asyncio.get_running_loop().call_soon(pause.release)
    assert not {name for name in names_of_tasks() if name.startswith("handle of")}


async def test_housekeeping_ends_with_the_job_that_began_it() -> None:
    store, network = FaultyStore(), Network()
    async with world(network, store=store) as first:
        await first.login()
        cookies = first.browser.cookies
    inside, goes_on = asyncio.Event(), asyncio.Event()

    async def wait(request: Request) -> Response:
        inside.set()
        await goes_on.wait()
        return JSONResponse(await session_from(request).query("com.atproto.server.getSession"))

    app = Starlette(routes=[Route("/wait", wait)])
    async with world(network, app=app, store=store, owned=False) as here:
        here.browser.cookies.update(cookies)
        async with here.oauth.session_for(first.did()):
            asked = asyncio.create_task(here.browser.get("/wait"))
            await inside.wait()
            assert "housekeeping" in names_of_tasks()
        # The request stays; what only an owner may leave behind does not.
        assert "housekeeping" not in names_of_tasks()
        goes_on.set()
        assert (await asked).status_code == 200
        await here.oauth.runtime().aclose()


async def test_a_job_that_is_cancelled_while_it_leaves_stops_no_refresh_after_it() -> None:
    store, network, slow = FaultyStore(), Network(), asyncio.Event()
    async with world(network, store=store) as first:
        await first.login()
    async with world(network, store=store, owned=False) as here:

        async def job() -> None:
            async with here.oauth.session_for(first.did()):
                here.oauth.runtime().tasks.start(slow.wait(), name="slow")

        closing = here.oauth.runtime().tasks.closing
        leaving = asyncio.create_task(job())
        await closing.wait()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        slow.set()

        network.expire_access_tokens()
        store.allow_refresh()
        async with here.oauth.session_for(first.did()) as session:
            await session.query("com.atproto.server.getSession")
        assert store.sessions[0].version == 2
        # And whoever comes last closes what the loop has, as ever.
        assert here.oauth.running() is None


async def test_nothing_is_closed_under_a_job_that_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    store, network = FaultyStore(), Network()
    async with world(network, store=store) as first:
        await first.login()
    closed, leave_house, aclose = list[bool](), Runtime.leave_house, Runtime.aclose
    quick, slow, at_home, go_on = (asyncio.Event() for _ in range(4))
    async with world(network, store=store, owned=False) as here:

        async def leave(runtime: Runtime) -> None:
            await leave_house(runtime)
            if closing.is_set():
                return
            at_home.set()
            await go_on.wait()

        async def close(runtime: Runtime) -> None:
            closed.append(slow.is_set())
            await aclose(runtime)

        async def early() -> None:
            async with here.oauth.session_for(first.did()):
                tasks = here.oauth.runtime().tasks
                tasks.start(quick.wait(), name="quick")
                tasks.start(slow.wait(), name="slow")

        async def late() -> None:
            async with here.oauth.session_for(first.did()):
                pass

        closing = here.oauth.runtime().tasks.closing
        one = asyncio.create_task(early())
        await closing.wait()
        monkeypatch.setattr(Runtime, "leave_house", leave)
        monkeypatch.setattr(Runtime, "aclose", close)
        two = asyncio.create_task(late())
        await at_home.wait()
        # The first sees now that another has come, and gone.
        quick.set()
        await one
        go_on.set()
        slow.set()
        await two

    assert closed == [True]


async def test_a_newcomers_tasks_are_left_alone_by_who_leaves() -> None:
    store, network = FaultyStore(), Network()
    async with world(network, store=store) as first:
        await first.login()
    timing = replace(QUICK, marked_lease=0.05)
    async with world(network, store=store, owned=False, timing=timing) as here:
        cancelled, end = asyncio.Event(), asyncio.Event()

        async def stubborn() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
                await end.wait()

        async def early() -> None:
            async with here.oauth.session_for(first.did()):
                here.oauth.runtime().tasks.start(stubborn(), name="stubborn")

        leaving = asyncio.create_task(early())
        await cancelled.wait()
        async with here.oauth.session_for(first.did()):
            goes_on = asyncio.Event()
            task = here.oauth.runtime().tasks.start(goes_on.wait(), name="new")
            end.set()
            await leaving
            goes_on.set()
            await asyncio.wait({task})
            assert not task.cancelled()


async def test_a_job_that_leaves_waits_for_no_look_at_a_handle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identity, "_TTL", 0.0)
    store, network, asked = FaultyStore(), Network(), asyncio.Event()

    async def silent(_: str) -> list[bytes]:
        asked.set()
        await asyncio.Event().wait()
        return []

    async with world(network, store=store) as first:
        await first.login()
    network.expire_access_tokens()
    store.allow_refresh()
    # Longer than this test may take.
    timing = replace(QUICK, verify=600, marked_lease=600)
    policy = network.policy(resolve_txt=silent)
    async with world(network, store=store, owned=False, timing=timing, net_policy=policy) as here:
        monkeypatch.setattr(here.oauth.core.resolver, "_dns_deadline", 600.0)
        async with here.oauth.session_for(first.did()) as session:
            await session.query("com.atproto.server.getSession")
            await asked.wait()
        assert not {name for name in names_of_tasks() if name.startswith("handle of")}
    assert store.sessions[0].version == 2


def names_of_tasks() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks()}


@pytest.mark.parametrize("due", [False, True])
async def test_a_session_that_is_held_ends_when_it_is_too_old(due: bool) -> None:
    store = FaultyStore()
    async with world(store=store, session_max_age=3600) as here:
        await here.login()
        async with here.oauth.session_for(here.did()) as session:
            live = live_of(session)
            store.clock.now += 3_600_000
            if due:
                live.access_expires = live.refresh_at = 0.0
            else:
                live.looked -= LOOK_EVERY
            with pytest.raises(SessionRevoked) as caught:
                await session.query("com.atproto.server.getSession")
            assert caught.value.reason == "expired"
        assert here.network.token_requests("refresh_token") == []
        assert store.sessions[0].version == 1
        # Nor is anything held that others would wait for.
        assert store.sessions[0].lease_until is None


async def test_an_operator_revokes_what_is_too_old_and_not_swept_yet() -> None:
    store, network = FaultyStore(), Network()
    async with world(network, store=store, session_max_age=3600) as first:
        await first.login()
    store.clock.now += 3_600_000
    # As a command line, which has not seen the session before.
    async with world(network, store=store, session_max_age=3600) as here:
        revoked = await revoke(here.oauth, store.sessions[0].id)

        assert revoked.confirmed
        assert store.sessions[0].ended_reason == "by_operator"
        assert await here.revoked()
