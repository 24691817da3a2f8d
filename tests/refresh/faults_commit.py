"""Faults of the commit."""
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

import time
from typing import Any

import pytest

from atproto_oauth_asgi import commit, tokens
from atproto_oauth_asgi.commit import Committer
from atproto_oauth_asgi.errors import StoreUnavailable
from atproto_oauth_asgi.instrumentation import Events
from atproto_oauth_asgi.live import LiveSession
from atproto_oauth_asgi.revocation import Revoker
from atproto_oauth_asgi.store import SessionRecord
from atproto_oauth_asgi.tokens import TokenResponse
from tests.refresh.faults import fault, nothing

# --- Commit ---


@fault("times count from the commit")
def _from_commit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(commit, "milliseconds", lambda _: 0)


@fault("the process counts from the answer")
def _from_answer(patch: pytest.MonkeyPatch) -> None:
    install: Any = LiveSession.install

    def faulty(self: LiveSession, new: Any, **kwargs: Any) -> None:
        kwargs["access_expires"] = time.monotonic() + kwargs["life"]
        install(self, new, **kwargs)

    patch.setattr(LiveSession, "install", faulty)


@fault("lives are not clamped")
def _unclamped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        tokens, "_life_ms", lambda value: int(value * 1000) if isinstance(value, int) else 300_000
    )


@fault("the interval is fixed")
def _fixed_interval(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TokenResponse, "refresh_after_ms", property(lambda _: 10_000))


@fault("superseded tokens are revoked")
def _superseded_revoked(patch: pytest.MonkeyPatch) -> None:
    original: Any = Committer._try

    async def faulty(self: Any, live: LiveSession, mine: Any, *args: Any, **kwargs: Any) -> bool:
        done: bool = await original(self, live, mine, *args, **kwargs)
        if live.tokens != mine:
            self._revoker.start(live, mine)
        return done

    patch.setattr(Committer, "_try", faulty)


@fault("mine are kept")
def _mine_kept(patch: pytest.MonkeyPatch) -> None:
    adopt: Any = LiveSession.adopt

    def faulty(self: LiveSession, record: SessionRecord, **_: Any) -> None:
        adopt(self, record)

    patch.setattr(LiveSession, "adopt", faulty)


@fault("nothing is revoked")
def _no_revocation(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Revoker, "start", nothing)
    patch.setattr(Revoker, "start_raw", nothing)


@fault("a commit without effect is given up")
def _given_up(patch: pytest.MonkeyPatch) -> None:
    original: Any = Committer._try

    async def faulty(*args: Any, **kwargs: Any) -> bool:
        await original(*args, **kwargs)
        return True

    patch.setattr(Committer, "_try", faulty)


@fault("new tokens wait for the database")
def _wait_for_database(patch: pytest.MonkeyPatch) -> None:
    original: Any = Committer.commit

    async def faulty(self: Any, live: LiveSession, flight: Any, *args: Any, **kwargs: Any) -> None:
        flight.serve = nothing
        try:
            await original(self, live, flight, *args, **kwargs)
        finally:
            del flight.serve

    patch.setattr(Committer, "commit", faulty)


@fault("commits are given up")
def _commits_given_up(patch: pytest.MonkeyPatch) -> None:
    original: Any = Committer._pause
    calls: list[None] = []

    async def faulty(self: Any) -> None:
        calls.append(None)
        if len(calls) > 5:
            raise StoreUnavailable
        await original(self)

    patch.setattr(Committer, "_pause", faulty)


@fault("there is no last try")
def _no_last_try(patch: pytest.MonkeyPatch) -> None:
    original: Any = Committer._pause

    async def faulty(self: Any) -> None:
        await original(self)
        if self._tasks.closing.is_set():
            raise StoreUnavailable

    patch.setattr(Committer, "_pause", faulty)


@fault("losses are not said")
def _silent_loss(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Events, "critical", nothing)
