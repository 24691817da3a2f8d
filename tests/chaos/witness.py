"""What the authorization server saw and did, told request by request, and the trouble it makes."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.testing.faults import Faults
from atproto_oauth_asgi.testing.request_log import RequestRecord, sha256_hex
from atproto_oauth_asgi.testing.sessions import Session
from atproto_oauth_asgi.testing.web import ConnectionDropped, JSONObject, OAuthRefusal
from tests.chaos.app_worker import TIMING, jti_of

#: Of 60 seconds, 40: late, but in time.
SLOW = TIMING.post * 40 / 60
HANG = TIMING.post + TIMING.late_answer + 0.5


@dataclass(slots=True, kw_only=True)
class TokenRequest:
    """Is one refresh that arrived; times are by the wall clock."""

    #: The `jti` of its proof, which its worker announced.
    proof: str
    arrived: float
    slow: bool = False
    #: When the server gave new tokens for it, if it did.
    processed: float | None = None
    dropped: bool = False


@dataclass(slots=True, kw_only=True)
class Grant:
    """Is one session of the authorization server."""

    did: str
    #: Every refresh that was looked at, and those that were given new tokens.
    requests: list[TokenRequest] = field(default_factory=list[TokenRequest])
    rotations: list[TokenRequest] = field(default_factory=list[TokenRequest])
    #: The token that was given last, as the log names it.
    token: str = ""
    revoked: bool = False


class TokenTrouble(Faults):
    """Lets something go wrong with token requests, at random, for as long as it may."""

    def __init__(self, seed: str, slow: float) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._slow = slow
        self.active = True
        self.count: Counter[str] = Counter()
        #: What each task of the server is about.
        self.proofs: dict[asyncio.Task[Any] | None, str] = {}
        self.requests: dict[asyncio.Task[Any] | None, TokenRequest] = {}

    async def before(self, grant: str | None) -> None:
        task = asyncio.current_task()
        request = TokenRequest(proof=self.proofs.get(task, ""), arrived=time.time())
        self.requests[task] = request
        roll = self._random.random() if self.active else 1.0
        if roll < 0.02:
            self.count["hang"] += 1
            await asyncio.sleep(HANG)
            raise OAuthRefusal("server_error", "Too late", status=500)
        if grant == "refresh_token" and roll > 1 - self._slow and self.active:
            self.count["slow"] += 1
            request.slow = True
            await asyncio.sleep(SLOW)
        elif roll < 0.06:
            self.count["500"] += 1
            raise OAuthRefusal("server_error", "Server error", status=500)
        await super().before(grant)

    async def after(self, grant: str | None, *, succeeded: bool) -> None:
        request = self.requests[asyncio.current_task()]
        if succeeded and self.active and self._random.random() < 0.02:
            self.count["drop"] += 1
            request.dropped = True
            raise ConnectionDropped
        await super().after(grant, succeeded=succeeded)


class Witness:
    """Stands beside the authorization server and writes down what its log leaves out."""

    def __init__(self, network: Network, trouble: TokenTrouble, patch: pytest.MonkeyPatch) -> None:
        self.grants: dict[str, Grant] = {}
        self.records: list[RequestRecord] = []
        #: Refreshes that came as far as being looked at, or were made to fail instead.
        self.refreshing: list[TokenRequest] = []
        server = network.host.authorization_server
        sessions = server.sessions
        start: Any = sessions.start
        refresh: Any = sessions.refresh
        add = network.log.add
        check: Any = server._verifier.check

        def starting(**what: Any) -> tuple[Session, JSONObject]:
            session, body = start(**what)
            token = sha256_hex(str(body["refresh_token"]))
            self.grants[session.id] = Grant(did=session.did, token=token)
            return session, body

        def refreshing(session: Session, **what: Any) -> JSONObject:
            body: JSONObject = refresh(session, **what)
            request = trouble.requests[asyncio.current_task()]
            request.processed = time.time()
            grant = self.grants[session.id]
            grant.rotations.append(request)
            grant.token = sha256_hex(str(body["refresh_token"]))
            return body

        def checking(*, proofs: list[str], **what: Any) -> object:
            if proofs:
                trouble.proofs[asyncio.current_task()] = jti_of(proofs[0])
            return check(proofs=proofs, **what)

        def adding(record: RequestRecord) -> None:
            request = trouble.requests.pop(asyncio.current_task(), None)
            trouble.proofs.pop(asyncio.current_task(), None)
            if record.name == "refresh_token" and request is not None:
                self.refreshing.append(request)
                if record.session_id in self.grants:
                    self.grants[record.session_id].requests.append(request)
            if record.endpoint in {"token", "revoke"}:
                self.records.append(record)
            if record.endpoint == "revoke" and record.session_id in self.grants:
                self.grants[record.session_id].revoked = True
            add(record)

        patch.setattr(server, "_faults", trouble)
        patch.setattr(server._verifier, "check", checking)
        patch.setattr(sessions, "start", starting)
        patch.setattr(sessions, "refresh", refreshing)
        patch.setattr(network.log, "add", adding)

    def of(self, did: str) -> list[Grant]:
        return [grant for grant in self.grants.values() if grant.did == did]

    def revoke(self, network: Network, handle: str) -> None:
        """End somebody's sessions as a person does at the server's pages."""
        for session in network.sessions(handle):
            self.grants[session.id].revoked = True
        network.revoke_sessions(handle)

    @property
    def refreshes(self) -> int:
        return sum(
            record.name == "refresh_token" and record.error != "use_dpop_nonce"
            for record in self.records
        )

    def unanswered(self, token: str) -> int:
        """Count the requests with this refresh token that got no answer, or a 5xx."""
        return sum(
            record.refresh_token_sha256 == token and (record.status >= 500 or not record.delivered)
            for record in self.records
        )
