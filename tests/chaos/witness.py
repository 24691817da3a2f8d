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
from tests.chaos.app_worker import TIMING

#: Of 60 seconds, 40: late, but in time.
SLOW = TIMING.post * 40 / 60
HANG = TIMING.post + TIMING.late_answer + 0.5


@dataclass(slots=True, kw_only=True)
class Rotation:
    """Is one refresh that was processed; times are by the wall clock."""

    arrived: float
    processed: float
    dropped: bool = False


@dataclass(slots=True, kw_only=True)
class Grant:
    """Is one session of the authorization server."""

    did: str
    rotations: list[Rotation] = field(default_factory=list[Rotation])
    #: The token that was given last, as the log names it.
    token: str = ""
    revoked: bool = False


class TokenTrouble(Faults):
    """Lets something go wrong with token requests, at random, for as long as it may."""

    def __init__(self, seed: str) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self.active = True
        self.count: Counter[str] = Counter()
        self.arrivals: dict[asyncio.Task[Any] | None, float] = {}
        self.rotations: dict[asyncio.Task[Any] | None, Rotation] = {}

    async def before(self, grant: str | None) -> None:
        self.arrivals[asyncio.current_task()] = time.time()
        roll = self._random.random() if self.active else 1.0
        if roll < 0.02:
            self.count["slow"] += 1
            await asyncio.sleep(SLOW)
        elif roll < 0.04:
            self.count["hang"] += 1
            await asyncio.sleep(HANG)
            raise OAuthRefusal("server_error", "Too late", status=500)
        elif roll < 0.08:
            self.count["500"] += 1
            raise OAuthRefusal("server_error", "Server error", status=500)
        await super().before(grant)

    async def after(self, grant: str | None, *, succeeded: bool) -> None:
        task = asyncio.current_task()
        self.arrivals.pop(task, None)
        rotation = self.rotations.pop(task, None)
        if succeeded and self.active and self._random.random() < 0.02:
            self.count["drop"] += 1
            if rotation is not None:
                rotation.dropped = True
            raise ConnectionDropped
        await super().after(grant, succeeded=succeeded)


class Witness:
    """Stands beside the authorization server and writes down what its log leaves out."""

    def __init__(self, network: Network, trouble: TokenTrouble, patch: pytest.MonkeyPatch) -> None:
        self.grants: dict[str, Grant] = {}
        self.records: list[RequestRecord] = []
        server = network.host.authorization_server
        sessions = server.sessions
        start: Any = sessions.start
        refresh: Any = sessions.refresh
        add = network.log.add

        def starting(**what: Any) -> tuple[Session, JSONObject]:
            session, body = start(**what)
            token = sha256_hex(str(body["refresh_token"]))
            self.grants[session.id] = Grant(did=session.did, token=token)
            return session, body

        def refreshing(session: Session, **what: Any) -> JSONObject:
            body: JSONObject = refresh(session, **what)
            task, now = asyncio.current_task(), time.time()
            rotation = Rotation(arrived=trouble.arrivals.get(task, now), processed=now)
            trouble.rotations[task] = rotation
            grant = self.grants[session.id]
            grant.rotations.append(rotation)
            grant.token = sha256_hex(str(body["refresh_token"]))
            return body

        def adding(record: RequestRecord) -> None:
            if record.endpoint in {"token", "revoke"}:
                self.records.append(record)
            if record.endpoint == "revoke" and record.session_id in self.grants:
                self.grants[record.session_id].revoked = True
            add(record)

        patch.setattr(server, "_faults", trouble)
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
