"""One worker process of an app under chaos: options as a JSON line on stdin, its port on stdout.

It serves until stdin closes. What it announces and stores it writes into a journal first, which a
kill cannot take back: the authorization server does not know which worker sent a request.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import threading
import time
from typing import TypedDict

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from atproto_oauth_asgi import ATProtoOAuth, ATProtoOAuthMiddleware, session_from
from atproto_oauth_asgi.refresh_timing import RefreshTiming
from atproto_oauth_asgi.store import Refreshed
from atproto_oauth_asgi_stores import SQLStore
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


class Options(TypedDict):
    store_url: str
    plc_url: str
    handle_resolver_url: str
    secret_key: str
    journal: str
    lease_removed: bool


class Entry(TypedDict):
    """Is one line of the journal; `at` is by the wall clock."""

    at: float
    pid: int
    what: str
    session: str
    version: int


class JournalStore(SQLStore):
    """Notes every mark before it is made, and every commit that was acknowledged."""

    journal: int

    def _note(self, what: str, session: str, version: int) -> None:
        entry: Entry = {
            "at": time.time(),
            "pid": os.getpid(),
            "what": what,
            "session": session,
            "version": version,
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
    if options["lease_removed"]:
        remove_lease_of(SQLStore, pytest.MonkeyPatch())
    store = JournalStore(options["store_url"])
    store.journal = os.open(options["journal"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
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
    main()
