"""One worker process of an app under chaos: options as a JSON line on stdin, its port on stdout.

It serves until stdin closes. What it announces and stores it writes into a journal, which a kill
cannot take back, with the `jti` of the request's proof: so each request that the authorization
server saw is known to be this worker's.
"""

from __future__ import annotations

import base64
import contextvars
import json
import os
import socket
import sys
import threading
import time
from typing import Any, Literal, TypedDict

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from atproto_oauth_asgi import ATProtoOAuth, ATProtoOAuthMiddleware, session_from
from atproto_oauth_asgi.dpop import DPoPKey
from atproto_oauth_asgi.refresh_timing import RefreshTiming
from atproto_oauth_asgi.revocation import Revoker
from atproto_oauth_asgi.store import Refreshed
from atproto_oauth_asgi_stores import SQLStore, database
from tests.canaries import join
from tests.refresh.faults_store import remove_lease_of
from tests.refresh.fleet import LOOPBACK_URL, SCOPE

#: The defaults, a fifteenth as long, but for what a busy machine needs.
TIMING = RefreshTiming(
    lease=4.0,
    marked_lease=5.5,
    mark_to_send=1.0,
    verify=3.0,
    post=4.0,
    late_answer=0.5,
    commit_try=1.0,
    commit_again=0.1,
    watch=0.7,
    poll_longest=0.05,
    drain=0.2,
    wait=1.5,
    backoff=1.0,
)


Fault = Literal["lease removed", "commits skipped", "nothing revoked"]


class Options(TypedDict):
    store_url: str
    plc_url: str
    handle_resolver_url: str
    secret_key: str
    journal: str
    #: What to plant, if anything: the judge must see it.
    fault: Fault | None


class Entry(TypedDict):
    """Is one line of the journal; `at` is by the wall clock."""

    at: float
    pid: int
    what: str
    session: str
    version: int
    #: The `jti` of the proof of the token request that is announced.
    proof: str


_proof: contextvars.ContextVar[str] = contextvars.ContextVar("proof", default="")


def prepare(patch: pytest.MonkeyPatch) -> None:
    """Shorten what is no part of `TIMING`; remember the proof that a task has made last."""
    patch.setattr(database, "POOL_PATIENCE", 0.2)
    # Well below the lease, as in earnest: whoever cannot announce a request gives the lease back.
    patch.setattr(database, "DEADLINE", 2.0)
    patch.setattr(database, "FRESH_DEADLINE", 2.0)
    prove: Any = DPoPKey.proof

    def proof(self: DPoPKey, *args: Any, **kwargs: Any) -> str:
        made: str = prove(self, *args, **kwargs)
        _proof.set(jti_of(made))
        return made

    patch.setattr(DPoPKey, "proof", proof)


def jti_of(proof: str) -> str:
    """Return what names a proof."""
    claims = proof.split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["jti"])


def plant(fault: Fault | None, patch: pytest.MonkeyPatch) -> None:
    """Make this process one that loses sessions."""
    if fault == "lease removed":
        remove_lease_of(SQLStore, patch)
    elif fault == "commits skipped":

        async def skipped(*_args: Any, **_kwargs: Any) -> bool:
            return True

        patch.setattr(SQLStore, "commit_refresh", skipped)
    elif fault == "nothing revoked":

        async def nothing(*_args: Any, **_kwargs: Any) -> bool:
            return False

        patch.setattr(Revoker, "_revoke", nothing)


class JournalStore(SQLStore):
    """Notes every mark before it is made, and every commit that was acknowledged."""

    def __init__(self, url: str, journal: str) -> None:
        super().__init__(url)
        self.journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def _note(self, what: str, session: str, version: int) -> None:
        entry: Entry = {
            "at": time.time(),
            "pid": os.getpid(),
            "what": what,
            "session": session,
            "version": version,
            "proof": _proof.get(),
        }
        os.write(self.journal, json.dumps(entry).encode() + b"\n")

    async def mark_refresh(
        self, session_id: str, /, *, version: int, owner: str, lease_ms: int, first: bool
    ) -> bool:
        self._note("mark", session_id, version)
        return await super().mark_refresh(
            session_id, version=version, owner=owner, lease_ms=lease_ms, first=first
        )

    async def commit_refresh(
        self, session_id: str, /, *, version: int, owner: str, refreshed: Refreshed
    ) -> bool:
        done = await super().commit_refresh(
            session_id, version=version, owner=owner, refreshed=refreshed
        )
        if done:
            self._note("commit", session_id, version)
        return done


async def me(request: Request) -> Response:
    session = session_from(request)
    answer = await session.query("com.atproto.server.getSession")
    return JSONResponse({"session": session.did, "served": answer["did"]})


def oauth_of(options: Options, store: SQLStore) -> ATProtoOAuth:
    return ATProtoOAuth(
        LOOPBACK_URL,
        store=store,
        scope=SCOPE,
        plc_url=options["plc_url"],
        handle_resolver_url=options["handle_resolver_url"],
        secret_keys=(base64.urlsafe_b64decode(options["secret_key"]),),
        allow_insecure_loopback=True,
        timing=TIMING,
    )


def main() -> None:
    options: Options = json.loads(sys.stdin.readline())
    planted = pytest.MonkeyPatch()
    prepare(planted)
    plant(options["fault"], planted)
    store = JournalStore(options["store_url"], options["journal"])
    app = Starlette(routes=[Route("/me", me)])
    server = uvicorn.Server(
        uvicorn.Config(
            ATProtoOAuthMiddleware(app, oauth=oauth_of(options, store)),
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=2,
        )
    )

    def watch() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=watch, daemon=True).start()
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    server.run(sockets=[listening])


if __name__ == "__main__":
    join()
    main()
