"""A worker process of its own: `python -m tests.refresh.worker_process DATABASE [how]`.

It reads lines: a number asks for so many concurrent calls with the newest session of the database,
and is answered by the statuses; the end of input ends it.
"""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import replace

import pytest

from atproto_oauth_asgi import ATProtoOAuth
from atproto_oauth_asgi.errors import ATProtoOAuthError
from atproto_oauth_asgi.session import OAuthSession
from atproto_oauth_asgi.store import SessionFilter
from atproto_oauth_asgi_stores import SQLStore
from tests.canaries import join
from tests.refresh.faults_store import remove_lease_of
from tests.refresh.fleet import GET_SESSION, LOOPBACK_URL, PATIENT, QUICK, SCOPE

#: For processes that work side by side, and come to an end though tokens are spent twice.
SEVERAL = replace(PATIENT, lease=10.0, marked_lease=30.0, post=20.0, wait=20.0)


async def _call(session: OAuthSession) -> int | str:
    try:
        return (await session.get(GET_SESSION)).status_code
    except ATProtoOAuthError as exc:
        return exc.code


async def main(database: str) -> None:
    oauth = ATProtoOAuth.from_env(
        {
            **os.environ,
            "ATPROTO_OAUTH_BASE_URL": LOOPBACK_URL,
            "ATPROTO_OAUTH_STORE_URL": f"sqlite:///{database}",
            "ATPROTO_OAUTH_SCOPE": SCOPE,
        },
        timing=QUICK if "quick" in sys.argv[2:] else SEVERAL,
    )
    async with oauth:
        loop, runtime = asyncio.get_running_loop(), oauth.runtime()
        (record,) = await oauth.core.store.list_sessions(SessionFilter())
        # Known before it is stale, as in a process that has served this session for a while.
        live = runtime.sessions.live(record)
        session = runtime.session(live)
        print("ready", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            found = await oauth.core.store.load_session(live.id)
            assert found is not None
            live.version = 0
            live.adopt(found)
            answers = await asyncio.gather(*(_call(session) for _ in range(int(line))))
            print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    join()
    with pytest.MonkeyPatch.context() as planted:
        if "lease removed" in sys.argv[2:]:
            remove_lease_of(SQLStore, planted)
        asyncio.run(main(sys.argv[1]))
