"""Tokens of any life are refreshed in time; no interval and no backoff starves them."""
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from atproto_oauth_asgi import commit, dpop, lease, live, refresh, sessions
from atproto_oauth_asgi.live import LiveSession
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.tokens import TokenResponse
from atproto_oauth_asgi_stores.memory import MemoryStore
from tests.app.world import World, world
from tests.refresh.fleet import SECRET_KEYS, TIMING

pytestmark = pytest.mark.anyio
LIVES = (4.0, 30.0, 3600.0)


class Time:
    """Is the time of everybody: process, store and servers. Only tests let it pass."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def wall(self) -> float:
        return time.time() + self.ahead

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def milliseconds(self) -> int:
        return int(self.wall() * 1000)


@asynccontextmanager
async def _living(
    life: float, patch: pytest.MonkeyPatch
) -> AsyncGenerator[tuple[World, Time, Network]]:
    clock = Time()
    namespace = SimpleNamespace(time=clock.wall, monotonic=clock.monotonic)
    for module in (commit, dpop, lease, refresh):
        patch.setattr(module, "time", namespace)
    for module in (live, sessions):
        patch.setattr(module, "monotonic", clock.monotonic)
    network = Network(token_life=life, clock=clock.wall)
    store = MemoryStore(clock=clock.milliseconds)
    async with world(network, store=store, timing=TIMING, secret_keys=SECRET_KEYS) as here:
        assert (await here.login()).status_code == 303
        yield here, clock, network


async def _use(here: World, clock: Time, *, every: float, times: int) -> Counter[int]:
    """Open a page that calls the PDS, again and again."""
    statuses: Counter[int] = Counter()
    for _ in range(times):
        clock.ahead += every
        statuses[(await here.browser.get("/me")).status_code] += 1
    return statuses


@pytest.mark.parametrize("life", LIVES)
async def test_a_busy_session_never_meets_an_expired_token(
    life: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _living(life, monkeypatch) as (here, clock, network):
        step = min(life / 5, 60.0) * 0.8
        statuses = await _use(here, clock, every=step, times=200)

        assert statuses == {200: 200}
        refused = [one for one in network.log.of("xrpc") if one.error == "invalid_token"]
        assert refused == []
        # Not before the window, and once in each life.
        lives = 200 * step / (life - min(life / 5, 60.0))
        assert lives * 0.6 <= len(network.token_requests("refresh_token")) <= lives * 1.2 + 1


@pytest.mark.parametrize("life", LIVES)
async def test_a_session_that_comes_back_late_is_served_at_once(
    life: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _living(life, monkeypatch) as (here, clock, network):
        assert await _use(here, clock, every=life * 1.5, times=8) == {200: 8}
        assert len(network.token_requests("refresh_token")) == 8


@pytest.mark.parametrize("life", LIVES)
async def test_a_token_that_the_pds_refuses_is_replaced_after_half_of_a_short_life(
    life: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _living(life, monkeypatch) as (here, clock, network):
        clock.ahead += min(life / 2, 10.0) + 0.1
        network.expire_access_tokens()
        assert (await here.browser.get("/me")).status_code == 200


@pytest.mark.parametrize("life", LIVES)
async def test_failures_delay_a_session_and_never_starve_it(
    life: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _living(life, monkeypatch) as (here, clock, network):
        for _ in range(4):
            network.faults.fail(503, times=2, grant="refresh_token")
            clock.ahead += life + 1
            # Two failures: 2 s and 4 s, each a fifth more at most.
            statuses = await _use(here, clock, every=0.4, times=20)
            assert set(statuses) == {200, 503}
            assert statuses[503] * 0.4 <= (2 + 4) * 1.2 + 0.8
            assert (await here.browser.get("/me")).status_code == 200


async def test_an_interval_as_long_as_the_life_would_starve_short_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TokenResponse, "refresh_after_ms", property(lambda _: 10_000))
    async with _living(4.0, monkeypatch) as (here, clock, _):
        statuses = await _use(here, clock, every=0.64, times=30)
        assert statuses[503] > 0


async def test_a_window_of_a_minute_would_rotate_short_tokens_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LiveSession, "due", lambda self, window: self.remaining <= window)
    async with _living(30.0, monkeypatch) as (here, clock, network):
        await _use(here, clock, every=4.8, times=60)
        assert len(network.token_requests("refresh_token")) > 60 * 4.8 / 24 * 1.2 + 1


@pytest.mark.slow
async def test_tokens_of_one_second_are_refreshed_in_real_time() -> None:
    network = Network(token_life=1.0)
    async with world(network, timing=TIMING, secret_keys=SECRET_KEYS) as here:
        await here.login()
        end = time.monotonic() + 3.2
        statuses: Counter[int] = Counter()
        while time.monotonic() < end:
            statuses[(await here.browser.get("/me")).status_code] += 1
            await asyncio.sleep(0.05)
        assert set(statuses) == {200}
        assert 2 <= len(network.token_requests("refresh_token")) <= 4
