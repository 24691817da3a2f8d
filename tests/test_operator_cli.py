from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from atproto_oauth_asgi import housekeeping
from atproto_oauth_asgi.cli import FAILED, OK, USAGE, main
from atproto_oauth_asgi.keys import ClientKeys, generate_client_keys
from atproto_oauth_asgi.operator_revoke import revoke
from atproto_oauth_asgi.plugins import open_store
from atproto_oauth_asgi.sealing import KeyRing
from atproto_oauth_asgi.store import EndedReason, OneTime, SessionFilter, SessionRecord
from atproto_oauth_asgi.testing import Network
from tests.app.faulty_store import FaultyStore
from tests.app.world import World, world

pytestmark = pytest.mark.anyio

OLD, NEW = b"o" * 32, b"n" * 32
LOOPBACK = "http://127.0.0.1:8000"


def text_of(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode().rstrip("=")


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"sqlite:///{tmp_path}/store.db"
    monkeypatch.setenv("ATPROTO_OAUTH_STORE_URL", url)
    assert main(["db", "upgrade"]) == OK
    return url


class Program:
    """Runs the command line beside the test's own event loop."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.said = ""

    async def __call__(self, *words: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        status = await asyncio.to_thread(main, list(words))
        shown = self._capsys.readouterr()
        self.said += shown.out + shown.err
        return status, shown.out, shown.err


@pytest.fixture
def program(capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(capsys)


@asynccontextmanager
async def signed_in(
    url: str, *identifiers: str, network: Network | None = None, key: bytes = OLD
) -> AsyncGenerator[World]:
    async with world(network, store=url, secret_keys=(key,)) as here:
        for identifier in identifiers:
            here.browser.cookies.clear()
            await here.login(identifier)
        yield here


async def rows(url: str) -> list[SessionRecord]:
    store = open_store(url)
    try:
        return await store.list_sessions(SessionFilter())
    finally:
        await store.aclose()


# --- list and show -------------------------------------------------------------------------------


async def test_sessions_are_listed_a_page_at_a_time(url: str, program: Program) -> None:
    async with signed_in(url, *["alice.test", "bob.test"] * 3):
        ids = [row.id for row in await rows(url)]
        found: list[str] = []
        more: list[str] = []
        for _ in range(3):
            status, out, err = await program("sessions", "list", "--limit", "2", *more)
            found += [line.split("\t")[0] for line in out.splitlines()]
            more = [err.split()[-1]]
            assert (status, more) == (OK, [f"--after={found[-1]}"])
        last = await program("sessions", "list", "--limit", "2", *more)

    assert found == ids
    assert last == (OK, "", "")


async def test_sessions_are_listed_by_account_and_by_status(url: str, program: Program) -> None:
    async with signed_in(url, "alice.test", "bob.test") as here:
        await here.logout()
        alice, bob = here.did("alice.test"), here.did("bob.test")
        by_did = await program("sessions", "list", "--did", alice)
        ended = await program("sessions", "list", "--status", "ended")
        nobody = await program("sessions", "list", "--did", alice, "--status", "ended")

    assert by_did[1].split("\t")[1:4] == [alice, "alice.test", "active"]
    assert ended[1].split("\t")[1:4] == [bob, "bob.test", "logout"]
    assert nobody == (OK, "", "")


async def test_a_session_is_shown_without_its_secrets(url: str, program: Program) -> None:
    async with signed_in(url, "alice.test") as here:
        (row,) = await rows(url)
        status, out, err = await program("sessions", "show", "--", row.id)
        assert (status, err) == (OK, "")
        for told in (row.id, row.did, row.pds, row.issuer, row.scope, "active", "public client"):
            assert told in out
        for secret in (row.sealed_tokens, row.sealed_dpop_key):
            assert secret is not None
            assert secret.hex() not in out
            assert base64.b64encode(secret).decode() not in out
        assert KeyRing([OLD]).primary_key_id in out
        assert (here.cookie or "?") not in out


async def test_an_unknown_session_is_one_sentence(url: str, program: Program) -> None:
    assert await program("sessions", "show", "nobody\x1b[2J") == (
        FAILED,
        "",
        "There is no session nobody?[2J.\n",
    )


@pytest.mark.parametrize("limit", ["0", "1001", "-5", "many"])
def test_a_page_is_bounded(limit: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["sessions", "list", f"--limit={limit}"])
    assert caught.value.code == USAGE


@pytest.mark.parametrize("words", [["sessions", "list"], ["sessions", "show", "x"], ["purge"]])
def test_without_a_store_it_is_wrong_use(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ATPROTO_OAUTH_STORE_URL", raising=False)

    assert main(words) == USAGE
    assert "ATPROTO_OAUTH_STORE_URL" in capsys.readouterr().err


def test_tables_that_are_missing_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATPROTO_OAUTH_STORE_URL", f"sqlite:///{tmp_path}/other.db")

    assert main(["sessions", "list"]) == FAILED
    assert "db upgrade" in capsys.readouterr().err


# --- revoke --------------------------------------------------------------------------------------


async def test_a_revoked_session_is_over_here_and_at_the_server(
    tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/sessions.db"
    async with Network().serve() as network:
        environment = {
            **network.environment(),
            "ATPROTO_OAUTH_BASE_URL": LOOPBACK,
            "ATPROTO_OAUTH_STORE_URL": url,
            "ATPROTO_OAUTH_SECRET_KEYS": text_of(OLD),
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        async with world(network, base_url=LOOPBACK, store=url, secret_keys=(OLD,)) as here:
            await here.login("bob.test")
            here.browser.cookies.clear()
            await here.login("alice.test")
            (row,) = [row for row in await rows(url) if row.did == here.did("alice.test")]

            done = await program("sessions", "revoke", "--", row.id)
            again = await program("sessions", "revoke", "--", row.id)
            unknown = await program("sessions", "revoke", "nobody")

            assert await here.who() is None
            left = [session.did for session in network.sessions()]
            assert left == [here.did("bob.test")]

    assert done == (OK, f"Session {row.id} of {row.did} has ended here and at {row.issuer}.\n", "")
    assert again == (OK, f"Session {row.id} had ended already (by_operator).\n", "")
    assert unknown == (FAILED, "", "There is no session nobody.\n")
    ended = {one.did: (one.status, one.ended_reason) for one in await rows(url)}
    assert ended == {row.did: ("ended", "by_operator"), here.did("bob.test"): ("active", None)}
    assert text_of(OLD) not in program.said


async def test_revoking_needs_the_settings_of_the_app(url: str, program: Program) -> None:
    status, out, err = await program("sessions", "revoke", "x")

    assert (status, out) == (FAILED, "")
    assert "BASE_URL" in err


async def test_a_server_that_is_away_is_told_and_the_session_is_over() -> None:
    store = FaultyStore()
    async with world(store=store) as here:
        await here.login()
        (row,) = store.sessions
        with here.network.outage():
            done = await revoke(here.oauth, row.id)

        assert not done.confirmed
        assert "did not confirm" in done.sentence
        assert row.ended_reason == "by_operator"
        assert await here.who() is None


async def test_the_tokens_that_another_worker_got_meanwhile_are_the_ones_revoked() -> None:
    class Refreshing(FaultyStore):
        async def end_session(
            self, session_id: str, reason: EndedReason, /, *, version: int | None = None
        ) -> bool:
            if not tried:
                self.allow_refresh()
                network.expire_access_tokens()
                assert (await worker.browser.get("/me")).status_code == 200
            tried.append(version)
            return await super().end_session(session_id, reason, version=version)

    tried: list[int | None] = []
    store, network = Refreshing(), Network()
    async with world(network, store=store) as worker, world(network, store=store) as operator:
        await worker.login()
        (row,) = store.sessions

        assert (await revoke(operator.oauth, row.id)).confirmed
        assert (row.version, row.ended_reason) == (2, "by_operator")
        assert tried == [1, 2]
        assert not network.sessions()


async def test_a_session_that_does_not_open_is_ended_all_the_same() -> None:
    store, network = FaultyStore(), Network()
    async with world(network, store=store, secret_keys=(OLD,)) as here:
        await here.login()
    async with world(network, store=store, secret_keys=(NEW,)) as here:
        (row,) = store.sessions
        done = await revoke(here.oauth, row.id)

    assert not done.confirmed
    assert KeyRing([OLD]).primary_key_id in done.sentence
    assert row.ended_reason == "by_operator"


async def test_a_session_whose_client_key_is_gone_is_not_said_to_be_revoked() -> None:
    store, network = FaultyStore(), Network()
    async with world(network, store=store, client_keys=ClientKeys(generate_client_keys())) as here:
        await here.login()
    async with world(network, store=store, client_keys=ClientKeys(generate_client_keys())) as here:
        (row,) = store.sessions
        done = await revoke(here.oauth, row.id)

    assert not done.confirmed
    assert "key_removed" in done.sentence
    assert row.ended_reason == "by_operator"


# --- purge ---------------------------------------------------------------------------------------


async def test_a_purge_leaves_nothing_that_is_over(
    url: str, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "BATCH", 2)
    monkeypatch.setattr(housekeeping, "BATCHES", 3)
    store = open_store(url)
    for number in range(15):
        await store.put(
            OneTime(
                key_hash=bytes([number]) * 32,
                kind="login",
                browser_hash=b"b" * 32,
                sealed=b"s",
                lifetime_ms=-1 if number < 14 else 60_000,
            )
        )
    await store.aclose()

    assert await program("purge") == (OK, "14 rows were over; nothing is left.\n", "")
    assert await program("purge") == (OK, "0 rows were over; nothing is left.\n", "")


async def test_a_purge_that_meets_its_bound_says_so(
    url: str, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless(_store: object) -> int:
        return 5

    monkeypatch.setattr(housekeeping, "sweep", endless)

    status, out, err = await program("purge")

    assert (status, out) == (FAILED, "5000 rows were over.\n")
    assert "run it again" in err


# --- rekey ---------------------------------------------------------------------------------------


async def test_a_rekey_counts_what_it_did_and_tells_no_secret(
    url: str, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_id = KeyRing([NEW]).primary_key_id
    monkeypatch.setenv("ATPROTO_OAUTH_SECRET_KEYS", f"{text_of(NEW)},{text_of(OLD)}")
    network = Network()
    async with signed_in(url, "alice.test", "bob.test", network=network):
        status, out, err = await program("db", "rekey")

    assert (status, err) == (OK, "")
    assert f"2 sessions; 2 were sealed anew with the key {new_id}.\n" in out
    assert "30 minutes" in out
    assert {row.sealed_key for row in await rows(url)} == {new_id}
    assert text_of(NEW) not in program.said
    assert text_of(OLD) not in program.said


async def test_a_rekey_names_what_it_could_not_open_and_fails(
    url: str, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_id = KeyRing([OLD]).primary_key_id
    monkeypatch.setenv("ATPROTO_OAUTH_SECRET_KEYS", text_of(NEW))
    async with signed_in(url, "alice.test"):
        pass
    (before,) = await rows(url)

    status, out, err = await program("db", "rekey")

    assert status == FAILED
    assert "may be taken away" not in out
    assert f"Session {before.id} does not open; it needs the key {old_id}" in err
    assert f"1 sessions need the key {old_id}" in err
    (after,) = await rows(url)
    assert after.sealed_tokens == before.sealed_tokens


async def test_a_rekey_without_keys_is_wrong_use(url: str, program: Program) -> None:
    status, _, err = await program("db", "rekey")

    assert status == USAGE
    assert "ATPROTO_OAUTH_SECRET_KEYS" in err
