"""Everything in this process's memory: for tests, and for apps that may forget all sessions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from itertools import islice

from atproto_oauth_asgi.errors import StoreError
from atproto_oauth_asgi.store import (
    COOKIE_GRACE_MS,
    BrowserLogin,
    Consumed,
    EndedReason,
    Loaded,
    NewSession,
    OneTime,
    Refreshed,
    SessionFilter,
    SessionRecord,
)
from atproto_oauth_asgi_stores.memory_rows import BrowserRow, OneTimeRow, SessionRow


def wall_clock() -> int:
    """Return the wall clock in milliseconds, which goes on while the machine sleeps."""
    return time.time_ns() // 1_000_000


def open_memory(_url: str, /) -> MemoryStore:
    """Make a store for a `memory://` URL; each call makes an empty one."""
    return MemoryStore()


class MemoryStore:
    """Keeps everything in dictionaries; usable from any number of event loops and threads.

    Nothing is awaited while the lock is held, so no method can be cancelled half-way. It goes by
    the clock of the one process that can use it: its skew margin is 0.

    Args:
        clock: Returns milliseconds; tests give one that they move.
    """

    def __init__(self, *, clock: Callable[[], int] = wall_clock) -> None:
        self._now = clock
        self._lock = threading.Lock()
        self._things: dict[bytes, OneTimeRow] = {}
        self._browsers: dict[str, BrowserRow] = {}
        self._sessions: dict[str, SessionRow] = {}
        # Current and previous cookie hashes, whether or not the grace is over.
        self._cookies: dict[bytes, str] = {}

    async def open(self) -> None:
        """Do nothing: there is nothing to connect to."""

    async def aclose(self) -> None:
        """Do nothing: the data lives as long as this object."""

    async def check(self) -> None:
        """Do nothing: memory always answers."""

    # --- One-time things ---

    async def put(self, thing: OneTime, /) -> None:
        """Keep a new one-time thing; see `Store.put`."""
        with self._lock:
            if thing.key_hash in self._things:
                raise StoreError("A one-time key was used twice; make a new random one.")
            self._things[thing.key_hash] = OneTimeRow(
                kind=thing.kind,
                browser_hash=thing.browser_hash,
                sealed=thing.sealed,
                expires=self._now() + thing.lifetime_ms,
            )

    async def consume(self, key_hash: bytes, /, *, kind: str) -> Consumed | None:
        """Use a one-time thing up; see `Store.consume`."""
        with self._lock:
            row = self._things.get(key_hash)
            if row is None or row.kind != kind:
                return None
            return row.use(self._now())

    async def record_outcome(self, key_hash: bytes, outcome: str, /) -> None:
        """Write how the use ended, once; see `Store.record_outcome`."""
        with self._lock:
            row = self._things.get(key_hash)
            if row is not None and row.consumed is not None and row.outcome is None:
                row.outcome = outcome

    # --- Browsers and sessions ---

    async def create_session(
        self, session: NewSession, /, *, browser: BrowserLogin | None, replaces: Sequence[str] = ()
    ) -> bool:
        """Insert a session and make it active; see `Store.create_session`."""
        with self._lock:
            now = self._now()
            if session.id in self._sessions:
                raise StoreError("A session id was used twice; make a new random one.")
            rotation = 0
            if browser is not None:
                row = self._browsers.get(browser.id)
                if browser.presented is not None and (
                    row is None or row.cookie_hash != browser.presented
                ):
                    return False
                rotation = self._log_in(browser, session.id, now)
                for old in filter(None, map(self._sessions.get, replaces)):
                    if old.browser_id == browser.id and old.status != "ended":
                        old.end("replaced", now)
            browser_id = None if browser is None else browser.id
            self._sessions[session.id] = SessionRow.made(session, browser_id, rotation, now)
            return True

    def _log_in(self, browser: BrowserLogin, session_id: str, now: int) -> int:
        """Make or rotate the browser's row and return its rotation."""
        self._refuse_taken(browser.id, browser.cookie_hash)
        expires = now + browser.lifetime_ms
        row = self._browsers.get(browser.id)
        if row is None:
            row = BrowserRow(cookie_hash=browser.cookie_hash, seen=now, expires=expires)
            self._browsers[browser.id] = row
            self._cookies[browser.cookie_hash] = browser.id
        else:
            self._rotate(browser.id, row, browser.cookie_hash, now)
            row.expires = max(row.expires, expires)
        row.active_session_id = session_id
        return row.rotation

    def _refuse_taken(self, browser_id: str, cookie_hash: bytes) -> None:
        taken = self._cookies.get(cookie_hash, browser_id)
        if taken != browser_id and self._browsers[taken].cookie_hash == cookie_hash:
            raise StoreError("A cookie was used twice; make a new random one.")

    def _rotate(self, browser_id: str, row: BrowserRow, cookie_hash: bytes, now: int) -> None:
        self._cookies.pop(row.prev_cookie_hash or b"", None)
        row.prev_cookie_hash, row.cookie_hash = row.cookie_hash, cookie_hash
        row.prev_until = now + COOKIE_GRACE_MS
        row.rotation += 1
        self._cookies[cookie_hash] = browser_id

    async def load(self, cookie_hash: bytes, /) -> Loaded | None:
        """Return the browser a cookie names and its active session; see `Store.load`."""
        with self._lock:
            now = self._now()
            browser_id = self._cookies.get(cookie_hash, "")
            row = self._browsers.get(browser_id)
            if row is None or row.expires <= now:
                return None
            current = row.cookie_hash == cookie_hash
            if not current and (row.prev_cookie_hash != cookie_hash or row.prev_until <= now):
                return None
            session = self._sessions.get(row.active_session_id or "")
            if session is not None and (
                session.browser_id != browser_id
                or (not current and session.browser_rotation >= row.rotation)
            ):
                session = None
            return Loaded(
                browser_id=browser_id,
                browser_remaining_ms=row.expires - now,
                session=None if session is None else session.record(now),
                current=current,
            )

    async def load_session(self, session_id: str, /) -> SessionRecord | None:
        """Return one session row; see `Store.load_session`."""
        with self._lock:
            row = self._sessions.get(session_id)
            return None if row is None else row.record(self._now())

    async def list_sessions(
        self, where: SessionFilter, /, *, after: str | None = None, limit: int = 100
    ) -> list[SessionRecord]:
        """Return sessions by ascending id; see `Store.list_sessions`."""
        with self._lock:
            now = self._now()
            found = sorted(
                (
                    row
                    for row in self._sessions.values()
                    if (after is None or row.id > after) and row.matches(where, now)
                ),
                key=lambda row: row.id,
            )
            return [row.record(now) for row in islice(found, max(limit, 0))]

    async def switch_active(self, browser_id: str, session_id: str, /) -> bool:
        """Make another session of the browser's active; see `Store.switch_active`."""
        with self._lock:
            browser, session = self._browsers.get(browser_id), self._sessions.get(session_id)
            if browser is None or session is None:
                return False
            if session.browser_id != browser_id or session.status == "ended":
                return False
            browser.active_session_id = session_id
            return True

    async def detach(self, browser_id: str, session_id: str, /) -> int:
        """Take a session out of a browser; see `Store.detach`."""
        with self._lock:
            session = self._sessions.get(session_id)
            if session is not None and session.browser_id == browser_id:
                session.browser_id = None
            rest = [row for row in self._sessions.values() if row.browser_id == browser_id]
            browser = self._browsers.get(browser_id)
            if browser is not None and browser.active_session_id == session_id:
                usable = [row for row in rest if row.status == "active"]
                latest = max(usable, key=lambda row: row.seen, default=None)
                browser.active_session_id = None if latest is None else latest.id
            return sum(row.status != "ended" for row in rest)

    async def touch(self, browser_id: str | None, session_id: str, /) -> None:
        """Write `seen` of both rows; see `Store.touch`."""
        with self._lock:
            now = self._now()
            browser = self._browsers.get(browser_id or "")
            session = self._sessions.get(session_id)
            if browser is not None:
                browser.seen = now
            if session is not None:
                session.seen = now

    # --- Refresh ---

    def _at(self, session_id: str, version: int) -> SessionRow | None:
        row = self._sessions.get(session_id)
        return row if row is not None and row.version == version else None

    async def acquire_refresh(
        self,
        session_id: str,
        /,
        *,
        version: int,
        owner: str,
        lease_ms: int,
        watched: tuple[str, int] | None = None,
    ) -> bool:
        """Take the lease; see `Store.acquire_refresh`."""
        with self._lock:
            row, now = self._at(session_id, version), self._now()
            if row is None or row.status != "active" or row.refresh_after > now:
                return False
            if row.lease_until is not None and row.lease_owner != owner:
                if row.lease_until > now:
                    return False
                if row.attempts > 0 and (row.lease_owner, row.lease_until) != watched:
                    return False
            row.lease_owner, row.lease_until = owner, now + lease_ms
            return True

    async def mark_refresh(
        self, session_id: str, /, *, version: int, owner: str, lease_ms: int, first: bool
    ) -> bool:
        """Announce a token request; see `Store.mark_refresh`."""
        with self._lock:
            row, now = self._at(session_id, version), self._now()
            if row is None or row.lease_owner != owner or row.status != "active":
                return False
            row.lease_until = now + lease_ms
            if first:
                row.attempts += 1
                row.first_sent = now if row.first_sent is None else row.first_sent
            return True

    async def commit_refresh(
        self, session_id: str, /, *, version: int, owner: str, refreshed: Refreshed
    ) -> bool:
        """Store new tokens; see `Store.commit_refresh`."""
        with self._lock:
            row, now = self._at(session_id, version), self._now()
            if row is None or row.status == "ended":
                return False
            sent = now - refreshed.sent_ago_ms
            row.sealed_tokens, row.sealed_key = refreshed.sealed_tokens, refreshed.sealed_key
            row.scope, row.pds = refreshed.scope, refreshed.pds
            row.handle = refreshed.handle
            row.client_kid = refreshed.client_kid
            row.access_expires = sent + refreshed.life_ms
            row.refresh_after = sent + refreshed.refresh_after_ms
            row.version += 1
            row.lease_owner, row.lease_until = owner, None
            row.attempts, row.first_sent, row.failures = 0, None, 0
            row.refreshed = now
            return True

    async def release_refresh(
        self, session_id: str, /, *, version: int, owner: str, wait_ms: int | None, unspent: bool
    ) -> bool:
        """Give the lease back; see `Store.release_refresh`."""
        with self._lock:
            row = self._at(session_id, version)
            if row is None or row.lease_owner != owner:
                return False
            row.lease_owner = row.lease_until = None
            if wait_ms is not None:
                row.failures += 1
                row.refresh_after = self._now() + wait_ms
            if unspent:
                row.attempts = max(row.attempts - 1, 0)
                row.first_sent = row.first_sent if row.attempts else None
            return True

    async def count_attempt(self, session_id: str, /, *, version: int) -> bool:
        """Count a replay; see `Store.count_attempt`."""
        with self._lock:
            row = self._at(session_id, version)
            if row is None:
                return False
            row.attempts += 1
            return True

    async def end_session(
        self, session_id: str, reason: EndedReason, /, *, version: int | None = None
    ) -> bool:
        """End a session; see `Store.end_session`."""
        with self._lock:
            row = self._sessions.get(session_id)
            if row is None or row.status == "ended" or version not in {None, row.version}:
                return False
            row.end(reason, self._now())
            return True

    async def require_reauth(self, session_id: str, /, *, version: int) -> bool:
        """Ask for a new login; see `Store.require_reauth`."""
        with self._lock:
            row = self._at(session_id, version)
            if row is None or row.status != "active":
                return False
            row.status = "reauth_required"
            row.lease_owner = row.lease_until = None
            return True

    async def reseal(
        self,
        session_id: str,
        /,
        *,
        version: int,
        sealed_dpop_key: bytes,
        sealed_tokens: bytes,
        sealed_key: str,
    ) -> bool:
        """Replace both sealed columns; see `Store.reseal`."""
        with self._lock:
            row = self._at(session_id, version)
            if row is None or row.status == "ended":
                return False
            row.sealed_dpop_key, row.sealed_tokens = sealed_dpop_key, sealed_tokens
            row.sealed_key = sealed_key
            return True

    async def purge_expired(self, limit: int, /) -> int:
        """Delete or end what is over; see `Store.purge_expired`."""
        with self._lock:
            now = self._now()
            left = max(limit, 0)
            things = [key for key, row in self._things.items() if row.expires <= now][:left]
            for key in things:
                del self._things[key]
            left -= len(things)
            browsers = [id_ for id_, row in self._browsers.items() if row.expires <= now][:left]
            for id_ in browsers:
                self._forget_browser(id_)
            left -= len(browsers)
            over = [row for row in self._sessions.values() if row.is_over(now)][:left]
            for row in over:
                if row.ended_at is None:
                    row.end("expired", now)
                else:
                    del self._sessions[row.id]
            return len(things) + len(browsers) + len(over)

    def _forget_browser(self, browser_id: str) -> None:
        row = self._browsers.pop(browser_id)
        for cookie_hash in (row.cookie_hash, row.prev_cookie_hash or b""):
            self._cookies.pop(cookie_hash, None)
        for session in self._sessions.values():
            if session.browser_id == browser_id:
                session.browser_id = None
