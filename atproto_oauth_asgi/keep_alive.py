"""Keeping sessions alive that nobody uses, for apps that act for people who are away."""

from __future__ import annotations

import asyncio
import random
import secrets

from atproto_oauth_asgi.errors import StoreUnavailable
from atproto_oauth_asgi.instrumentation import Events
from atproto_oauth_asgi.refresh import Refresher
from atproto_oauth_asgi.refresh_timing import RefreshTiming, milliseconds
from atproto_oauth_asgi.sessions import Sessions
from atproto_oauth_asgi.store import SessionFilter, SessionRecord, Store

#: Seconds without a refresh after which a session is refreshed. Servers forget the sessions of
#: confidential clients after three months; this leaves a month for what goes wrong.
IDLE = 60 * 24 * 3600.0
#: Seconds between two rounds of one worker, give or take half: workers must not meet.
EVERY = 3600.0
#: Sessions read at once, and how often that is done in one round.
BATCH = 20
BATCHES = 50
#: Seconds between two refreshes, give or take half: no server is to be asked for all at once.
PAUSE = 1.0


class KeepAlive:
    """Refreshes the idle sessions of a confidential client, one by one.

    It goes through the same refresher as requests do, so any number of workers may do so at once.
    The sessions of public clients are left alone: a refresh does not make them last longer.
    """

    def __init__(
        self,
        *,
        store: Store,
        sessions: Sessions,
        refresher: Refresher,
        timing: RefreshTiming,
        events: Events,
    ) -> None:
        self._events = events
        self._store = store
        self._sessions = sessions
        self._refresher = refresher
        self._timing = timing
        # Ids are random, so workers that start together begin at different places. A round goes
        # on where the last one stopped: sessions that cannot be refreshed never block the rest.
        self._after: str | None = secrets.token_urlsafe(16)

    async def run(self) -> None:
        """Do a round now and then, until cancelled."""
        while True:
            await asyncio.sleep(EVERY * random.uniform(0.5, 1.5))  # noqa: S311  # jitter
            try:
                kept = await self.round()
            except StoreUnavailable:
                self._events.warning("sessions.not_kept_alive")
            except Exception:  # noqa: BLE001  # told with its traceback
                # A defect here must not end it for as long as the process lives.
                self._events.exception("sessions.not_kept_alive")
            else:
                if kept:
                    self._events.info("sessions.kept_alive", count=kept)

    async def round(self) -> int:
        """Refresh idle sessions to the end of the store, or of the bound; return how many.

        Raises:
            StoreUnavailable: the rest waits for the next round.
        """
        kept = 0
        for _ in range(BATCHES):
            page = await self._store.list_sessions(
                SessionFilter(status="active", refreshed_before_ms=milliseconds(IDLE)),
                after=self._after,
                limit=BATCH,
            )
            for record in page:
                self._after = record.id
                if await self._refresh(record):
                    kept += 1
                    await asyncio.sleep(PAUSE * random.uniform(0.5, 1.5))  # noqa: S311  # jitter
            if len(page) < BATCH:
                self._after = None
                break
        return kept

    async def _refresh(self, record: SessionRecord) -> bool:
        """Refresh one session if it is one of ours; say whether there are new tokens."""
        if record.client_kid is None or (record.lease_remaining_ms or 0) > 0:
            return False
        live = self._sessions.usable(record)
        if (
            live is None
            # Refreshed since the page was read, or about to be.
            or live.version != record.version
            or live.flight is not None
            or not live.allowed
            or live.tokens.refresh_token is None
        ):
            return False
        task = self._refresher.start(live).task
        if task is not None:
            await asyncio.wait({task}, timeout=self._timing.give_up)
        return live.version != record.version and live.ended_reason is None
