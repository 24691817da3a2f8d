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
Steps 2 and 4 are in lease.py, 5 in refresh_request.py, 6 in refresh_outcome.py and commit.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from functools import partial

from atproto_oauth_asgi.authorization_server import ClientIdentity
from atproto_oauth_asgi.commit import Committer
from atproto_oauth_asgi.discovery import Discovery
from atproto_oauth_asgi.errors import FetchError, ResolutionError, StoreUnavailable
from atproto_oauth_asgi.identity import IdentityResolver
from atproto_oauth_asgi.instrumentation import Events
from atproto_oauth_asgi.lease import Hold, Leases, Watches
from atproto_oauth_asgi.live import Flight, LiveSession
from atproto_oauth_asgi.net import Net
from atproto_oauth_asgi.refresh_outcome import RefreshOutcomes
from atproto_oauth_asgi.refresh_request import RefreshRequests
from atproto_oauth_asgi.refresh_timing import RefreshTiming
from atproto_oauth_asgi.revocation import Revoker
from atproto_oauth_asgi.server_metadata import ServerMetadata
from atproto_oauth_asgi.store import Store
from atproto_oauth_asgi.tasks import Tasks


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
        self._resolver = resolver
        self._discovery = discovery
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
        self._requests = RefreshRequests(
            store=store, net=net, client=client, leases=self._leases, timing=timing
        )
        self._outcomes = RefreshOutcomes(
            store=store,
            leases=self._leases,
            committer=committer,
            revoker=revoker,
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
            await self._leases.postpone(hold, "The refresh failed unexpectedly; the log says why.")

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
        answer = await self._requests.post(hold, server)
        if answer is not None:
            await self._outcomes.conclude(hold, answer)

    # --- Verify ------------------------------------------------------------------------------

    async def _verify(self, hold: Hold) -> tuple[str, ServerMetadata] | None:
        """Look up afresh whether the account still lives where its tokens came from."""
        live = hold.live
        try:
            async with asyncio.timeout(self._timing.verify):
                pds = await self._resolver.locate(live.did, fresh=True)
                # Beside the rest, which it must not make longer: a handle is for display. The
                # commit stores what is known by then, or else the next one.
                self._tasks.start_spare(self._look_at_handle(live), name=f"handle of {live.did}")
                server = await self._discovery.for_pds(pds, fresh=True)
        except (TimeoutError, ResolutionError, FetchError) as exc:
            # An outage is no migration: the session stays, unspent.
            why = str(exc) or "they took too long."
            await self._leases.postpone(hold, f"The account's servers could not be checked: {why}")
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
                handle = await self._resolver.handle_of(live.did, shown=live.handle)
                live.saw_handle(handle)


def _land(live: LiveSession, flight: Flight, _: asyncio.Task[None]) -> None:
    live.flight = None
    flight.serve()
