"""A worker process that calls a PDS: `python -m tests.chaos.caller SECONDS`.

Its clock is ahead by so many seconds; commands say when to call by a clock that is right.

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
from types import SimpleNamespace
from typing import Any, Literal, TypedDict

import pytest

from atproto_oauth_asgi import ATProtoOAuth, dpop
from atproto_oauth_asgi.errors import ATProtoOAuthError
from atproto_oauth_asgi.live import LiveSession
from atproto_oauth_asgi.refresh_timing import RefreshTiming
from atproto_oauth_asgi.session import OAuthSession
from atproto_oauth_asgi.store import SessionFilter, SessionRecord
from atproto_oauth_asgi_stores import SQLStore, records, sessions
from tests.refresh.faults_store import remove_lease_of
from tests.refresh.fleet import GET_SESSION, SCOPE

# A busy machine is no finding.
PATIENT = RefreshTiming(wait=30.0)


Fault = Literal["lease removed", "clocks compared"]


class Place(TypedDict):
    """Says what to open."""

    base_url: str
    store_url: str
    plc_url: str
    secret_key: str
    #: What to plant, if anything: without it one of a few rounds must fail.
    fault: Fault | None


class Command(TypedDict, total=False):
    """Is one line: `open` something, `look` at the row, make so many calls at a time, `close`."""

    open: Place
    look: bool
    calls: int
    at: float
    close: bool


class Caller:
    """One process of the app, with its own engine and its own view of the one session."""

    def __init__(self, oauth: ATProtoOAuth, live: LiveSession, ahead: float) -> None:
        self._oauth = oauth
        self._ahead = ahead
        self._live = live
        self._session: OAuthSession = oauth.runtime().session(live)

    async def look(self) -> None:
        """See the row as it is now; what is stale is known before the calls begin."""
        found = await self._oauth.core.store.load_session(self._live.id)
        assert found is not None
        self._live.version = 0
        self._live.adopt(found)

    async def calls(self, count: int, at: float) -> list[int | str]:
        await asyncio.sleep(max(0.0, at + self._ahead - time.time()))
        return await asyncio.gather(*(self._call() for _ in range(count)))

    async def _call(self) -> int | str:
        try:
            return (await self._session.get(GET_SESSION)).status_code
        except ATProtoOAuthError as exc:
            return f"{exc.code}: {exc} ({exc.__cause__!r})"


def set_clock(ahead: float) -> None:
    """Let the clock of this host be wrong, for as long as the process lives.

    But for the time in proofs, which servers compare with theirs: they refuse such a host.
    """
    right, right_ns = time.time, time.time_ns
    dpop.__dict__["time"] = SimpleNamespace(time=right)
    time.time = lambda: right() + ahead
    time.time_ns = lambda: right_ns() + round(ahead * 1e9)


def compare_clocks(patch: pytest.MonkeyPatch) -> None:
    """Count the durations of a row from this host's clock, and not from the database's."""
    record = records.record

    def faulty(row: Any) -> SessionRecord:
        return record(SimpleNamespace(**{**row._mapping, "now": round(time.time() * 1000)}))  # type: ignore[arg-type]

    patch.setattr(sessions, "record", faulty)


@asynccontextmanager
async def opened(place: Place, ahead: float) -> AsyncGenerator[Caller]:
    with pytest.MonkeyPatch.context() as planted:
        if place["fault"] == "lease removed":
            remove_lease_of(SQLStore, planted)
        elif place["fault"] == "clocks compared":
            compare_clocks(planted)
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
            yield Caller(oauth, oauth.runtime().sessions.live(record), ahead)


async def _line() -> Command | None:
    line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    command: Command = json.loads(line or "{}")
    return command or None


def _say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


async def main(ahead: float) -> None:
    set_clock(ahead)
    while (command := await _line()) is not None:
        place = command.get("open")
        assert place is not None
        async with opened(place, ahead) as caller:
            _say("open")
            while (command := await _line()) is not None and "close" not in command:
                if "look" in command:
                    await caller.look()
                    _say("seen")
                else:
                    _say(await caller.calls(command.get("calls", 0), command.get("at", 0.0)))
        _say("closed")


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
