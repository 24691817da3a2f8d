"""The real PDS and PLC directory on loopback, from npm; see `install.py` for where they come from.

    with ReferenceNetwork(token_max_age=2) as network:
        ...  # network.pds, network.plc, network.accounts

Also used by the demo (`NETWORK=reference`), so it needs nothing but httpx.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypedDict

import httpx

from tests.reference.control import Control
from tests.reference.install import ensure_installed
from tests.reference.process import NodeFailed, NodeProcess

ADMIN_PASSWORD = "reference-admin"
_START_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One account on the PDS."""

    handle: str
    did: str
    password: str = field(repr=False)
    email: str


class _AccountFacts(TypedDict):
    handle: str
    did: str
    password: str
    email: str


class ReferenceNetwork:
    """One real PDS with its authorization server, and the PLC directory it uses.

    Every time is in seconds. `plc_url` joins the directory of another network, which has to
    outlive this one. `map_hosts` are the host names of confidential clients: the PDS finds them at
    127.0.0.1, trusting `ca_file` besides the usual authorities. `token_max_age` is the life of
    access tokens, `dpop_interval` (1 to 60) that of DPoP nonces. `data` is a folder to keep;
    without it a temporary one goes with the network.

    All methods block, for about 2 s where a server starts: from a test that serves something in
    its own event loop call them through `anyio.to_thread.run_sync`.
    """

    def __init__(
        self,
        *,
        accounts: Sequence[str] = ("alice.test", "bob.test"),
        password: str = "hunter2-test",
        plc_url: str | None = None,
        map_hosts: Sequence[str] = (),
        ca_file: Path | None = None,
        token_max_age: float | None = None,
        dpop_interval: float | None = None,
        no_client_cache: bool = False,
        trusted_clients: Sequence[str] = (),
        data: Path | None = None,
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._options: dict[str, object] = {
            "accounts": list(accounts),
            "password": password,
            "admin_password": ADMIN_PASSWORD,
            "map_hosts": list(map_hosts),
            "token_max_age_ms": None if token_max_age is None else round(token_max_age * 1000),
            "dpop_interval_ms": None if dpop_interval is None else round(dpop_interval * 1000),
            "no_client_cache": no_client_cache,
            "trusted_clients": list(trusted_clients),
        }
        self._environment = {} if ca_file is None else {"NODE_EXTRA_CA_CERTS": str(ca_file)}
        self._password = password
        self._plc_url = plc_url
        self._data = data
        self._progress = progress
        self._temporary: Path | None = None
        self._plc_process: NodeProcess | None = None
        self._pds_process: NodeProcess | None = None
        self._port = 0
        self.control = Control()
        self.accounts: tuple[Account, ...] = ()
        self.pds = ""
        self.plc = ""
        self.issuer = ""

    def start(self) -> Self:
        """Start the servers, installing them first where that was not done.

        Raises `ReferenceUnavailable` when they cannot be installed, `NodeFailed` when they do not
        start.
        """
        try:
            if self._data is None and self._temporary is None:
                self._temporary = Path(tempfile.mkdtemp(prefix="reference-pds-"))
            if self._plc_url is not None:
                self.plc = self._plc_url
            elif self._plc_process is None:
                installed = ensure_installed(self._progress)
                self._plc_process = NodeProcess.start(installed, "plc.mjs", {}, {})
                self.plc = str(self._plc_process.facts["plc"])
            self.start_pds()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Stop the servers and remove what was temporary; may be called twice."""
        self.stop_pds()
        if self._plc_process is not None:
            self._plc_process.stop()
            self._plc_process = None
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def start_pds(self) -> None:
        """Start the PDS, again on the port and the data it had; the PLC directory runs on."""
        if self._pds_process is not None:
            return
        options = {
            **self._options,
            "port": self._port,
            "plc": self.plc,
            "data": str(self._data or self._temporary),
            "temporary": self._data is None,
        }
        installed = ensure_installed(self._progress)
        for remaining in reversed(range(_START_TRIES)):
            try:
                process = NodeProcess.start(installed, "pds.mjs", options, self._environment)
                break
            except NodeFailed as exc:
                # Someone else took the port between its choice and its use.
                if "EADDRINUSE" not in str(exc) or not remaining:
                    raise
                time.sleep(0.2)
        else:
            raise AssertionError
        self._pds_process = process
        self.pds = str(process.facts["pds"])
        self.issuer = str(process.facts["issuer"])
        self._port = httpx.URL(self.pds).port or 80
        self.control.attach(str(process.facts["control"]))
        facts: list[_AccountFacts] = process.facts["accounts"]
        made_later = [a for a in self.accounts if all(a.did != f["did"] for f in facts)]
        self.accounts = (*(Account(**f) for f in facts), *made_later)

    def stop_pds(self) -> None:
        """Stop the PDS in good order; its address, data and accounts stay."""
        self.control.detach()
        if self._pds_process is not None:
            self._pds_process.stop()
            self._pds_process = None

    def kill_pds(self) -> None:
        """End the PDS as a crash would; `start_pds` brings it back."""
        if self._pds_process is not None:
            self._pds_process.kill()
            self._pds_process = None
        self.control.detach()

    def restart(self) -> None:
        """Stop and start the PDS: sessions and tokens live on, DPoP nonces do not."""
        self.stop_pds()
        self.start_pds()

    def account(self, handle: str) -> Account:
        """Return the account with this handle."""
        return next(account for account in self.accounts if account.handle == handle)

    def create_account(self, handle: str) -> Account:
        """Make one more account, for a test that spoils it."""
        email = f"{handle.partition('.')[0]}@mail.test"
        body = {"handle": handle, "email": email, "password": self._password}
        answer = httpx.post(
            f"{self.pds}/xrpc/com.atproto.server.createAccount",
            json=body,
            timeout=20,
            trust_env=False,
        )
        answer.raise_for_status()
        account = Account(
            handle=handle, did=answer.json()["did"], password=self._password, email=email
        )
        self.accounts = (*self.accounts, account)
        return account

    def take_down(self, did: str) -> None:
        """Suspend an account, as its host's moderators do."""
        subject = {"$type": "com.atproto.admin.defs#repoRef", "did": did}
        httpx.post(
            f"{self.pds}/xrpc/com.atproto.admin.updateSubjectStatus",
            json={"subject": subject, "takedown": {"applied": True}},
            auth=("admin", ADMIN_PASSWORD),
            timeout=20,
            trust_env=False,
        ).raise_for_status()

    def refuse_access_tokens(self, did: str) -> None:
        """Make the PDS forget the access tokens of an account; their refresh tokens stay good.

        It is what a rotation does to the token before it, so the refusal is the server's own.
        """
        with self._database() as database:
            database.execute(
                "UPDATE token SET tokenId = 'tok-' || lower(hex(randomblob(16))) WHERE did = ?",
                (did,),
            )

    def age(self, seconds: float) -> None:
        """Let authorization requests, codes and sessions be older than they are.

        Nonces, replayed `jti`s and what the signed tokens say themselves stay as they are.
        """
        requests = """
            UPDATE authorization_request
            SET expiresAt = strftime('%Y-%m-%dT%H:%M:%fZ', expiresAt, :shift)
        """
        sessions = """
            UPDATE token
            SET createdAt = strftime('%Y-%m-%dT%H:%M:%fZ', createdAt, :shift),
                updatedAt = strftime('%Y-%m-%dT%H:%M:%fZ', updatedAt, :shift),
                expiresAt = strftime('%Y-%m-%dT%H:%M:%fZ', expiresAt, :shift)
        """
        with self._database() as database:
            for statement in (requests, sessions):
                database.execute(statement, {"shift": f"-{seconds} seconds"})

    def age_sign_ins(self, did: str, seconds: float) -> None:
        """Let it be longer since an account typed its password on the devices that know it."""
        with self._database() as database:
            database.execute(
                "UPDATE account_device SET"
                " updatedAt = strftime('%Y-%m-%dT%H:%M:%fZ', updatedAt, :shift) WHERE did = :did",
                {"shift": f"-{seconds} seconds", "did": did},
            )

    @contextlib.contextmanager
    def _database(self) -> Generator[sqlite3.Connection]:
        data = self._data or self._temporary
        if data is None:
            raise RuntimeError("the network is not running")
        database = sqlite3.connect(data / "account.sqlite", timeout=10)
        with contextlib.closing(database), database:
            yield database

    def move_account(self, did: str, pds: str) -> None:
        """Let the directory name another PDS for an account; the data stays where it is."""
        self.control.move(did, pds)

    @property
    def handle_hosts(self) -> dict[str, str]:
        """Map every handle to its DID, as DNS would; `.test` handles are in no DNS.

        The PDS answers the same at `/.well-known/atproto-did` under the handle as Host header.
        """
        return {account.handle: account.did for account in self.accounts}
