"""Faults in what requests do about tokens."""
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from atproto_oauth_asgi.live import Calls, Flight, LiveSession
from atproto_oauth_asgi.middleware import ATProtoOAuthMiddleware
from atproto_oauth_asgi.oauth import ATProtoOAuth
from atproto_oauth_asgi.session_auth import SessionAuth
from atproto_oauth_asgi.upkeep import Upkeep
from tests.refresh.faults import fault


def _constructed(what: str, **always: Any) -> None:
    def plant(patch: pytest.MonkeyPatch) -> None:
        init: Any = ATProtoOAuth.__init__

        def faulty(self: Any, *args: Any, **kwargs: Any) -> None:
            init(self, *args, **{**kwargs, **always})

        patch.setattr(ATProtoOAuth, "__init__", faulty)

    fault(what)(plant)


_constructed("the constructor's times are ignored", timing=None)
_constructed("refreshes start at the first use", refresh="on_use")


@fault("the window is fixed")
def _fixed_window(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LiveSession, "due", lambda self, window: self.remaining <= window)


@fault("there is no window")
def _no_window(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LiveSession, "due", lambda self, _window: self.remaining <= 0)


@fault("every page waits")
def _pages_wait(patch: pytest.MonkeyPatch) -> None:
    original: Any = ATProtoOAuthMiddleware._session

    async def faulty(self: Any, *args: Any) -> Any:
        found = await original(self, *args)
        runtime = self.oauth.running()
        for live in list(runtime.sessions._live.values()):
            if live.flight is not None:
                await live.flight.wait(5.0)
        return found

    patch.setattr(ATProtoOAuthMiddleware, "_session", faulty)


@fault("requests take the refresh along")
def _taken_along(patch: pytest.MonkeyPatch) -> None:
    wait: Any = Flight.wait

    async def faulty(self: Flight, timeout: float) -> bool:
        served: bool = False
        try:
            served = bool(await wait(self, timeout))
        finally:
            if not served and self.task is not None:
                self.task.cancel()
        return served

    patch.setattr(Flight, "wait", faulty)


@fault("requests wait for ever")
def _wait_for_ever(patch: pytest.MonkeyPatch) -> None:
    wait: Any = Flight.wait

    async def faulty(self: Flight, _timeout: float) -> bool:
        served: bool = await wait(self, 60.0)
        return served

    patch.setattr(Flight, "wait", faulty)


@fault("everybody waits again")
def _again(patch: pytest.MonkeyPatch) -> None:
    always = property(lambda _: False, lambda _self, _value: None)
    patch.setattr(LiveSession, "waited_in_vain", always, raising=False)


@fault("nobody waits ever again")
def _never_again(patch: pytest.MonkeyPatch) -> None:
    def keep(self: Any, value: bool) -> None:
        self._vain = getattr(self, "_vain", False) or value

    sticky = property(lambda self: getattr(self, "_vain", False), keep)
    patch.setattr(LiveSession, "waited_in_vain", sticky, raising=False)


def _drains(what: str, **always: float) -> None:
    def plant(patch: pytest.MonkeyPatch) -> None:
        drain: Any = Calls.drain

        async def faulty(self: Calls, timeout: float, *, streams_timeout: float) -> None:
            given = {"timeout": timeout, "streams_timeout": streams_timeout, **always}
            await drain(self, given["timeout"], streams_timeout=given["streams_timeout"])

        patch.setattr(Calls, "drain", faulty)

    fault(what)(plant)


_drains("nothing is drained", timeout=0.0, streams_timeout=0.0)
_drains("draining has no end", timeout=60.0)
_drains("streams are drained like calls", streams_timeout=0.0)


def _ready(what: str, *, replayable: bool) -> None:
    def plant(patch: pytest.MonkeyPatch) -> None:
        ready: Any = Upkeep.ready

        async def faulty(self: Upkeep, live: LiveSession, **_: Any) -> None:
            await ready(self, live, replayable=replayable)

        patch.setattr(Upkeep, "ready", faulty)

    fault(what)(plant)


_ready("calls in the air time go out", replayable=True)
_ready("calls in the air time never go out", replayable=False)


@fault("versions are not compared")
def _not_compared(patch: pytest.MonkeyPatch) -> None:
    renew: Any = Upkeep.renew

    async def faulty(self: Upkeep, live: LiveSession, _used: int) -> bool:
        newer: bool = await renew(self, live, live.version)
        return newer

    patch.setattr(Upkeep, "renew", faulty)


@fault("nobody waits for a lease that is held")
def _held_given_up(patch: pytest.MonkeyPatch) -> None:
    renew: Any = Upkeep.renew

    async def faulty(self: Any, live: LiveSession, used: int) -> bool:
        record = await self._store.load_session(live.id)
        if record is not None and (record.lease_remaining_ms or 0) > 0:
            return False
        newer: bool = await renew(self, live, used)
        return newer

    patch.setattr(Upkeep, "renew", faulty)


@fault("a refused token is never refreshed")
def _never_renewed(patch: pytest.MonkeyPatch) -> None:
    async def faulty(*_: Any) -> bool:
        return False

    patch.setattr(Upkeep, "renew", faulty)


@fault("the interval does not count after a 401")
def _always_allowed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LiveSession, "allowed", property(lambda _: True))


@fault("streams are not primed")
def _unprimed(patch: pytest.MonkeyPatch) -> None:
    async def faulty(
        self: Any, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        await self._upkeep.ready(self._live, replayable=False)
        self._sign(request)
        await asyncio.sleep(0)
        yield request

    patch.setattr(SessionAuth, "async_auth_flow", faulty)
