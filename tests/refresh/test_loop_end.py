"""An event loop that ends while a token request is in the air: the tokens are stored first."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from dataclasses import replace

import pytest

from atproto_oauth_asgi import ATProtoOAuth
from atproto_oauth_asgi.errors import StoreUnavailable
from atproto_oauth_asgi.refresh_timing import RefreshTiming
from tests.refresh.fleet import (
    GET_SESSION,
    LOOPBACK_URL,
    PATIENT,
    QUICK,
    SCOPE,
    SECRET_KEYS,
    Fleet,
    fleet,
)

pytestmark = [pytest.mark.anyio, pytest.mark.spec("J1", "J4")]


def run_a_job(
    here: Fleet,
    ready: threading.Event,
    gone: threading.Event,
    *,
    timing: RefreshTiming = PATIENT,
    cancels: int = 0,
) -> None:
    """Run an event loop whose main coroutine does not wait for the job that it began."""

    async def job(oauth: ATProtoOAuth) -> None:
        async with oauth.session_for(here.network.account("alice.test").did) as session:
            await session.get(GET_SESSION)

    async def main() -> None:
        oauth = ATProtoOAuth(
            LOOPBACK_URL,
            store=here.store,
            timing=timing,
            net_policy=here.policy,
            secret_keys=SECRET_KEYS,
            scope=SCOPE,
        )
        task = asyncio.create_task(job(oauth))
        await asyncio.to_thread(ready.wait)
        # It leaves its block, then the wait for its refresh, then that for all tasks.
        for _ in range(cancels):
            task.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
        gone.set()

    asyncio.run(main())
    with warnings.catch_warnings():
        # Who is cancelled while it closes connections leaves some to the collector.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.mark.parametrize("cancels", [0, 1, 2, 3])
async def test_the_loop_ends_when_the_tokens_are_stored(cancels: int) -> None:
    async with fleet(served=True) as here:
        ready, gone = threading.Event(), threading.Event()
        async with here.network.pause_token_endpoint(grant="refresh_token", when="after") as pause:
            thread = threading.Thread(
                target=run_a_job, args=(here, ready, gone), kwargs={"cancels": cancels}
            )
            thread.start()
            await pause.arrived()
            ready.set()
            # The loop has no main coroutine any more when the answer comes.
            await asyncio.to_thread(gone.wait)
            pause.release()
            await asyncio.to_thread(thread.join)

        assert here.row.version == 2
        assert here.refreshes == 1
        assert here.alive_at_the_server


@pytest.mark.parametrize("cancels", [0, 1, 2, 3])
async def test_a_loop_ends_though_the_store_stays_away(
    cancels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet(served=True) as here:
        ready, gone = threading.Event(), threading.Event()

        async def away(*_args: object, **_more: object) -> bool:
            raise StoreUnavailable("The database does not answer; this is a planted fault.")

        async with here.network.pause_token_endpoint(grant="refresh_token", when="after") as pause:
            timing = replace(QUICK, wait=0.5)
            thread = threading.Thread(
                target=run_a_job,
                args=(here, ready, gone),
                kwargs={"timing": timing, "cancels": cancels},
                daemon=True,
            )
            thread.start()
            await pause.arrived()
            monkeypatch.setattr(here.store, "commit_refresh", away)
            ready.set()
            await asyncio.to_thread(gone.wait)
            pause.release()
            await asyncio.to_thread(thread.join, 30)

        assert not thread.is_alive()
        assert here.row.version == 1
