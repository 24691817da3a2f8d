"""From a cookie to a session: cache, one look into the store, and what may be attached."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from time import monotonic
from typing import TypeVar
from weakref import WeakValueDictionary

from atproto_oauth_asgi.authorization_server import ClientIdentity
from atproto_oauth_asgi.clock_skew import Clocks
from atproto_oauth_asgi.dpop import Nonces
from atproto_oauth_asgi.errors import SealBroken
from atproto_oauth_asgi.identifiers import Did, Handle
from atproto_oauth_asgi.instrumentation import Events
from atproto_oauth_asgi.live import LiveSession
from atproto_oauth_asgi.store import SessionFilter, SessionRecord, SessionStatus, Store
from atproto_oauth_asgi.vault import Vault

T = TypeVar("T")

#: A browser's row may be this many seconds old where nothing is changed and nobody looks: a
#: navigation and an unsafe method always read it anew, so a switch of accounts is never missed.
FRESH_FOR = 1.0
#: A cookie that names nothing will not come to name something: ids are random.
UNKNOWN_FOR = 60.0
#: How many cookies and sessions one event loop keeps in mind (about 5 KB a session).
LIMIT = 10_000
#: Accounts that one browser may hold.
ACCOUNTS = 50


def cookie_hash(cookie: str) -> bytes:
    """Return what the store knows of a cookie."""
    return sha256(cookie.encode()).digest()


async def unended(store: Store, browser_id: str) -> list[SessionRecord]:
    """Return a browser's sessions that have not ended; ended rows would crowd them out."""
    statuses: tuple[SessionStatus, ...] = ("active", "reauth_required")
    return [
        row
        for status in statuses
        for row in await store.list_sessions(
            SessionFilter(browser_id=browser_id, status=status), limit=ACCOUNTS
        )
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One of the accounts that are signed in, in a browser."""

    did: Did
    handle: Handle | None
    session_id: str
    #: Whether requests of this browser carry this account's session.
    active: bool
    #: Why the session cannot be used until a new login, or None: `reauth_required` (the account
    #: moved to another authorization server), `client_changed`, `key_removed`.
    reason: str | None


@dataclass(slots=True)
class _Known:
    live: LiveSession | None
    until: float


class Sessions:
    """The sessions that one event loop has in mind."""

    def __init__(
        self, *, store: Store, vault: Vault, client: ClientIdentity, events: Events
    ) -> None:
        self._events = events
        self._store = store
        self._vault = vault
        self._client = client
        self._cookies: OrderedDict[str, _Known] = OrderedDict()
        self._recent: OrderedDict[str, LiveSession] = OrderedDict()
        # Whatever is in use anywhere, so that a session never exists twice in this loop.
        self._live: WeakValueDictionary[str, LiveSession] = WeakValueDictionary()
        #: Newest nonce of each origin, whichever session saw it.
        self.nonces = Nonces(clocks=Clocks(events))

    async def by_cookie(self, cookie: str, *, fresh: bool) -> tuple[LiveSession | None, str | None]:
        """Return the usable session that a cookie names, or None and the DID to log in with.

        The DID is known when the session is kept, but cannot be used until a new login.

        Args:
            cookie: The cookie's value.
            fresh: Whether to read the row even if it was read a moment ago.

        Raises:
            StoreUnavailable: nobody can say.
        """
        known = self._cookies.get(cookie)
        if known is not None and monotonic() < known.until:
            live = known.live
            if live is None or (not fresh and live.ended_reason is None):
                return live, None
        loaded = await self._store.load(cookie_hash(cookie))
        record = loaded.session if loaded is not None else None
        live = self.usable(record) if record is not None else None
        lasts = UNKNOWN_FOR if loaded is None else FRESH_FOR
        # "Nothing usable" is not kept for a navigation: a login may change it any time.
        if live is not None or loaded is None:
            _remember(self._cookies, cookie, _Known(live, monotonic() + lasts))
        if record is None or loaded is None:
            return None, None
        if live is None:
            return None, record.did if record.status != "ended" else None
        live.seen_ago = record.seen_ago_ms / 1000
        live.browser_id = loaded.browser_id
        return live, None

    def usable(self, record: SessionRecord) -> LiveSession | None:
        """Return the session of a row if a request may carry it; a row that lags is no harm."""
        if record.status == "ended":
            if (live := self._live.get(record.id)) is not None:
                live.adopt(record)
            return None
        if record.remaining_ms <= 0 or self.unusable_reason(record) is not None:
            return None
        try:
            live = self.live(record)
        except SealBroken as exc:
            self._events.exception(
                "session.seal_broken", session=record.id, did=record.did, key_id=exc.key_id
            )
            return None
        return live if live.ended_reason is None else None

    def live(self, record: SessionRecord) -> LiveSession:
        """Return this loop's one object for a session, brought up to date with a row.

        Raises:
            SealBroken: the row's secrets do not open.
        """
        live = self._live.get(record.id)
        if live is None:
            live = LiveSession(record, self._vault, shared_nonces=self.nonces)
            self._live[record.id] = live
        else:
            live.adopt(record)
        _remember(self._recent, record.id, live)
        return live

    async def of_account(self, did: str) -> list[SessionRecord]:
        """Return the active sessions of an account, the newest login first.

        Raises:
            StoreUnavailable: nobody can say.
        """
        found: list[SessionRecord] = []
        # More devices than this has nobody; the bound is for a store that repeats itself.
        for _ in range(20):
            page = await self._store.list_sessions(
                SessionFilter(did=did, status="active"),
                after=found[-1].id if found else None,
                limit=ACCOUNTS,
            )
            found += page
            if len(page) < ACCOUNTS:
                break
        return sorted(found, key=lambda one: one.created_ago_ms)

    def keep(self, live: LiveSession) -> None:
        """Keep in mind the session of a login that has just finished."""
        self._live[live.id] = live
        _remember(self._recent, live.id, live)

    def waiting(self) -> set[asyncio.Task[None] | None]:
        """Return the refreshes that have not announced a token request."""
        flights = [live.flight for live in self._live.values()]
        return {one.task for one in flights if one and not one.departed}

    def unusable_reason(self, record: SessionRecord) -> str | None:
        """Say why a session that has not ended cannot be used, or None when it can."""
        if record.status == "reauth_required":
            return "reauth_required"
        if record.client_id != self._client.client_id:
            # The server would delete it at the next refresh; with the old setting it works again.
            return "client_changed"
        keys = self._client.keys
        if record.client_kid is not None and (keys is None or record.client_kid not in keys):
            return "key_removed"
        return None

    def forget_cookie(self, cookie: str) -> None:
        """Read a browser's row anew next time."""
        self._cookies.pop(cookie, None)

    async def accounts(self, cookie: str) -> list[Account]:
        """Return the accounts of the browser that a cookie names, newest login first.

        Raises:
            StoreUnavailable: nobody can say.
        """
        loaded = await self._store.load(cookie_hash(cookie))
        if loaded is None or not loaded.current:
            return []
        rows = await unended(self._store, loaded.browser_id)
        active = loaded.session.id if loaded.session is not None else None
        return [
            Account(
                did=Did(row.did),
                handle=Handle(row.handle) if row.handle else None,
                session_id=row.id,
                active=row.id == active,
                reason=self.unusable_reason(row),
            )
            for row in sorted(rows, key=lambda row: row.created_ago_ms)
            if row.remaining_ms > 0
        ]


def _remember(cache: OrderedDict[str, T], key: str, value: T) -> None:
    cache[key] = value
    cache.move_to_end(key)
    if len(cache) > LIMIT:
        cache.popitem(last=False)
