"""Four processes with fifty calls each on one stale session: one token request, all are served."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi_migrations import upgrade
from atproto_oauth_asgi_migrations.run import on_url
from tests.app.world import world
from tests.chaos.caller import Fault, Place
from tests.chaos.callers import CALLS, PROCESSES, Callers, started
from tests.databases import Server
from tests.reference.install import ReferenceUnavailable, ensure_installed, is_installed
from tests.reference.network import ReferenceNetwork
from tests.reference.world import BASE_URL as REFERENCE_URL
from tests.reference.world import world as reference_world
from tests.refresh.fleet import LOOPBACK_URL, SCOPE, SECRET_KEYS
from tests.rings import skip_ring

pytestmark = pytest.mark.slow

ALL_SERVED = Counter[int | str]({200: PROCESSES * CALLS})
STALE = "UPDATE atproto_oauth_session SET access_expires = 1, refresh_after = 1"


def rounds(least: int) -> int:
    return int(os.environ.get("PROCESS_ROUNDS", least))


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A migrated database, and a way to make what is in it stale."""

    url: str
    run: Callable[[str], None]

    def place(self, *, base_url: str, plc_url: str, fault: Fault | None = None) -> Place:
        return {
            "base_url": base_url,
            "store_url": self.url,
            "plc_url": plc_url,
            "secret_key": base64.urlsafe_b64encode(SECRET_KEYS[0]).decode(),
            "fault": fault,
        }


def sqlite(folder: Path) -> Database:
    file = folder / "app.db"

    def run(sql: str) -> None:
        with contextlib.closing(sqlite3.connect(file, timeout=10)) as connection:
            connection.execute(sql)
            connection.commit()

    return Database(url=f"sqlite:///{file}", run=run)


@pytest.fixture(scope="module")
def callers() -> Generator[Callers]:
    with started() as processes:
        yield processes


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    driver: str = request.param
    if driver == "sqlite":
        made = sqlite(tmp_path)
    else:
        name = "mariadb" if driver == "asyncmy" else "postgresql"
        server = cast("Server", request.getfixturevalue(name))
        database = server.create_database()
        made = Database(url=server.url(database, driver), run=lambda sql: server.run(sql, database))
    asyncio.run(on_url(made.url, upgrade))
    return made


@pytest.fixture
def network() -> Generator[Network]:
    # Tokens live for less than hosts' clocks may be apart.
    network = Network(token_life=300)
    network.start()
    try:
        yield network
    finally:
        network.stop()


async def _sign_in(network: Network, database: Database) -> None:
    async with world(
        network,
        store=database.url,
        base_url=LOOPBACK_URL,
        secret_keys=SECRET_KEYS,
        scope=SCOPE,
        net_policy=network.policy(apps={}),
    ) as here:
        assert (await here.login()).status_code == 303


def _round(
    callers: Callers, network: Network, database: Database
) -> tuple[int, Counter[int | str]]:
    """Return how many token requests there were, and what the callers were answered."""
    database.run(STALE)
    network.log.clear()
    answers = Counter(callers.round())
    return len(network.token_requests("refresh_token")), answers


@pytest.mark.spec("J1")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("database", ["sqlite", "psycopg", "asyncpg", "asyncmy"], indirect=True)
def test_two_hundred_calls_of_four_processes_make_one_token_request(
    callers: Callers, network: Network, database: Database
) -> None:
    asyncio.run(_sign_in(network, database))
    with callers.at(database.place(base_url=LOOPBACK_URL, plc_url=network.plc.origin)):
        for number in range(rounds(5)):
            assert (number, _round(callers, network, database)) == (number, (1, ALL_SERVED))


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_without_the_lease_one_of_five_rounds_fails(
    callers: Callers, network: Network, database: Database
) -> None:
    asyncio.run(_sign_in(network, database))
    place = database.place(base_url=LOOPBACK_URL, plc_url=network.plc.origin, fault="lease removed")
    with callers.at(place):
        found = [_round(callers, network, database)]
        while found[-1] == (1, ALL_SERVED) and len(found) < 5:
            found.append(_round(callers, network, database))

    requests, answers = found[-1]
    assert requests > 1
    assert answers != ALL_SERVED


# --- Hosts whose clocks are wrong ---

#: By how many seconds each is ahead: ten minutes either way, as no two hosts with NTP ever are.
WRONG = (600.0, -600.0, 0.0, 600.0)


@pytest.fixture(scope="module")
def wrong_callers() -> Generator[Callers]:
    with started(WRONG) as processes:
        yield processes


def _accepted(callers: Callers, network: Network, database: Database) -> tuple[int, bool]:
    """Return how many token requests were accepted in a round, and whether all were served."""
    _, answers = _round(callers, network, database)
    requests = network.token_requests("refresh_token")
    return sum(one.status == 200 for one in requests), answers == ALL_SERVED


@pytest.mark.parametrize("database", ["psycopg", "asyncmy"], indirect=True)
def test_no_two_hosts_clocks_are_compared(
    wrong_callers: Callers, network: Network, database: Database
) -> None:
    asyncio.run(_sign_in(network, database))
    with wrong_callers.at(database.place(base_url=LOOPBACK_URL, plc_url=network.plc.origin)):
        for number in range(rounds(3)):
            found = _accepted(wrong_callers, network, database)
            assert (number, found) == (number, (1, True))


@pytest.mark.parametrize("database", ["psycopg"], indirect=True)
def test_with_clocks_compared_one_of_five_rounds_fails(
    wrong_callers: Callers, network: Network, database: Database
) -> None:
    asyncio.run(_sign_in(network, database))
    place = database.place(
        base_url=LOOPBACK_URL, plc_url=network.plc.origin, fault="clocks compared"
    )
    with wrong_callers.at(place):
        found = [_accepted(wrong_callers, network, database)]
        while found[-1] == (1, True) and len(found) < 5:
            found.append(_accepted(wrong_callers, network, database))
    assert found[-1] != (1, True)


# --- The reference server ---


@pytest.fixture
def reference() -> Generator[ReferenceNetwork]:
    try:
        ensure_installed()
    except ReferenceUnavailable as exc:
        skip_ring(f"the reference server ({exc.reason})", exc.mend)
    with ReferenceNetwork() as network:
        yield network


async def _sign_in_for_real(network: ReferenceNetwork, database: Database) -> None:
    async with reference_world(network, store_url=database.url, secret_keys=SECRET_KEYS) as here:
        assert (await here.login()).status_code == 303


@pytest.mark.reference
# The first that uses the server installs and compiles it.
@pytest.mark.timeout(600 if is_installed() else 1500)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_two_hundred_calls_make_one_token_request_to_the_reference_server(
    callers: Callers, reference: ReferenceNetwork, database: Database
) -> None:
    asyncio.run(_sign_in_for_real(reference, database))
    with callers.at(database.place(base_url=REFERENCE_URL, plc_url=reference.plc)):
        for number in range(rounds(2)):
            database.run(STALE)
            reference.control.clear_log()
            answers = Counter(callers.round())
            statuses = [entry.status for entry in reference.control.refreshes()]
            assert (number, statuses, answers) == (number, [200], ALL_SERVED)
