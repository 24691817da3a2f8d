"""Keeping a session alive: exactly one token request per stale session, however many workers.

Refresh tokens are single use, a replay kills the whole session, and there is no grace period
(atproto OAuth: Tokens; RFC 9700 §4.14.2). So a refresh goes like this, in one task that no request
can cancel:

1. *Drain*: let the calls in flight come home, for their token dies when the refresh succeeds.
2. *Acquire*: take the row's lease; whoever does not get it watches the row and adopts.
3. *Verify*: DID -> PDS -> authorization server, looked up fresh, must still be the session's.
4. *Mark*: announce the token request in the row, right before its first byte.
5. *Post*: in a task of its own, with a long deadline; giving up early is a replay later.
6. *Commit*: whoever holds a 200 holds the only live tokens and stores them, however long it takes.

What went wrong in between is told by the journal in the row: attempts and first_sent_at.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from math import inf

import httpx

from atproto_oauth_asgi.authorization_server import ASAnswer, ClientIdentity, Learnt, attempt
from atproto_oauth_asgi.clock_skew import http_date
from atproto_oauth_asgi.commit import Committer
from atproto_oauth_asgi.discovery import Discovery
from atproto_oauth_asgi.errors import (
    BadAnswer,
    ClientKeyMissing,
    FetchError,
    LoginError,
    ResolutionError,
    StoreUnavailable,
)
from atproto_oauth_asgi.identity import IdentityResolver
from atproto_oauth_asgi.instrumentation import Events
from atproto_oauth_asgi.lease import Hold, LeaseLost, Leases, TooSlow, Watches
from atproto_oauth_asgi.live import Flight, LiveSession
from atproto_oauth_asgi.net import Net
from atproto_oauth_asgi.refresh_timing import RefreshTiming, milliseconds
from atproto_oauth_asgi.revocation import Revoker
from atproto_oauth_asgi.server_metadata import ServerMetadata
from atproto_oauth_asgi.store import EndedReason, Store
from atproto_oauth_asgi.tasks import Kept, Tasks
from atproto_oauth_asgi.tokens import TokenResponse, Tokens

_SECONDS = re.compile(r"[0-9]{1,9}")


class Refresher:
    """Refreshes the sessions of one event loop."""

    def __init__(
        self,
        *,
        store: Store,
        net: Net,
        resolver: IdentityResolver,
        discovery: Discovery,
        client: ClientIdentity,
        committer: Committer,
        revoker: Revoker,
        timing: RefreshTiming,
        tasks: Tasks,
        watches: Watches,
        attended: Callable[[], bool],
        events: Events,
    ) -> None:
        self._events = events
        self._store = store
        self._net = net
        self._resolver = resolver
        self._discovery = discovery
        self._client = client
        self._committer = committer
        self._revoker = revoker
        self._timing = timing
        self._tasks = tasks
        self._leases = Leases(
            store=store,
            timing=timing,
            tasks=tasks,
            watches=watches,
            attended=attended,
            events=events,
        )

    def start(self, live: LiveSession) -> Flight:
        """Start a refresh, or join the one that is under way in this event loop."""
        flight = live.flight
        if flight is None:
            flight = live.flight = Flight()
            flight.task = self._tasks.start(self._fly(live, flight), name=f"refresh {live.id}")
            # Also of a task that is cancelled before it begins.
            flight.task.add_done_callback(partial(_land, live, flight))
        return flight

    def suspect(self, live: LiveSession) -> None:
        """Look, in the background, whether an account whose PDS is not there has moved."""
        if live.suspect():
            self._tasks.start(self._look(live), name=f"look for {live.did}")

    async def _look(self, live: LiveSession) -> None:
        try:
            async with asyncio.timeout(self._timing.verify):
                pds = await self._resolver.locate(live.did, fresh=True)
        except (TimeoutError, ResolutionError, FetchError):
            return
        # The tokens are for the old PDS: only a refresh, with all its checks, leads to the new one.
        if pds != live.pds and live.allowed and live.tokens.refresh_token is not None:
            self.start(live)

    async def _fly(self, live: LiveSession, flight: Flight) -> None:
        hold = Hold(live=live, flight=flight, version=live.version, owner=secrets.token_hex(16))
        try:
            await self._refresh(hold)
        except StoreUnavailable:
            self._events.warning("refresh.store_unavailable", session=live.id, did=live.did)
            await self._leases.give_back(
                hold, "The session store does not answer; nothing was lost."
            )
        except Exception:  # noqa: BLE001  # told with its traceback
            # A defect must not keep a lease for its full length.
            self._events.exception("refresh.failed", session=live.id, did=live.did)
            await self._fail(hold, "The refresh failed unexpectedly; the log says why.")

    async def _refresh(self, hold: Hold) -> None:
        live, timing = hold.live, self._timing
        # A refresh before its time means that the PDS refused the token: nothing to wait for.
        streams = live.remaining if live.due(timing.window) else timing.drain
        await live.calls.drain(timing.drain, streams_timeout=streams)
        if not await self._leases.acquire(hold):
            return
        record = await self._store.load_session(live.id)
        if record is None or record.version != hold.version or record.lease_owner != hold.owner:
            self._leases.adopt(live, record)
            return
        self._leases.adopt(live, record)
        if live.ended_reason is not None:
            await self._leases.give_back(hold, "The session is over.")
            return
        hold.attempts_before = record.attempts
        server = await self._verify(hold)
        if server is None:
            return
        # Beside the post, which it must not make longer: a handle is for display. The commit
        # stores what is known by then, or else the next one.
        self._tasks.start(self._look_at_handle(live), name=f"handle of {live.did}")
        answer = await self._post(hold, server)
        if answer is not None:
            await self._conclude(hold, answer)

    # --- Verify ------------------------------------------------------------------------------

    async def _verify(self, hold: Hold) -> tuple[str, ServerMetadata] | None:
        """Look up afresh whether the account still lives where its tokens came from."""
        live = hold.live
        try:
            async with asyncio.timeout(self._timing.verify):
                pds = await self._resolver.locate(live.did, fresh=True)
                server = await self._discovery.for_pds(pds, fresh=True)
        except (TimeoutError, ResolutionError, FetchError) as exc:
            # An outage is no migration: the session stays, unspent.
            why = str(exc) or "they took too long."
            await self._fail(hold, f"The account's servers could not be checked: {why}")
            return None
        if server.issuer != live.issuer:
            self._events.warning("session.issuer_moved", session=live.id, did=live.did)
            if await self._store.require_reauth(live.id, version=hold.version):
                live.end("reauth_required")
                self._revoker.start(live, live.tokens)
            else:
                self._leases.adopt(live, await self._store.load_session(live.id))
            return None
        return pds, server

    async def _look_at_handle(self, live: LiveSession) -> None:
        """Find out whether the account still has its handle, or has another one."""
        # An outage takes it from nobody: whoever can say is asked again at the next refresh.
        with contextlib.suppress(TimeoutError, ResolutionError, FetchError):
            async with asyncio.timeout(self._timing.verify):
                live.handle = await self._resolver.handle_of(live.did)

    # --- Mark and post -----------------------------------------------------------------------

    async def _post(
        self, hold: Hold, server: tuple[str, ServerMetadata]
    ) -> _Granted | ASAnswer | None:
        live, flight = hold.live, hold.flight
        pds, metadata = server
        kid = self._client.kid_for(live.client_kid)
        form = {
            "grant_type": "refresh_token",
            "refresh_token": live.tokens.refresh_token or "",
        }
        result: ASAnswer | None = None
        try:
            # Once, and once more with the nonce that the server then asks for, or the time that
            # it names: it looks at the proof before it looks at the token.
            told: set[Learnt] = set()
            while True:
                left = asyncio.Event()
                task = Kept(
                    attempt(
                        self._net,
                        self._client,
                        metadata.token_endpoint,
                        form,
                        issuer=live.issuer,
                        kid=kid,
                        key=live.key,
                        nonces=live.nonces,
                        # Timed by `_await_post`: after a pause of the process every timer has
                        # run out, but the answer may already lie in the socket.
                        deadline=inf,
                        before_send=partial(self._leave, hold, left),
                    )
                )
                task.kept = True
                result = await self._await_post(task, left)
                if result is None or result.learnt is None or result.learnt in told:
                    break
                told.add(result.learnt)
                hold.departed = False
        except LeaseLost:
            self._leases.adopt(live, await self._store.load_session(live.id))
            await self._leases.give_back(hold, "The refresh could not be announced.")
            return None
        except TooSlow:
            await self._fail(hold, "The store was too slow to announce the refresh.")
            return None
        except ClientKeyMissing as exc:
            await self._fail(hold, str(exc))
            return None
        except FetchError as exc:
            await self._fail(hold, f"The token endpoint did not answer: {exc}")
            return None
        finally:
            flight.posting = False
        if result is None:
            await self._fail(hold, "The token endpoint did not answer in time.")
            return None
        if result.answer.status == HTTPStatus.OK:
            return _Granted(result, pds, metadata, kid)
        return result

    async def _leave(self, hold: Hold, left: asyncio.Event) -> None:
        await self._leases.mark(hold)
        left.set()

    async def _await_post(
        self, task: asyncio.Task[ASAnswer], left: asyncio.Event
    ) -> ASAnswer | None:
        post = self._timing.post
        leaving = asyncio.create_task(left.wait())
        try:
            await asyncio.wait({task, leaving}, timeout=post, return_when=asyncio.FIRST_COMPLETED)
            # The server's time begins now, however long the request waited for a connection.
            if left.is_set():
                done, _ = await asyncio.wait({task}, timeout=post)
                if not done:
                    await asyncio.wait({task}, timeout=self._timing.late_answer)
            return task.result() if task.done() else None
        finally:
            leaving.cancel()
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    # --- Conclude ----------------------------------------------------------------------------

    async def _conclude(self, hold: Hold, outcome: _Granted | ASAnswer) -> None:
        live = hold.live
        if isinstance(outcome, _Granted):
            await self._granted(hold, outcome)
            return
        status, error = outcome.answer.status, outcome.error
        fields = {"session": live.id, "did": live.did, "status": status, "error": error}
        self._events.warning("refresh.refused", **fields)
        if status in {400, 401} and error == "invalid_grant" and not _jti_reused(outcome):
            await self._grant_gone(hold)
            return
        # Every other refusal in OAuth's own words comes before the token is looked at.
        unspent = httpx.codes.is_client_error(status) and error is not None
        await self._fail(
            hold,
            f"The token endpoint answered {status} {error or ''}".rstrip() + ".",
            retry_after=_retry_after(outcome),
            unspent=unspent,
        )

    async def _granted(self, hold: Hold, granted: _Granted) -> None:
        live = hold.live
        try:
            document = granted.result.document()
        except BadAnswer as exc:
            await self._fail(hold, f"The token endpoint's answer cannot be read: {exc}")
            return
        try:
            response = TokenResponse.parse(document, sub=live.did)
        except BadAnswer as exc:
            await self._fail(hold, f"The token endpoint's answer cannot be read: {exc}")
            return
        except (LoginError, ResolutionError) as exc:
            # Tokens for somebody else, or not bound to our key: the old ones are spent, and
            # nobody may use these.
            self._events.exception(
                "refresh.wrong_tokens", session=live.id, did=live.did, error=exc.code
            )
            self._revoker.start_raw(live, document, granted.metadata)
            await self._end(hold, "revoked")
            return
        tokens = Tokens(
            access_token=response.access_token,
            # A server that does not rotate gives none: the old one stays good.
            refresh_token=response.refresh_token or live.tokens.refresh_token,
            pds=granted.pds,
        )
        if not granted.result.nonce_given:
            # Refusing these tokens, as other answers without a nonce are, would lose the session.
            self._events.warning("refresh.no_nonce", session=live.id, issuer=live.issuer)
        await self._committer.commit(
            live,
            hold.flight,
            tokens,
            response,
            version=hold.version,
            owner=hold.owner,
            kid=granted.kid,
            sent=hold.sent,
        )

    async def _grant_gone(self, hold: Hold) -> None:
        """Find out why the grant is gone before anybody is signed out."""
        live = hold.live

        async def judge() -> None:
            record = await self._store.load_session(live.id)
            if record is None or record.status == "ended" or record.version > hold.version:
                if record is not None and record.status != "ended":
                    # Ours was the replay; the newer grant is probably dead, and the next
                    # refusal of it will be told from a revocation by this.
                    await self._store.count_attempt(live.id, version=record.version)
                    record = await self._store.load_session(live.id)
                self._leases.adopt(live, record)
                return
            reason: EndedReason = "lost_rotation" if record.attempts > 1 else "revoked"
            if await self._store.end_session(live.id, reason, version=hold.version):
                live.end(reason)
                self._events.warning(
                    "session.ended",
                    session=live.id,
                    did=live.did,
                    reason=reason,
                    attempts=record.attempts,
                    first_sent_ago_ms=record.first_sent_ago_ms,
                )
            else:
                self._leases.adopt(live, await self._store.load_session(live.id))

        await self._leases.insist(judge)

    async def _end(self, hold: Hold, reason: EndedReason) -> None:
        async def end() -> None:
            await self._store.end_session(hold.live.id, reason, version=hold.version)

        await self._leases.insist(end)
        live = hold.live
        live.end(reason)
        self._events.info("session.ended", session=live.id, did=live.did, reason=reason)

    async def _fail(
        self,
        hold: Hold,
        message: str,
        *,
        retry_after: float | None = None,
        unspent: bool = False,
    ) -> None:
        """Give the lease back with a pause that every worker keeps; the session stays."""
        live, timing = hold.live, self._timing
        live.failures += 1
        pause = min(timing.backoff, 2.0 ** min(live.failures, 16))
        pause *= random.uniform(0.8, 1.2)  # noqa: S311  # jitter
        if retry_after is not None:
            pause = min(max(1.0, retry_after), timing.retry_after)
        live.refresh_at = time.monotonic() + pause
        self._events.warning(
            "refresh.postponed", session=live.id, did=live.did, pause=round(pause, 3), why=message
        )
        await self._leases.give_back(hold, message, wait_ms=milliseconds(pause), unspent=unspent)


@dataclass(frozen=True, slots=True)
class _Granted:
    result: ASAnswer
    pds: str
    metadata: ServerMetadata
    kid: str | None


def _land(live: LiveSession, flight: Flight, _: asyncio.Task[None]) -> None:
    live.flight = None
    flight.serve()


def _jti_reused(answer: ASAnswer) -> bool:
    """Tell a re-used assertion `jti`, which the reference server calls `invalid_grant` too."""
    words = answer.description.lower()
    return "jti" in words and "reuse" in words


def _retry_after(answer: ASAnswer) -> float | None:
    headers = answer.answer.headers
    value = headers.get("retry-after", "")
    if _SECONDS.fullmatch(value):
        return float(value)
    # Or a date (RFC 9110 §10.2.3), by the server's own clock where it shows that.
    until, now = http_date(headers, "retry-after"), http_date(headers, "date")
    return None if until is None else until - (time.time() if now is None else now)
