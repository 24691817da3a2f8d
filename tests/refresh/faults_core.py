"""Faults of the refresh itself."""
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import builtins
import contextvars
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from atproto_oauth_asgi import commit, lease, refresh, tokens
from atproto_oauth_asgi import oauth as oauth_module
from atproto_oauth_asgi.commit import Committer
from atproto_oauth_asgi.errors import FetchError, RefreshFailed, StoreUnavailable
from atproto_oauth_asgi.lease import Hold, LeaseLost, Leases, Watch
from atproto_oauth_asgi.live import Flight, LiveSession
from atproto_oauth_asgi.metadata import ClientMetadata
from atproto_oauth_asgi.net import Net
from atproto_oauth_asgi.refresh import Refresher
from atproto_oauth_asgi.revocation import Revoker
from atproto_oauth_asgi.runtime import Runtime
from atproto_oauth_asgi.sessions import Sessions
from atproto_oauth_asgi.store import SessionRecord
from atproto_oauth_asgi.tasks import Tasks
from atproto_oauth_asgi.tokens import TokenResponse
from tests.refresh import fleet
from tests.refresh.faults import fault


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    return None


# --- One at a time ---


@fault("no single flight")
def remove_single_flight(patch: pytest.MonkeyPatch) -> None:
    def start(self: Any, live: LiveSession) -> Flight:
        flight = Flight()
        flight.task = self._tasks.start(self._fly(live, flight), name="refresh")
        return flight

    patch.setattr(Refresher, "start", start)
    # `begin` joins what it knows of as well.
    patch.setattr(LiveSession, "flight", property(lambda _: None, _nothing), raising=False)


@fault("losers do not adopt")
def _no_adopt(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leases, "adopt", _nothing)


@fault("pauses do not grow")
def _same_pauses(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lease, "min", lambda _a, _b: 0.008, raising=False)


@fault("an old row is adopted")
def _old_row(patch: pytest.MonkeyPatch) -> None:
    adopt: Any = LiveSession.adopt

    def faulty(self: LiveSession, record: SessionRecord, **kwargs: Any) -> None:
        self.version = 0
        adopt(self, record, **kwargs)

    patch.setattr(LiveSession, "adopt", faulty)


@fault("one owner for all")
def _one_owner(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(refresh, "secrets", SimpleNamespace(token_hex=lambda n: "ab" * n))


# --- Mark ---


def _as_marked(hold: Hold) -> None:
    hold.marking = hold.marked = hold.departed = True
    hold.sent = time.monotonic()
    hold.flight.depart()


@fault("mark skipped")
def _mark_skipped(patch: pytest.MonkeyPatch) -> None:
    async def faulty(_self: Leases, hold: Hold) -> None:
        _as_marked(hold)

    patch.setattr(Leases, "mark", faulty)


@fault("marked at acquire")
def _marked_early(patch: pytest.MonkeyPatch) -> None:
    acquire: Any = Leases.acquire

    async def faulty(self: Leases, hold: Hold) -> bool:
        taken: bool = await acquire(self, hold)
        if taken:
            await self.mark(hold)
        return taken

    patch.setattr(Leases, "acquire", faulty)


@fault("one mark for two POSTs")
def _one_mark(patch: pytest.MonkeyPatch) -> None:
    mark: Any = Leases.mark

    async def faulty(self: Leases, hold: Hold) -> None:
        if not hold.marked:
            await mark(self, hold)

    patch.setattr(Leases, "mark", faulty)


@fault("mark result ignored")
def _mark_ignored(patch: pytest.MonkeyPatch) -> None:
    mark: Any = Leases.mark

    async def faulty(self: Leases, hold: Hold) -> None:
        try:
            await mark(self, hold)
        except LeaseLost:
            _as_marked(hold)

    patch.setattr(Leases, "mark", faulty)


@fault("an unanswered mark counts")
def _mark_unanswered(patch: pytest.MonkeyPatch) -> None:
    mark: Any = Leases.mark

    async def faulty(self: Leases, hold: Hold) -> None:
        try:
            async with asyncio.timeout(0.1):
                await mark(self, hold)
        except (StoreUnavailable, TimeoutError):
            _as_marked(hold)

    patch.setattr(Leases, "mark", faulty)


@fault("a slow mark is good")
def _slow_mark(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lease, "max", lambda _a, _b: 0.0, raising=False)


@fault("the wall clock is not asked")
def _no_wall(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lease, "abs", lambda _: 0.0, raising=False)


# --- Watch ---


@fault("watch ignored")
def _no_watch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Watch, "see", lambda _self, record: lease._dead_lease(record))


@fault("any dead lease was watched")
def _any_lease(patch: pytest.MonkeyPatch) -> None:
    see: Any = Watch.see

    def faulty(self: Watch, record: SessionRecord) -> Any:
        if self._lease is not None:
            self._lease = lease._dead_lease(record)
        return see(self, record)

    patch.setattr(Watch, "see", faulty)


@fault("a pause counts as watching")
def _pauses_count(patch: pytest.MonkeyPatch) -> None:
    kept: list[Watch] = []

    def one_for_all(timing: Any) -> Watch:
        kept.append(Watch(timing))
        return kept[0]

    patch.setattr(lease, "min", lambda a, _b: a, raising=False)
    patch.setattr(lease, "Watch", one_for_all)


# --- Verify and POST ---


@fault("the lease is kept on failure")
def _lease_kept(patch: pytest.MonkeyPatch) -> None:
    async def faulty(_self: Leases, hold: Hold, message: str, **_: Any) -> None:
        hold.flight.error = RefreshFailed(message)
        hold.flight.serve()

    patch.setattr(Leases, "give_back", faulty)


@fault("verify skipped")
def _no_verify(patch: pytest.MonkeyPatch) -> None:
    async def faulty(self: Any, hold: Hold) -> Any:
        return hold.live.pds, await self._discovery.for_issuer(hold.live.issuer)

    patch.setattr(Refresher, "_verify", faulty)


@fault("the issuer is not compared")
def _any_issuer(patch: pytest.MonkeyPatch) -> None:
    async def faulty(self: Any, hold: Hold) -> Any:
        pds = await self._resolver.locate(hold.live.did, fresh=True)
        return pds, await self._discovery.for_pds(pds, fresh=True)

    patch.setattr(Refresher, "_verify", faulty)


@fault("the old PDS is kept")
def _old_pds(patch: pytest.MonkeyPatch) -> None:
    verify: Any = Refresher._verify

    async def faulty(self: Any, hold: Hold) -> Any:
        found = await verify(self, hold)
        return found and (hold.live.pds, found[1])

    patch.setattr(Refresher, "_verify", faulty)


def _await_for(patch: pytest.MonkeyPatch, seconds: Any) -> None:
    async def faulty(_self: Any, task: asyncio.Task[Any]) -> Any:
        done, _ = await asyncio.wait({task}, timeout=seconds())
        if not done:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return None
        return task.result()

    patch.setattr(Refresher, "_await_post", faulty)


@fault("late answers are dropped")
def _dropped(patch: pytest.MonkeyPatch) -> None:
    _await_for(patch, lambda: fleet.TIMING.post)


@fault("one deadline for all")
def _one_deadline(patch: pytest.MonkeyPatch) -> None:
    start: contextvars.ContextVar[float] = contextvars.ContextVar("start")
    original: Any = Refresher._refresh

    async def faulty(self: Any, hold: Hold) -> None:
        start.set(time.monotonic())
        await original(self, hold)

    patch.setattr(Refresher, "_refresh", faulty)
    _await_for(patch, lambda: max(0.0, fleet.TIMING.post + start.get() - time.monotonic()))


@fault("blind retry")
def _blind(patch: pytest.MonkeyPatch) -> None:
    attempt: Any = vars(refresh)["attempt"]

    async def faulty(*args: Any, **kwargs: Any) -> Any:
        try:
            return await attempt(*args, **kwargs)
        except FetchError:
            return await attempt(*args, **kwargs)

    patch.setattr(refresh, "attempt", faulty)


@fault("nonces are chased for ever")
def _chased(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(refresh, "range", lambda _: builtins.range(6), raising=False)


@fault("idle connections are used")
def _idle(patch: pytest.MonkeyPatch) -> None:
    init: Any = Net.__init__

    def faulty(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self._single_posts = self._posts

    patch.setattr(Net, "__init__", faulty)


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
    patch.setattr(Revoker, "start", _nothing)
    patch.setattr(Revoker, "start_raw", _nothing)


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
        flight.serve = _nothing
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
    patch.setattr(commit.log, "critical", _nothing)


# --- Failures ---


@fault("no backoff")
def _no_backoff(patch: pytest.MonkeyPatch) -> None:
    give_back: Any = Leases.give_back

    async def faulty(*args: Any, **kwargs: Any) -> None:
        await give_back(*args, **{**kwargs, "wait_ms": None})

    patch.setattr(Leases, "give_back", faulty)


@fault("no jitter")
def _no_jitter(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(refresh, "random", SimpleNamespace(uniform=lambda _a, _b: 1.0))


@fault("Retry-After is ignored")
def _no_retry_after(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(refresh, "_retry_after", _nothing)


@fault("the end is not noticed")
def _end_unnoticed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LiveSession, "end", _nothing)


@fault("ends are not explained")
def _unexplained(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(refresh.log, "warning", _nothing)


@fault("the row is not read again")
def _not_read_again(patch: pytest.MonkeyPatch) -> None:
    async def faulty(self: Any, hold: Hold) -> None:
        await self._end(hold, "revoked")

    patch.setattr(Refresher, "_grant_gone", faulty)


@fault("old refusals end newer sessions")
def _old_refusals(patch: pytest.MonkeyPatch) -> None:
    async def faulty(self: Any, hold: Hold) -> None:
        await self._store.end_session(hold.live.id, "revoked")

    patch.setattr(Refresher, "_grant_gone", faulty)


@fault("every failure ends the session")
def _failures_end(patch: pytest.MonkeyPatch) -> None:
    async def faulty(self: Any, hold: Hold, *_: Any, **__: Any) -> None:
        await self._end(hold, "revoked")

    patch.setattr(Refresher, "_fail", faulty)


@fault("a re-used jti ends the session")
def _jti_ends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(refresh, "_jti_reused", lambda _: False)


def _parses(patch: pytest.MonkeyPatch, **members: Any) -> None:
    parse = TokenResponse.parse

    def faulty(document: Any, *, sub: str | None) -> TokenResponse:
        return parse({**document, **members}, sub=None if not members else sub)

    patch.setattr(TokenResponse, "parse", staticmethod(faulty))


@fault("the subject is not compared")
def _any_subject(patch: pytest.MonkeyPatch) -> None:
    _parses(patch)


@fault("the token type is not compared")
def _any_type(patch: pytest.MonkeyPatch) -> None:
    _parses(patch, token_type="DPoP")


@fault("client ids are not compared")
def _any_client(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sessions, "unusable_reason", _nothing)


@fault("the port is in the client id")
def _port_in_id(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ClientMetadata, "_portless_redirect_uri", ClientMetadata.redirect_uri)


@fault("logout revokes first")
def _revokes_first(patch: pytest.MonkeyPatch) -> None:
    async def faulty(self: Runtime, live: LiveSession) -> None:
        await self.revoker.start(live, live.tokens)
        await self.store.end_session(live.id, "logout")
        live.end("logout")

    patch.setattr(Runtime, "logout", faulty)


@fault("logout needs the server")
def _needs_server(patch: pytest.MonkeyPatch) -> None:
    logout: Any = Runtime.logout

    async def faulty(self: Runtime, live: LiveSession) -> None:
        await self.net.get_json(f"{live.issuer}/.well-known/oauth-authorization-server")
        await logout(self, live)

    patch.setattr(Runtime, "logout", faulty)


@fault("shutdown drains nothing")
def _no_drain(patch: pytest.MonkeyPatch) -> None:
    drain: Any = Tasks.drain

    async def faulty(self: Tasks, _timeout: float) -> None:
        await drain(self, 0.0)

    patch.setattr(Tasks, "drain", faulty)


@fault("nobody says it")
def _not_said(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(oauth_module.log, "warning", _nothing)


@fault("the old refresh token is dropped")
def _no_old_token(patch: pytest.MonkeyPatch) -> None:
    commit_it: Any = Committer.commit

    async def faulty(self: Any, live: Any, flight: Any, new: Any, response: Any, **kw: Any) -> None:
        given = replace(new, refresh_token=response.refresh_token)
        await commit_it(self, live, flight, given, response, **kw)

    patch.setattr(Committer, "commit", faulty)
