from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from atproto_oauth_asgi.errors import SessionRevoked
from atproto_oauth_asgi.refresh_timing import RefreshTiming
from tests.reference.conftest import ReferenceFactory
from tests.reference.install import Installed
from tests.reference.network import ReferenceNetwork
from tests.reference.rows import Rows
from tests.reference.world import grant_of, refused_refresh, world

pytestmark = pytest.mark.anyio

ALICE = "alice.test"
#: The defaults, but a failed refresh may be tried again soon.
IMPATIENT = RefreshTiming(backoff=0.2)


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return Rows(tmp_path / "app.db")


# --- Refreshed without the app noticing ---


async def test_a_token_that_lives_for_seconds_is_renewed_before_the_pds_refuses_it(
    reference_factory: ReferenceFactory,
) -> None:
    network = reference_factory(token_max_age=3)
    network.control.clear_log()
    async with world(network) as here:
        await here.login()
        here.listen()
        statuses, challenges = set[int](), set[str | None]()
        deadline = time.monotonic() + 30
        while len(network.control.refreshes()) < 2:
            began = time.monotonic()
            assert began < deadline
            before = len(here.heard)
            statuses.add((await here.browser.get("/me")).status_code)
            # The window is 0.4 s: in a call that hangs for longer, the token may die.
            challenges |= {
                heard.challenge for heard in here.heard[before:] if heard.at - began < 0.3
            }
            await anyio.sleep(0.05)

    assert statuses == {200}
    assert "invalid_token" not in challenges
    assert {entry.status for entry in network.control.refreshes()} == {200}


async def test_a_token_in_its_window_is_renewed_while_it_still_works(
    reference: ReferenceNetwork, rows: Rows
) -> None:
    async with world(reference, store_url=rows.store_url) as first:
        await first.login()
    rows.token_life(30)
    reference.control.clear_log()
    async with world(reference, store_url=rows.store_url, cookies=first.browser.cookies.jar) as now:
        now.listen()
        answers = [(await now.browser.get("/me")).status_code for _ in range(3)]

    assert answers == [200, 200, 200]
    assert "invalid_token" not in [heard.challenge for heard in now.heard]
    assert [entry.status for entry in reference.control.refreshes()] == [200]


async def test_a_token_that_died_of_age_is_renewed_on_the_pds_s_401(
    reference_factory: ReferenceFactory, rows: Rows
) -> None:
    network = reference_factory(token_max_age=6)
    async with world(network, store_url=rows.store_url) as first:
        await first.login()
        grant = await grant_of(first, network.account(ALICE).did)
    rows.token_life(3000)
    network.control.clear_log()
    async with grant.raw() as raw:
        deadline = time.monotonic() + 30
        while (await raw.get_session(grant.access_token)).status_code == 200:
            assert time.monotonic() < deadline
            await anyio.sleep(0.1)
    async with world(network, store_url=rows.store_url, cookies=first.browser.cookies.jar) as now:
        now.listen()
        answer = await now.browser.get("/me")

    assert answer.status_code == 200
    assert [heard.challenge for heard in now.heard][-2:] == ["invalid_token", None]
    assert [entry.status for entry in network.control.refreshes()] == [200]


async def test_a_stream_that_cannot_be_sent_twice_survives_a_401_and_a_new_nonce(
    reference: ReferenceNetwork, rows: Rows
) -> None:
    async with world(reference, store_url=rows.store_url) as first:
        await first.login()
    rows.allow_refresh()
    reference.refuse_access_tokens(reference.account(ALICE).did)
    sent: list[int] = []

    async def pieces() -> AsyncGenerator[bytes]:
        for _ in range(4):
            sent.append(1)
            yield b"x" * 1000

    async with world(reference, store_url=rows.store_url, cookies=first.browser.cookies.jar) as now:
        now.listen()
        answer = await now.browser.post(
            "/blob?stream", content=pieces(), headers={"content-type": "text/plain"}
        )

    assert answer.json()["blob"]["size"] == 4000
    assert len(sent) == 4
    assert [(heard.path.rpartition(".")[2], heard.challenge) for heard in now.heard] == [
        ("getSession", "use_dpop_nonce"),
        ("getSession", "invalid_token"),
        ("getSession", None),
        ("uploadBlob", None),
    ]


# --- Nonces ---


async def test_nonces_that_change_every_second_cost_no_call_its_answer(
    reference_factory: ReferenceFactory,
) -> None:
    network = reference_factory(dpop_interval=1)
    async with world(network) as here:
        await here.login()
        calls, longest, statuses = 0, math.inf, set[int]()
        deadline = time.monotonic() + 30
        # Once more, where the machine stood still.
        while longest >= 1:
            last = time.monotonic()
            await here.browser.get("/me")
            here.listen()
            calls, longest = 0, 0.0
            # Four: a nonce is taken for three intervals at most, so an old one is noticed.
            while len({heard.nonce for heard in here.heard}) < 4:
                assert time.monotonic() < deadline
                statuses.add((await here.browser.get("/me")).status_code)
                calls += 1
                longest = max(longest, time.monotonic() - last)
                last = time.monotonic()
                await anyio.sleep(0.05)
        steady = len(here.heard)
        # A nonce is taken for at most three intervals after it was given.
        await anyio.sleep(3.2)
        statuses.add((await here.browser.get("/me")).status_code)
        woken = [heard.challenge for heard in here.heard[steady:]]
        written = await here.browser.post("/post")

    assert statuses == {200}
    # Who calls more often than the nonce changes is always ahead of it.
    assert steady == calls
    assert woken == ["use_dpop_nonce", None]
    assert written.status_code == 200


# --- Restarts ---


@pytest.mark.parametrize("key", ["its own", "given"])
async def test_sessions_outlive_a_restart_of_the_app(
    reference: ReferenceNetwork, rows: Rows, key: str
) -> None:
    keys = (b"k" * 32,) if key == "given" else ()
    async with world(reference, store_url=rows.store_url, secret_keys=keys) as first:
        await first.login()
    reference.control.clear_log()
    async with world(
        reference, store_url=rows.store_url, secret_keys=keys, cookies=first.browser.cookies.jar
    ) as again:
        answer = await again.browser.get("/me")

    assert answer.json()["did"] == reference.account(ALICE).did
    assert reference.control.log() == []


async def test_a_session_outlives_a_restart_of_the_pds(
    reference_install: Installed, rows: Rows
) -> None:
    with ReferenceNetwork(accounts=(ALICE,)) as network:
        alice = network.account(ALICE).did
        async with world(network, store_url=rows.store_url, timing=IMPATIENT) as here:
            await here.login()
            await anyio.to_thread.run_sync(network.stop_pds)
            down = await here.browser.get("/me")
            still = await here.did()
            await anyio.to_thread.run_sync(network.start_pds)
            here.listen()
            up = await here.browser.get("/me")

        rows.token_life(-5)
        jar = here.browser.cookies.jar
        async with world(network, store_url=rows.store_url, cookies=jar, timing=IMPATIENT) as stale:
            await anyio.to_thread.run_sync(network.kill_pds)
            unrefreshed = await stale.browser.get("/me")
            signed_in = await stale.did()
            await anyio.to_thread.run_sync(network.start_pds)
            network.control.clear_log()
            deadline = time.monotonic() + 15
            while (refreshed := await stale.browser.get("/me")).status_code == 503:
                assert time.monotonic() < deadline
                await anyio.sleep(0.05)

    assert (down.status_code, down.json()["error"]) == (502, "unreachable")
    assert still == signed_in == alice
    assert up.status_code == 200
    # The PDS came back with other nonces.
    assert [heard.challenge for heard in here.heard] == ["use_dpop_nonce", None]
    assert (unrefreshed.status_code, unrefreshed.json()["error"]) == (503, "refresh_failed")
    assert refreshed.json()["did"] == alice
    assert [entry.status for entry in network.control.refreshes()] == [200]


# --- Ends ---


async def test_after_logout_the_server_refuses_the_old_tokens(
    reference: ReferenceNetwork, rows: Rows
) -> None:
    async with world(reference, store_url=rows.store_url) as here:
        await here.login()
        grant = await grant_of(here, reference.account(ALICE).did)
        async with grant.raw() as raw:
            before = await raw.get_session(grant.access_token)
        out = await here.logout()
        async with grant.raw() as raw:
            after = await raw.get_session(grant.access_token)

        assert out.status_code == 303
        assert await here.did() is None
    assert (before.status_code, after.status_code) == (200, 401)
    assert await refused_refresh(grant) == "invalid_grant"
    assert rows.session()["ended_reason"] == "logout"
    assert rows.session()["sealed_tokens"] is None


async def test_logging_out_one_browser_leaves_the_other_signed_in(
    reference: ReferenceNetwork,
) -> None:
    async with world(reference) as here:
        await here.login()
        mine, here.browser = here.browser, here.another_browser()
        async with here.browser:
            await here.login()
            await here.logout()
        answer = await mine.get("/me")

    assert answer.status_code == 200


async def test_a_suspended_account_s_session_ends_and_the_next_request_is_anonymous(
    reference: ReferenceNetwork, rows: Rows
) -> None:
    name = "gone.test"
    gone = await anyio.to_thread.run_sync(reference.create_account, name)
    async with world(reference, store_url=rows.store_url) as here:
        await here.login(name)
        async with here.oauth.session_for(gone.did) as session:
            await anyio.to_thread.run_sync(reference.take_down, gone.did)
            rows.allow_refresh()
            with pytest.raises(SessionRevoked) as revoked:
                await session.query("com.atproto.server.getSession")
        next_request = await here.browser.get("/me")

    assert revoked.value.reason == "revoked"
    assert (next_request.status_code, next_request.json()["error"]) == (401, "not_authenticated")
    assert rows.session()["ended_reason"] == "revoked"
