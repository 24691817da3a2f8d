"""Tokens of any life are refreshed in time; no interval and no backoff starves them."""
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine

import pytest

from atproto_oauth_asgi.live import LiveSession
from atproto_oauth_asgi.refresh_timing import RefreshTiming
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.tokens import TokenResponse
from tests.app.world import World, world
from tests.refresh.fleet import SECRET_KEYS
from tests.virtual_time import in_virtual_time

LIVES = (1.0, 4.0, 30.0, 3600.0)
Work = Callable[[World], Coroutine[object, object, None]]


def _with_tokens_of(life: float, work: Work) -> None:
    """Log alice in where access tokens live for so many seconds; all else is as apps have it."""

    async def logged_in() -> None:
        network = Network(token_life=life)
        async with world(network, timing=RefreshTiming(), secret_keys=SECRET_KEYS) as here:
            assert (await here.login()).status_code == 303
            await work(here)

    in_virtual_time(logged_in)


def _refreshes(here: World) -> int:
    return len(here.network.token_requests("refresh_token"))


async def _use(here: World, *, every: float, times: int) -> Counter[int]:
    """Open a page that calls the PDS, again and again."""
    statuses: Counter[int] = Counter()
    for _ in range(times):
        await asyncio.sleep(every)
        statuses[(await here.browser.get("/me")).status_code] += 1
    return statuses


@pytest.mark.parametrize("life", LIVES)
def test_a_busy_session_never_meets_an_expired_token(life: float) -> None:
    async def work(here: World) -> None:
        step = min(life / 5, 60.0) * 0.8
        statuses = await _use(here, every=step, times=200)

        assert statuses == {200: 200}
        refused = [one for one in here.network.log.of("xrpc") if one.error == "invalid_token"]
        # The interval of a second is longer than the life before the window of a token of 1 s.
        assert life == 1.0 or refused == []
        # Not before the window, and once in each life.
        lives = 200 * step / max(1.0, life - min(life / 5, 60.0))
        assert lives * 0.6 <= _refreshes(here) <= lives * 1.2 + 1

    _with_tokens_of(life, work)


@pytest.mark.parametrize("life", LIVES)
def test_a_session_that_comes_back_late_is_served_at_once(life: float) -> None:
    async def work(here: World) -> None:
        assert await _use(here, every=life * 1.5, times=8) == {200: 8}
        assert _refreshes(here) == 8

    _with_tokens_of(life, work)


@pytest.mark.parametrize("life", LIVES)
def test_a_token_that_the_pds_refuses_is_replaced_after_half_of_a_short_life(life: float) -> None:
    async def work(here: World) -> None:
        await asyncio.sleep(max(1.0, min(life / 2, 10.0)))
        here.network.expire_access_tokens()
        assert (await here.browser.get("/me")).status_code == 200

    _with_tokens_of(life, work)


@pytest.mark.parametrize("life", LIVES)
def test_failures_delay_a_session_and_never_starve_it(life: float) -> None:
    async def work(here: World) -> None:
        for _ in range(4):
            here.network.faults.fail(503, times=2, grant="refresh_token")
            await asyncio.sleep(life + 1)
            # Two failures: 2 s and 4 s, each a fifth more at most.
            statuses = await _use(here, every=0.4, times=20)
            assert set(statuses) == {200, 503}
            assert statuses[503] * 0.4 <= (2 + 4) * 1.2 + 0.8
            assert (await here.browser.get("/me")).status_code == 200

    _with_tokens_of(life, work)


def test_a_session_is_used_for_a_day() -> None:
    async def work(here: World) -> None:
        assert await _use(here, every=299.0, times=289) == {200: 289}
        assert 24 <= _refreshes(here) <= 25

    _with_tokens_of(3600.0, work)


def test_an_interval_as_long_as_the_life_would_starve_short_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TokenResponse, "refresh_after_ms", property(lambda _: 10_000))

    async def work(here: World) -> None:
        statuses = await _use(here, every=0.64, times=30)
        assert statuses[503] > 0

    _with_tokens_of(4.0, work)


def test_a_window_of_a_minute_would_rotate_short_tokens_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LiveSession, "due", lambda self, window: self.remaining <= window)

    async def work(here: World) -> None:
        await _use(here, every=4.8, times=60)
        assert _refreshes(here) > 60 * 4.8 / 24 * 1.2 + 1

    _with_tokens_of(30.0, work)
