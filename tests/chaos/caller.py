"""A worker process that calls a PDS: `python -m tests.chaos.caller`.

It reads commands, one JSON object per line, and answers each with a line; the end of input ends
it. It opens one database after another, and stays alive between the rounds on each.
"""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypedDict

import pytest

from atproto_oauth_asgi import ATProtoOAuth
from atproto_oauth_asgi.errors import ATProtoOAuthError
from atproto_oauth_asgi.live import LiveSession
from atproto_oauth_asgi.refresh_timing import RefreshTiming
from atproto_oauth_asgi.session import OAuthSession
from atproto_oauth_asgi.store import SessionFilter
from atproto_oauth_asgi_stores import SQLStore
from tests.refresh.faults_store import remove_lease_of
from tests.refresh.fleet import GET_SESSION, SCOPE

# A busy machine is no finding.
PATIENT = RefreshTiming(wait=30.0)


class Place(TypedDict):
    """Says what to open."""

    base_url: str
    store_url: str
    plc_url: str
    secret_key: str
    lease_removed: bool


class Command(TypedDict, total=False):
    """Is one line: `open` something, `look` at the row, make so many calls at a time, `close`."""

    open: Place
    look: bool
    calls: int
    at: float
    close: bool


class Caller:
    """One process of the app, with its own engine and its own view of the one session."""

    def __init__(self, oauth: ATProtoOAuth, live: LiveSession) -> None:
        self._oauth = oauth
        self._live = live
        self._session: OAuthSession = oauth.runtime().session(live)

    async def look(self) -> None:
        """See the row as it is now; what is stale is known before the calls begin."""
        found = await self._oauth.core.store.load_session(self._live.id)
        assert found is not None
        self._live.version = 0
        self._live.adopt(found)

    async def calls(self, count: int, at: float) -> list[int | str]:
        await asyncio.sleep(max(0.0, at - time.time()))
        return await asyncio.gather(*(self._call() for _ in range(count)))

    async def _call(self) -> int | str:
        try:
            return (await self._session.get(GET_SESSION)).status_code
        except ATProtoOAuthError as exc:
            return exc.code


@asynccontextmanager
async def opened(place: Place) -> AsyncGenerator[Caller]:
    with pytest.MonkeyPatch.context() as planted:
        if place["lease_removed"]:
            remove_lease_of(SQLStore, planted)
        oauth = ATProtoOAuth(
            place["base_url"],
            store=place["store_url"],
            scope=SCOPE,
            plc_url=place["plc_url"],
            secret_keys=(base64.urlsafe_b64decode(place["secret_key"]),),
            allow_insecure_loopback=True,
            timing=PATIENT,
        )
        async with oauth:
            (record,) = await oauth.core.store.list_sessions(SessionFilter())
            yield Caller(oauth, oauth.runtime().sessions.live(record))


async def _line() -> Command | None:
    line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    command: Command = json.loads(line or "{}")
    return command or None


def _say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


async def main() -> None:
    while (command := await _line()) is not None:
        place = command.get("open")
        assert place is not None
        async with opened(place) as caller:
            _say("open")
            while (command := await _line()) is not None and "close" not in command:
                if "look" in command:
                    await caller.look()
                    _say("seen")
                else:
                    _say(await caller.calls(command.get("calls", 0), command.get("at", 0.0)))
        _say("closed")


if __name__ == "__main__":
    asyncio.run(main())
