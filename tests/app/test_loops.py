"""A session is of one event loop, and its connections last as long as somebody needs them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import anyio.from_thread
import anyio.to_thread
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from atproto_oauth_asgi import OAuthSession, session_from
from atproto_oauth_asgi.errors import ConfigurationError
from atproto_oauth_asgi.testing import Network
from tests.app.faulty_store import FaultyStore
from tests.app.world import PAGE, QUICK, world

pytestmark = pytest.mark.anyio

METHOD = "com.atproto.server.getSession"


async def test_another_event_loop_is_told_and_does_no_harm() -> None:
    async with world() as here:
        await here.login()
        async with here.oauth.session_for(here.did()) as session:
            before = len(here.network.log)

            def elsewhere() -> None:
                for call in (session.query(METHOD), own_client(session)):
                    with pytest.raises(ConfigurationError, match="anyio"):
                        asyncio.run(call)

            await anyio.to_thread.run_sync(elsewhere)
            assert len(here.network.log) == before
            assert (await session.query(METHOD))["handle"] == "alice.test"
            # As the message says.
            answer = await anyio.to_thread.run_sync(
                lambda: anyio.from_thread.run(session.query, METHOD)
            )
            assert answer["handle"] == "alice.test"


async def own_client(session: OAuthSession) -> object:
    async with httpx.AsyncClient(auth=session.auth) as client:
        return await client.get(f"{session.pds}/xrpc/{METHOD}")


async def test_a_session_that_outlives_its_job_says_so() -> None:
    store, network = FaultyStore(), Network()
    async with world(network, store=store) as here:
        await here.login()
        did = here.did()
    async with world(network, store=store, owned=False) as job:
        async with job.oauth.session_for(did) as session:
            await session.query(METHOD)
        with pytest.raises(ConfigurationError, match="session_for"):
            await session.query(METHOD)


async def test_a_login_that_an_apps_own_page_begins_outlasts_a_job_without_lifespan() -> None:
    async def begin(request: Request) -> Response:
        return await here.oauth.authorize_redirect(request, "bob.test")

    store, network = FaultyStore(), Network()
    async with world(network, store=store) as before:
        await before.login()
        did = before.did()
    app = Starlette(routes=[Route("/begin", begin)])
    async with world(network, app=app, store=store, owned=False) as here:
        async with here.network.hold("/.well-known/oauth-protected-resource") as asked:
            async with here.oauth.session_for(did) as session:
                await session.query(METHOD)
                begun = asyncio.create_task(here.browser.get("/begin"))
                await asked.arrived()
            # The job has ended; the login has not.
            asked.release()
            assert (await begun).status_code == 303
        await here.oauth.runtime().aclose()


async def test_a_login_waits_for_nobody_elses_work_without_lifespan() -> None:
    returned = asyncio.Event()

    async def begin(request: Request) -> Response:
        response = await here.oauth.authorize_redirect(request, "bob.test")
        returned.set()
        return response

    app = Starlette(routes=[Route("/begin", begin)])
    timing = replace(QUICK, marked_lease=30.0)
    async with world(app=app, owned=False, timing=timing) as here:
        await here.login()
        async with here.network.hold("/oauth/par") as asked:
            begun = asyncio.create_task(here.browser.get("/begin"))
            await asked.arrived()
            work = asyncio.Event()
            here.oauth.runtime().tasks.start(work.wait(), name="somebody's")
            asked.release()
            async with asyncio.timeout(5):
                await returned.wait()
            # Only after the answer is it seen to, for nobody else may be there.
            assert not begun.done()
            work.set()
            assert (await begun).status_code == 303
        await here.oauth.runtime().aclose()


async def test_a_session_of_a_request_can_be_used_on_its_loop_only() -> None:
    def view(request: Request) -> Response:
        return JSONResponse(asyncio.run(session_from(request).query(METHOD)))

    async with world(app=Starlette(routes=[Route("/view", view)])) as here:
        await here.login()
        with pytest.raises(ConfigurationError, match="another event loop"):
            await here.browser.get("/view", headers=PAGE)
