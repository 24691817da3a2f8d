"""One worker process of an app: options as a JSON line on stdin, its port as a line on stdout.

It serves until stdin closes.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from typing import TypedDict

import uvicorn

from atproto_oauth_asgi import ATProtoOAuth, ATProtoOAuthMiddleware
from atproto_oauth_asgi.refresh_timing import RefreshTiming
from tests.canaries import join
from tests.reference.world import SCOPE, make_app


class Options(TypedDict):
    base_url: str
    store_url: str
    plc_url: str
    marked_lease: float


def main() -> None:
    options: Options = json.loads(sys.stdin.readline())
    oauth = ATProtoOAuth(
        options["base_url"],
        store=options["store_url"],
        scope=SCOPE,
        plc_url=options["plc_url"],
        allow_insecure_loopback=True,
        timing=RefreshTiming(marked_lease=options["marked_lease"]),
    )
    server = uvicorn.Server(
        uvicorn.Config(
            ATProtoOAuthMiddleware(make_app(), oauth=oauth),
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
