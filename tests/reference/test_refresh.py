from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from http.cookiejar import CookieJar
from pathlib import Path

import anyio
import httpx
import pytest

from atproto_oauth_asgi.refresh_timing import RefreshTiming
from tests.reference.install import ROOT
from tests.reference.network import ReferenceNetwork
from tests.reference.rows import Rows
from tests.reference.world import BASE_URL, World, grant_of, refused_refresh, until, world

pytestmark = pytest.mark.anyio

ALICE = "alice.test"
MANY = 50


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return Rows(tmp_path / "app.db")


async def signed_in(network: ReferenceNetwork, rows: Rows) -> CookieJar:
    """Log somebody in to an app that then stops, and return the browser's cookies."""
    async with world(network, store_url=rows.store_url) as here:
        assert (await here.login()).status_code == 303
        return here.browser.cookies.jar


async def statuses_until(
    here: World, done: Callable[[httpx.Response], bool], *, seconds: float = 20
) -> list[int]:
    """Ask who is signed in until an answer is the one; return all statuses."""
    deadline = time.monotonic() + seconds
    statuses: list[int] = []
    while True:
        answer = await here.browser.get("/me")
        statuses.append(answer.status_code)
        if done(answer):
            return statuses
        assert time.monotonic() < deadline, statuses
        await anyio.sleep(0.02)


async def all_of(*calls: Awaitable[httpx.Response]) -> list[int]:
    return [answer.status_code for answer in await asyncio.gather(*calls)]


# --- One request, however many wait for it ---


@pytest.mark.parametrize("told_by", ["the clock", "the PDS"])
async def test_fifty_requests_on_a_stale_session_make_one_token_request(
    reference: ReferenceNetwork, rows: Rows, told_by: str
) -> None:
    cookies = await signed_in(reference, rows)
    if told_by == "the clock":
        rows.token_life(-1)
    else:
        rows.allow_refresh()
        reference.refuse_access_tokens(reference.account(ALICE).did)
    reference.control.clear_log()
    async with world(reference, store_url=rows.store_url, cookies=cookies) as here:
        statuses = await all_of(*(here.browser.get("/me") for _ in range(MANY)))

    assert statuses == [200] * MANY
    assert [entry.status for entry in reference.control.refreshes()] == [200]
    assert rows.session()["version"] == 2


async def test_fifty_requests_in_two_processes_make_one_token_request(
    reference: ReferenceNetwork, rows: Rows
) -> None:
    cookies = await signed_in(reference, rows)
    rows.token_life(-1)
    reference.control.clear_log()
    with workers(reference, rows, 2) as started:
        async with httpx.AsyncClient(cookies=cookies, timeout=60, trust_env=False) as browser:

            async def fifty() -> list[int]:
                urls = [f"{started[turn % 2].url}/me" for turn in range(MANY)]
                return await all_of(*(browser.get(url) for url in urls))

            by_the_clock = await fifty()
            after_one = [entry.status for entry in reference.control.refreshes()]
            rows.allow_refresh()
            reference.refuse_access_tokens(reference.account(ALICE).did)
            by_the_pds = await fifty()

    assert by_the_clock == by_the_pds == [200] * MANY
    assert after_one == [200]
    assert [entry.status for entry in reference.control.refreshes()] == [200, 200]
    assert rows.session()["version"] == 3


@dataclass(frozen=True, slots=True)
class Worker:
    process: subprocess.Popen[str]
    url: str


@contextlib.contextmanager
def workers(
    network: ReferenceNetwork, rows: Rows, count: int, *, marked_lease: float = 75
) -> Generator[list[Worker]]:
    """Start processes that serve the app."""
    options = {
        "base_url": BASE_URL,
        "store_url": rows.store_url,
        "plc_url": network.plc,
        "marked_lease": marked_lease,
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.reference.worker"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    try:
        started: list[Worker] = []
        for process in processes:
            print(json.dumps(options), file=process.stdin, flush=True)
        for process in processes:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            started.append(Worker(process, f"http://127.0.0.1:{port}"))
        yield started
    finally:
        for process in processes:
            # A closed stdin ends a worker in good order.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=10)
            process.kill()
            process.wait()


async def test_a_worker_killed_with_a_request_in_the_air_loses_the_session_by_its_right_name(
    reference: ReferenceNetwork, rows: Rows
) -> None:
    cookies = await signed_in(reference, rows)
    rows.token_life(-1)
    reference.control.clear_log()
    reference.control.hold_answers(grant_type="refresh_token")
    with workers(reference, rows, 1, marked_lease=1.5) as (doomed,):
        async with httpx.AsyncClient(cookies=cookies, timeout=60, trust_env=False) as browser:
            asking = asyncio.create_task(browser.get(f"{doomed.url}/me"))
            await until(lambda: [e.status for e in reference.control.refreshes()] == [200])
            doomed.process.kill()
            with pytest.raises(httpx.TransportError):
                await asking
    lease_over = rows.session()["lease_until"] / 1000
    timing = RefreshTiming(watch=0.3, poll_longest=0.05)
    async with world(reference, store_url=rows.store_url, cookies=cookies, timing=timing) as here:
        statuses = await statuses_until(here, lambda answer: answer.status_code == 401)

    assert set(statuses) <= {503, 401}
    assert rows.session()["ended_reason"] == "lost_rotation"
    # One replay, after the lease was over and watched, and none before.
    entries = reference.control.refreshes()
    assert [entry.error for entry in entries] == [None, "invalid_grant"]
    # Milliseconds of several clocks.
    assert entries[1].at - lease_over >= timing.watch - 0.05


# --- Requests that end early ---


@pytest.mark.parametrize("lifespan", [True, False])
async def test_a_person_who_leaves_in_the_middle_loses_nothing(
    reference: ReferenceNetwork, rows: Rows, lifespan: bool
) -> None:
    cookies = await signed_in(reference, rows)
    rows.token_life(-1)
    reference.control.clear_log()
    reference.control.hold_answers(grant_type="refresh_token")
    async with world(reference, store_url=rows.store_url, cookies=cookies, owned=lifespan) as here:
        leaving = asyncio.create_task(here.browser.get("/me"))
        await until(lambda: [e.status for e in reference.control.refreshes()] == [200])
        leaving.cancel()
        if not lifespan:
            # The request itself sees it through.
            reference.control.release()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        left_with = rows.session()["version"]
        reference.control.release()
        answer = await here.browser.get("/me")

    assert left_with == (1 if lifespan else 2)
    assert answer.status_code == 200
    assert [entry.status for entry in reference.control.refreshes()] == [200]


# --- Answers that are lost, late, or refusals ---


async def test_an_answer_lost_after_the_rotation_ends_the_session_as_a_lost_rotation(
    reference: ReferenceNetwork, rows: Rows
) -> None:
    cookies = await signed_in(reference, rows)
    rows.token_life(-1)
    reference.control.clear_log()
    reference.control.drop_answers(grant_type="refresh_token")
    timing = RefreshTiming(backoff=0.2)
    async with world(reference, store_url=rows.store_url, cookies=cookies, timing=timing) as here:
        statuses = await statuses_until(here, lambda answer: answer.status_code == 401)
        assert await here.did() is None
    row, entries = rows.session(), reference.control.refreshes()

    # 503 while it might have been a passing failure, then the one replay that tells.
    assert set(statuses[:-1]) == {503}
    assert (row["status"], row["ended_reason"]) == ("ended", "lost_rotation")
    assert row["sealed_tokens"] is None
    assert [(entry.status, entry.error, entry.fault) for entry in entries] == [
        (200, None, "drop"),
        (400, "invalid_grant", None),
    ]
    assert entries[0].token == entries[1].token


async def test_an_overloaded_server_is_left_alone_for_as_long_as_it_asks(
    reference: ReferenceNetwork, rows: Rows
) -> None:
    cookies = await signed_in(reference, rows)
    rows.token_life(-1)
    reference.control.clear_log()
    reference.control.fail_requests(503, grant_type="refresh_token", retry_after=2)
    async with world(reference, store_url=rows.store_url, cookies=cookies) as here:
        statuses = await statuses_until(here, lambda answer: answer.status_code == 200)
        signed_in_as = await here.did()
    entries = reference.control.refreshes()

    assert set(statuses[:-1]) == {503}
    assert len(statuses) > 2
    assert signed_in_as == reference.account(ALICE).did
    assert [entry.status for entry in entries] == [503, 200]
    # Whole milliseconds on two clocks.
    assert entries[1].at - (entries[0].ended or 0) >= 1.99


async def test_an_unavailable_server_costs_nobody_a_call_while_the_token_lives(
    reference: ReferenceNetwork, rows: Rows
) -> None:
    cookies = await signed_in(reference, rows)
    rows.token_life(30)
    reference.control.clear_log()
    reference.control.fail_requests(500, grant_type="refresh_token")
    async with world(reference, store_url=rows.store_url, cookies=cookies) as here:
        statuses = [(await here.browser.get("/me")).status_code for _ in range(5)]

    assert statuses == [200] * 5
    failed, *later = reference.control.refreshes()
    assert failed.status == 500
    # The first backoff is two seconds, give or take a fifth: on a slow machine it may be over.
    assert all(entry.at - failed.at >= 1.5 for entry in later)
    assert rows.session()["status"] == "active"


async def test_a_slow_answer_is_waited_for(reference: ReferenceNetwork, rows: Rows) -> None:
    cookies = await signed_in(reference, rows)
    rows.token_life(-1)
    reference.control.clear_log()
    reference.control.delay_answers(1, grant_type="refresh_token")
    async with world(reference, store_url=rows.store_url, cookies=cookies) as here:
        statuses = await all_of(*(here.browser.get("/me") for _ in range(10)))

    assert statuses == [200] * 10
    assert [(entry.status, entry.fault) for entry in reference.control.refreshes()] == [
        (200, "delay")
    ]


@pytest.mark.parametrize("left", [-1, 30])
async def test_an_answer_slower_than_a_request_waits_is_not_lost(
    reference: ReferenceNetwork, rows: Rows, left: int
) -> None:
    """With life left in it the old token is dead all the same: the server has rotated."""
    cookies = await signed_in(reference, rows)
    rows.token_life(left)
    reference.control.clear_log()
    reference.control.hold_answers(grant_type="refresh_token")
    timing = RefreshTiming(wait=0.2)
    async with world(reference, store_url=rows.store_url, cookies=cookies, timing=timing) as here:
        # With life left in it calls go on, until the server has rotated.
        statuses = await statuses_until(here, lambda answer: answer.status_code == 503)
        # More than `late_answer`: nobody may have given it up.
        await anyio.sleep(1.3)
        reference.control.release()
        statuses += await statuses_until(here, lambda _: rows.session()["version"] == 2)
        statuses.append((await here.browser.get("/me")).status_code)

    assert set(statuses) <= {503, 200}
    assert statuses[-1] == 200
    assert [entry.status for entry in reference.control.refreshes()] == [200]
    assert rows.session()["version"] == 2


async def test_an_app_that_stops_during_a_slow_answer_keeps_the_tokens(
    reference: ReferenceNetwork, rows: Rows
) -> None:
    cookies = await signed_in(reference, rows)
    rows.token_life(-1)
    reference.control.clear_log()
    reference.control.hold_answers(grant_type="refresh_token")
    timing = RefreshTiming(wait=0.2)
    async with world(reference, store_url=rows.store_url, cookies=cookies, timing=timing) as here:
        assert (await here.browser.get("/me")).status_code == 503
        # By then the app is stopping.
        asyncio.get_running_loop().call_later(1, reference.control.release)
    async with world(reference, store_url=rows.store_url, cookies=cookies) as again:
        answer = await again.browser.get("/me")

    assert answer.status_code == 200
    assert [entry.status for entry in reference.control.refreshes()] == [200]


async def test_a_logout_during_a_slow_answer_leaves_no_grant_behind(
    reference: ReferenceNetwork, rows: Rows
) -> None:
    async with world(reference, store_url=rows.store_url) as first:
        await first.login()
        grant = await grant_of(first, reference.account(ALICE).did)
    rows.token_life(-1)
    reference.control.clear_log()
    reference.control.hold_answers(grant_type="refresh_token")
    cookies, timing = first.browser.cookies.jar, RefreshTiming(wait=0.2)
    async with world(reference, store_url=rows.store_url, cookies=cookies, timing=timing) as here:
        assert (await here.browser.get("/me")).status_code == 503
        # Only a server that has rotated can leave a grant behind.
        await until(lambda: any(entry.status == 200 for entry in reference.control.refreshes()))
        await here.logout()
        assert await here.did() is None
        reference.control.release()

    assert rows.session()["ended_reason"] == "logout"
    assert [entry.status for entry in reference.control.refreshes()] == [200]
    assert await refused_refresh(grant) == "invalid_grant"
    revoked = [entry for entry in reference.control.log("/oauth/revoke") if entry.status == 200]
    # The old refresh token by the logout; what came late, by whoever received it.
    assert len({entry.token for entry in revoked}) == 2
