"""What a request does about a session's tokens: start a refresh, wait for it, or go on."""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic

from atproto_oauth_asgi.errors import (
    ConfigurationError,
    RefreshFailed,
    SealBroken,
    StoreUnavailable,
)
from atproto_oauth_asgi.instrumentation import Events
from atproto_oauth_asgi.live import Flight, LiveSession
from atproto_oauth_asgi.refresh import Refresher
from atproto_oauth_asgi.refresh_timing import RefreshTiming
from atproto_oauth_asgi.store import EndedReason, Store
from atproto_oauth_asgi.tasks import finish

#: Seconds after which a WebSocket, a stream or a job that holds a session looks at its row again:
#: so long it may act after a logout in another process.
LOOK_EVERY = 60.0


class Upkeep:
    """Decides for each request of one event loop whether it waits for new tokens."""

    def __init__(
        self, *, refresher: Refresher, store: Store, timing: RefreshTiming, events: Events
    ) -> None:
        self._events = events
        self._refresher = refresher
        self._store = store
        self._timing = timing
        self._loop = asyncio.get_running_loop()

    def check_loop(self) -> None:
        """Refuse the calls of another event loop: connections and locks are of this one.

        Raises:
            ConfigurationError: it is another.
        """
        if asyncio.get_running_loop() is not self._loop:
            msg = (
                "This session belongs to another event loop. From a sync function call it with"
                " anyio.from_thread.run(session.query, …); a loop of your own takes its session"
                " from ATProtoOAuth.session_for."
            )
            raise ConfigurationError(msg)

    def begin(self, live: LiveSession) -> Flight | None:
        """Start a refresh if one is due and allowed; return the one under way, if any."""
        if live.flight is not None:
            return live.flight
        if (
            live.saved
            and live.ended_reason is None
            and live.due(self._timing.window)
            and live.allowed
        ):
            return self._refresher.start(live)
        return None

    async def settle(self, flight: Flight) -> None:
        """See a refresh through where nothing would go on with it after the request.

        Only the wait before the token request is bounded; once that is on its way it is awaited
        to its end, even if this request is cancelled.
        """
        task = flight.task
        if task is None:
            return
        if not flight.departed:
            await flight.wait_departure(self._timing.wait)
        # What is left of it when it is served, the end of the request waits for.
        if flight.departed and not flight.served:
            # Bounded by the deadline of the token request, and then of the store.
            await finish(task, within=self._timing.marked_lease + self._timing.commit_try)

    async def ready(self, live: LiveSession, *, replayable: bool) -> None:
        """Come back when a request to the PDS may go out.

        Args:
            live: The session.
            replayable: Whether the request could be sent again with newer tokens.

        Raises:
            SessionRevoked: the session is over.
            RefreshFailed: its token has expired and there is no newer one yet.
        """
        await self._look(live)
        live.check()
        flight = self.begin(live)
        if flight is not None and not flight.served and not live.waited_in_vain:
            live.waited_in_vain = not await flight.wait(self._timing.wait)
            live.check()
        in_the_air = flight is not None and flight.posting
        if live.remaining > 0 and (replayable or not in_the_air):
            return
        if live.tokens.refresh_token is None:
            await self._end(live, "expired")
        raise self._failure(flight)

    async def _look(self, live: LiveSession) -> None:
        """See now and then whether a session that is held for long has ended elsewhere."""
        now = monotonic()
        if not live.saved or live.flight is not None or now < live.looked + LOOK_EVERY:
            return
        # Once for all that wait, and not again at once where the store is away.
        live.looked = now
        with contextlib.suppress(StoreUnavailable, SealBroken, TimeoutError):
            async with asyncio.timeout(self._timing.wait):
                record = await self._store.load_session(live.id)
            if record is None:
                live.end("expired")
            else:
                live.adopt(record)

    def suspect(self, live: LiveSession) -> None:
        """Take note that the session's PDS does not answer: the account may have moved."""
        self._refresher.suspect(live)

    async def renew(self, live: LiveSession, used: int) -> bool:
        """Answer the PDS's `invalid_token`: say whether there is something newer to retry with.

        Args:
            live: The session.
            used: The version whose token the PDS refused.

        Raises:
            SessionRevoked: the session is over.
            RefreshFailed: newer tokens are on their way, but took too long.
            StoreUnavailable: nobody can say.
        """
        live.check()
        if live.version != used:
            return True
        if not live.saved:
            return False
        record = await self._store.load_session(live.id)
        if record is None:
            live.end("expired")
        else:
            live.adopt(record)
        live.check()
        if live.version != used:
            return True
        held = record is not None and (record.lease_remaining_ms or 0) > 0
        if live.flight is None and not held and not live.allowed:
            # Refreshed a moment ago, or the token endpoint is in trouble: asking again would
            # only rotate in circles.
            if live.failures:
                raise self._failure(None)
            return False
        if live.waited_in_vain and (live.flight is not None or held):
            # The refusal is no news: what replaces the token is on its way.
            raise self._failure(live.flight)
        if live.waited_in_vain:
            return False
        if live.tokens.refresh_token is None:
            # The only token there ever was is refused: nothing can bring the session back.
            await self._end(live, "revoked")
        flight = live.flight or self._refresher.start(live)
        live.waited_in_vain = not await flight.wait(self._timing.wait)
        live.check()
        if live.version != used:
            return True
        raise self._failure(flight)

    async def drain(self, live: LiveSession) -> None:
        """Let a refresh under way come to its end."""
        flight = live.flight
        if flight is not None and flight.task is not None:
            await asyncio.wait({flight.task}, timeout=self._timing.give_up)

    async def _end(self, live: LiveSession, reason: EndedReason) -> None:
        if await self._store.end_session(live.id, reason, version=live.version):
            self._events.info("session.ended", session=live.id, did=live.did, reason=reason)
        live.end(reason)
        live.check()

    def _failure(self, flight: Flight | None) -> RefreshFailed:
        if flight is not None and flight.error is not None:
            return RefreshFailed(str(flight.error))
        return RefreshFailed("New tokens are not there yet; try again in a moment.")
