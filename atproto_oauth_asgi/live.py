"""What one event loop knows of one session: the state that every request of it shares."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from time import monotonic

from atproto_oauth_asgi.dpop import DPoPKey, Nonces, token_hash
from atproto_oauth_asgi.errors import RefreshFailed, SessionRevoked
from atproto_oauth_asgi.store import SessionRecord
from atproto_oauth_asgi.tasks import Kept
from atproto_oauth_asgi.tokens import Tokens
from atproto_oauth_asgi.vault import Vault

#: Seconds between two looks at where an account lives whose PDS does not answer.
SUSPECT_EVERY = 30.0


class Calls:
    """Counts a session's requests to its PDS that have no answer yet."""

    def __init__(self) -> None:
        self._counts = {True: 0, False: 0}
        self._changed = asyncio.Event()

    @contextmanager
    def one(self, *, replayable: bool) -> Generator[None, None, None]:
        """Count one request until its response headers are there, or it failed."""
        self._counts[replayable] += 1
        try:
            yield
        finally:
            self._counts[replayable] -= 1
            self._changed.set()

    async def drain(self, timeout: float, *, streams_timeout: float) -> None:
        """Wait for the calls in flight: all for `timeout`, those not replayable for longer.

        An old access token dies the moment a refresh succeeds, so a call that is on its way would
        come back with a 401; one whose body cannot be sent twice would be lost.
        """
        start = monotonic()
        while self._counts[True] or self._counts[False]:
            left = timeout if self._counts[True] else 0.0
            if self._counts[False]:
                left = max(timeout, streams_timeout)
            left -= monotonic() - start
            if left <= 0:
                return
            self._changed.clear()
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                return


class Flight:
    """One refresh under way, as those see it who wait for it."""

    def __init__(self) -> None:
        self._served = asyncio.Event()
        self._departed = asyncio.Event()
        #: A token request is, or may be, in the air.
        self.posting = False
        #: Why it ended without new tokens.
        self.error: RefreshFailed | None = None
        self.task: Kept[None] | None = None

    @property
    def served(self) -> bool:
        """Say whether waiting has an end: there are new tokens, or there will be none."""
        return self._served.is_set()

    @property
    def departed(self) -> bool:
        """Say whether a token request left, or it is certain that none will."""
        return self._departed.is_set()

    def depart(self) -> None:
        """Note that a token request is about to leave."""
        self.posting = True
        self._departed.set()
        if self.task is not None:
            # From here on it may hold the only live tokens.
            self.task.kept = True

    def serve(self) -> None:
        """Let everybody go on who waits."""
        self.posting = False
        self._departed.set()
        self._served.set()

    async def wait(self, timeout: float) -> bool:
        """Wait until served, at most `timeout` seconds; say whether it was."""
        return await _within(timeout, self._served)

    async def wait_departure(self, timeout: float) -> bool:
        """Wait until a token request left or none will, at most `timeout` seconds."""
        return await _within(timeout, self._departed)


async def _within(timeout: float, event: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(timeout):
            await event.wait()
    except TimeoutError:
        return False
    return True


class LiveSession:
    """One session in one event loop. Its tokens only ever move to a higher version."""

    def __init__(self, record: SessionRecord, vault: Vault, *, shared_nonces: Nonces) -> None:
        self._vault = vault
        self.id = record.id
        self.did = record.did
        self.issuer = record.issuer
        self.client_id = record.client_id
        self.client_kid = record.client_kid
        self.handle: str | None = record.handle
        # The version at which this loop has last looked at it.
        self._looked_at = -1
        self.key: DPoPKey = vault.dpop_key(record)
        self.nonces = Nonces(shared_nonces)
        self.calls = Calls()
        self.flight: Flight | None = None
        #: Somebody waited for a refresh as long as one may; nobody does again before a change.
        self.waited_in_vain = False
        self.ended_reason: str | None = None
        #: False while a login is not finished: there is no row to refresh or to look up yet.
        self.saved = True
        #: Browser that the session was last seen in.
        self.browser_id: str | None = record.browser_id
        #: Seconds since the store last wrote it as seen.
        self.seen_ago = record.seen_ago_ms / 1000
        self.version = 0
        self._suspected = -SUSPECT_EVERY
        #: When the row was seen last, by the monotonic clock.
        self.looked = 0.0
        self.failures = 0
        self._row: tuple[object, ...] = ()
        self.adopt(record)

    def __repr__(self) -> str:
        return f"LiveSession(id={self.id!r}, did={self.did!r}, version={self.version})"

    def adopt(self, record: SessionRecord, *, replace: bool = False) -> None:
        """Take over what the store says, unless this loop already knows something newer.

        Args:
            record: The row.
            replace: Take it even at the same version: another worker's tokens won.

        Raises:
            SealBroken: the row's secrets do not open.
        """
        self.looked = monotonic()
        if record.status == "ended":
            self.end(record.ended_reason or "revoked")
            return
        if record.version < self.version:
            return
        if record.version > self.version or replace:
            tokens = self._vault.tokens(record)
            now = monotonic()
            self.client_kid = record.client_kid
            # Who looked later than the tokens came stores what they saw with the next ones.
            if record.version > self._looked_at + 1:
                self.handle = record.handle
            self.install(
                tokens,
                version=record.version,
                scope=record.scope,
                access_expires=now + record.access_remaining_ms / 1000,
                life=(record.access_remaining_ms + record.refreshed_ago_ms) / 1000,
                refresh_at=now + record.refresh_wait_ms / 1000,
            )
        else:
            self.refresh_at = monotonic() + record.refresh_wait_ms / 1000
        if record.status == "reauth_required":
            self.end("reauth_required")
        elif record.remaining_ms <= 0:
            # Over, though nobody has swept it away yet; its newest tokens are those to revoke.
            self.end("expired")
        self.failures = record.failures
        row = (record.version, record.failures, record.lease_owner, record.lease_until)
        if row != self._row:
            self._row = row
            self.waited_in_vain = False

    def saw_handle(self, handle: str | None) -> None:
        """Take over what a look at the account found."""
        self.handle = handle
        self._looked_at = self.version

    def install(
        self,
        tokens: Tokens,
        *,
        version: int,
        scope: str,
        access_expires: float,
        life: float,
        refresh_at: float,
    ) -> None:
        """Put tokens in place; all times are of this process's monotonic clock, in seconds."""
        self.tokens = tokens
        self.ath = token_hash(tokens.access_token)
        self.version = version
        self.scope = scope
        self.access_expires = access_expires
        self.life = life
        self.refresh_at = refresh_at
        self.failures = 0
        self.waited_in_vain = False

    def end(self, reason: str) -> None:
        """Remember that the session is over; the first reason stays."""
        if self.ended_reason is None:
            self.ended_reason = reason

    @property
    def pds(self) -> str:
        """Return the origin that the tokens may be sent to."""
        return self.tokens.pds

    @property
    def remaining(self) -> float:
        """Return the seconds of life left in the access token; negative when it is over."""
        return self.access_expires - monotonic()

    def due(self, window: float) -> bool:
        """Say whether the access token is in its refresh window, a refresh allowed or not."""
        remaining = self.remaining
        return (
            remaining <= window
            and remaining <= self.life / 5
            and self.tokens.refresh_token is not None
        )

    def suspect(self) -> bool:
        """Say whether it is time to ask where the account lives now, and remember that it was."""
        now = monotonic()
        if not self.saved or self.ended_reason is not None or now < self._suspected + SUSPECT_EVERY:
            return False
        self._suspected = now
        return True

    @property
    def allowed(self) -> bool:
        """Say whether neither the minimum interval nor a backoff lies ahead."""
        return monotonic() >= self.refresh_at

    def check(self) -> None:
        """Raise `SessionRevoked` when the session is over."""
        if self.ended_reason is not None:
            msg = f"The session has ended ({self.ended_reason}); send the person to login."
            raise SessionRevoked(msg, reason=self.ended_reason)
