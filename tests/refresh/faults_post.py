"""Faults of the check and of the token request."""
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextvars
import time
from typing import Any

import pytest

from atproto_oauth_asgi import refresh_request
from atproto_oauth_asgi.errors import FetchError, RefreshFailed
from atproto_oauth_asgi.lease import Hold, Leases
from atproto_oauth_asgi.net import Net
from atproto_oauth_asgi.refresh import Refresher
from atproto_oauth_asgi.refresh_request import RefreshRequests
from tests.refresh import fleet
from tests.refresh.faults import fault

# --- Verify and POST ---


@fault("the lease is kept on failure")
def _lease_kept(patch: pytest.MonkeyPatch) -> None:
    async def faulty(_self: Leases, hold: Hold, message: str, **_: Any) -> None:
        hold.flight.error = RefreshFailed(message)
        hold.flight.serve()

    patch.setattr(Leases, "give_back", faulty)


@fault("verify skipped")
def _no_verify(patch: pytest.MonkeyPatch) -> None:
    async def faulty(self: Any, hold: Hold) -> Any:
        return hold.live.pds, await self._discovery.for_issuer(hold.live.issuer)

    patch.setattr(Refresher, "_verify", faulty)


@fault("the issuer is not compared")
def _any_issuer(patch: pytest.MonkeyPatch) -> None:
    async def faulty(self: Any, hold: Hold) -> Any:
        pds = await self._resolver.locate(hold.live.did, fresh=True)
        return pds, await self._discovery.for_pds(pds, fresh=True)

    patch.setattr(Refresher, "_verify", faulty)


@fault("the old PDS is kept")
def _old_pds(patch: pytest.MonkeyPatch) -> None:
    verify: Any = Refresher._verify

    async def faulty(self: Any, hold: Hold) -> Any:
        found = await verify(self, hold)
        return found and (hold.live.pds, found[1])

    patch.setattr(Refresher, "_verify", faulty)


def _await_for(patch: pytest.MonkeyPatch, seconds: Any) -> None:
    async def faulty(_self: Any, task: asyncio.Task[Any], _left: Any) -> Any:
        done, _ = await asyncio.wait({task}, timeout=seconds())
        if not done:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return None
        return task.result()

    patch.setattr(RefreshRequests, "_await_post", faulty)


@fault("late answers are dropped")
def _dropped(patch: pytest.MonkeyPatch) -> None:
    _await_for(patch, lambda: fleet.TIMING.post)


@fault("one deadline for all")
def _one_deadline(patch: pytest.MonkeyPatch) -> None:
    start: contextvars.ContextVar[float] = contextvars.ContextVar("start")
    original: Any = Refresher._refresh

    async def faulty(self: Any, hold: Hold) -> None:
        start.set(time.monotonic())
        await original(self, hold)

    patch.setattr(Refresher, "_refresh", faulty)
    _await_for(patch, lambda: max(0.0, fleet.TIMING.post + start.get() - time.monotonic()))


@fault("blind retry")
def _blind(patch: pytest.MonkeyPatch) -> None:
    attempt: Any = vars(refresh_request)["attempt"]

    async def faulty(*args: Any, **kwargs: Any) -> Any:
        try:
            return await attempt(*args, **kwargs)
        except FetchError:
            return await attempt(*args, **kwargs)

    patch.setattr(refresh_request, "attempt", faulty)


@fault("nonces are chased for ever")
def _chased(patch: pytest.MonkeyPatch) -> None:
    class Forgetful(set[object]):
        asked = 0

        def __contains__(self, _: object) -> bool:
            self.asked += 1
            return self.asked > 5

    patch.setattr(refresh_request, "set", Forgetful, raising=False)


@fault("a connection may be idle for long")
def _idle_for_long(patch: pytest.MonkeyPatch) -> None:
    init: Any = Net.__init__

    def faulty(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **{"idle_seconds": 60.0, **kwargs})

    patch.setattr(Net, "__init__", faulty)


@fault("idle connections are used")
def _idle(patch: pytest.MonkeyPatch) -> None:
    init: Any = Net.__init__

    def faulty(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self._single_posts = self._posts

    patch.setattr(Net, "__init__", faulty)
