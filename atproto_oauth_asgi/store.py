"""The store contract: what a plugin must do, and nothing it need not know.

A store keeps opaque ids, hashes and sealed bytes. It never sees a token. Its docstrings are the
concurrency contract: each sentence has a test in `atproto_oauth_asgi.testing.StoreConformance`.

All times are integer milliseconds. Callers pass *durations*; the store turns them into times by
the one clock that every process shares (the database's statement clock), and gives durations
back, so no two machines' clocks are ever compared.

A store whose database has no such clock, and which goes by the clocks of the processes, states how
far these may be apart: its skew margin. It then counts a lease as over that much later, on top of
its end, and its tests set `StoreConformance.skew_margin_ms`. The stores of this project state 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

SessionStatus = Literal["active", "reauth_required", "ended"]
EndedReason = Literal[
    "logout", "revoked", "lost_rotation", "replaced", "expired", "key_removed", "by_operator"
]

#: How long the cookie before a rotation still names its browser.
COOKIE_GRACE_MS = 60_000
#: How long an ended row is kept: it is the proof of how the session ended.
ENDED_KEPT_MS = 30 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class OneTime:
    """A thing that can be used once, such as a login attempt."""

    #: SHA-256 of the secret that names it (for a login: of `state`).
    key_hash: bytes
    #: What it is for; only a consume of the same kind finds it.
    kind: str
    #: SHA-256 of the secret of the browser that started it.
    browser_hash: bytes
    sealed: bytes
    lifetime_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumed:
    """What a `consume` found."""

    #: True for exactly one caller, ever: the one that may act on the payload.
    first: bool
    browser_hash: bytes
    #: The payload, for the first caller only.
    sealed: bytes | None
    #: Whether its lifetime had passed; then nobody is first.
    expired: bool
    #: Milliseconds since it was consumed (0 for the first caller).
    consumed_ago_ms: int
    #: What `record_outcome` wrote, once it did.
    outcome: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowserLogin:
    """The browser that a session is created in; its cookie changes with each login."""

    id: str
    #: SHA-256 of the new cookie.
    cookie_hash: bytes
    lifetime_ms: int
    #: SHA-256 of the cookie that the browser presented; None makes a browser that is new.
    presented: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSession:
    """A session as a login makes it."""

    id: str
    client_id: str
    did: str
    issuer: str
    handle: str | None
    scope: str
    pds: str
    client_kid: str | None
    sealed_dpop_key: bytes
    sealed_tokens: bytes
    #: Id of the ring key that sealed both columns.
    sealed_key: str
    #: Milliseconds since the token request left.
    sent_ago_ms: int
    #: Life of the access token, counted from the moment the token request left.
    life_ms: int
    #: When a refresh is allowed, counted from the moment the token request left.
    refresh_after_ms: int
    #: When the session itself ends, counted from now.
    lifetime_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """A session row as one statement read it. Durations are by the store's clock."""

    id: str
    browser_id: str | None
    client_id: str
    did: str
    issuer: str
    handle: str | None
    scope: str
    pds: str
    client_kid: str | None
    #: None once the session has ended, like the other two.
    sealed_dpop_key: bytes | None
    sealed_tokens: bytes | None
    sealed_key: str | None
    #: Grows by one with every commit.
    version: int
    status: SessionStatus
    ended_reason: EndedReason | None
    #: Life left of the access token; negative when it is over.
    access_remaining_ms: int
    #: Wait until a refresh is allowed; zero or negative when it is.
    refresh_wait_ms: int
    #: Life left of the session; negative when it is over.
    remaining_ms: int
    lease_owner: str | None
    #: The lease's end as stored: an opaque number, only ever compared for equality.
    lease_until: int | None
    #: Life left of the lease; None without one, negative when it is over.
    lease_remaining_ms: int | None
    #: Refreshes of this version that announced a token request (the journal).
    attempts: int
    #: Milliseconds since the first of those announced it.
    first_sent_ago_ms: int | None
    failures: int
    #: Milliseconds since login.
    created_ago_ms: int
    #: Milliseconds since the tokens last changed.
    refreshed_ago_ms: int
    #: Milliseconds since the session was last written as seen.
    seen_ago_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a cookie names: a browser, and the session active in it."""

    browser_id: str
    #: Life left of the browser row.
    browser_remaining_ms: int
    #: The active session, ended or not; None when the browser has none.
    session: SessionRecord | None
    #: False for a cookie in its grace: it may read what it could read before, and join nothing.
    current: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed:
    """What a refresh writes; nothing else ever writes these columns."""

    sealed_tokens: bytes
    sealed_key: str
    scope: str
    pds: str
    #: The handle that the account has by now; None when none could be verified.
    handle: str | None
    #: The client key that the grant is bound to; it changes once, from None, where the client has
    #: become confidential since the login.
    client_kid: str | None
    #: Milliseconds since the token request left.
    sent_ago_ms: int
    #: Counted from the moment the token request left.
    life_ms: int
    #: Counted from the moment the token request left.
    refresh_after_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFilter:
    """Which sessions to list; fields that are None do not narrow."""

    did: str | None = None
    browser_id: str | None = None
    client_kid: str | None = None
    sealed_key: str | None = None
    status: SessionStatus | None = None
    #: Only sessions whose tokens changed at least this long ago.
    refreshed_before_ms: int | None = None


class Store(Protocol):
    """Keeps login attempts, browsers and sessions.

    One object is used from many tasks, and may be used from several event loops and threads.
    Every method is atomic: a caller that is cancelled, or a process that dies, leaves either all
    of its effect or none; after a cancellation it may come about a moment later.
    Every method raises `StoreUnavailable` when the database does not
    answer (then the effect is unknown), and never lets a driver's error through.
    """

    async def open(self) -> None:
        """Connect and check the schema; may be called again, from any event loop.

        Raises:
            SchemaOutOfDate: the tables are missing or behind; the message names the command.
            StoreUnavailable: the database does not answer.
        """
        ...

    async def aclose(self) -> None:
        """Release what this object opened on the running event loop, and nothing it was given."""
        ...

    async def check(self) -> None:
        """Ask the database one cheap question; raises as `open` does."""
        ...

    # --- One-time things ---

    async def put(self, thing: OneTime, /) -> None:
        """Keep a new one-time thing; a key that exists already raises `StoreError`."""
        ...

    async def consume(self, key_hash: bytes, /, *, kind: str) -> Consumed | None:
        """Use a one-time thing up and return what was found, or None when there is none.

        However many callers race, in whatever processes, exactly one is `first`. The payload is
        wiped with the same write; the row stays until it expires, as memory of the use. An
        expired thing is never anybody's, and is not changed.
        """
        ...

    async def record_outcome(self, key_hash: bytes, outcome: str, /) -> None:
        """Write how the use of a consumed thing ended; the first outcome stays."""
        ...

    # --- Browsers and sessions ---

    async def create_session(
        self, session: NewSession, /, *, browser: BrowserLogin | None, replaces: Sequence[str] = ()
    ) -> bool:
        """Insert a session and make it the browser's active one, in one transaction.

        False, with nothing written, when `browser.presented` is given and is not the browser's
        cookie any more: somebody else has logged in there since, and neither login may join the
        other.

        The browser row is made when its id is new; else its cookie hash is replaced, the old one
        keeps naming the browser for `COOKIE_GRACE_MS`, and its expiry moves out if that is later.
        The sessions in `replaces` that belong to this browser and have not ended, end with reason
        `replaced`. The session's version is 1, its status `active`, and its `refreshed`, `seen`
        and `created` are now.
        """
        ...

    async def load(self, cookie_hash: bytes, /) -> Loaded | None:
        """Return the browser a cookie names and its active session, in one statement.

        A browser past its expiry, and an unknown hash, are None. A hash in its grace names the
        browser too, but a session that came with or after the rotation stays hidden from it
        (`session` is None): whoever knew the cookie before a login must not gain by the login.
        """
        ...

    async def load_session(self, session_id: str, /) -> SessionRecord | None:
        """Return one session row, ended or not, in one statement; on the primary database."""
        ...

    async def list_sessions(
        self, where: SessionFilter, /, *, after: str | None = None, limit: int = 100
    ) -> list[SessionRecord]:
        """Return sessions by ascending id, those after the id `after` first, at most `limit`."""
        ...

    async def switch_active(self, browser_id: str, session_id: str, /) -> bool:
        """Make a session of the browser's, not ended, its active one; False when it is not."""
        ...

    async def detach(self, browser_id: str, session_id: str, /) -> int:
        """Take a session out of a browser and return how many unended ones it has left.

        When it was the active one, the most recently seen other one that is `active` becomes it.
        """
        ...

    async def touch(self, browser_id: str | None, session_id: str, /) -> None:
        """Write `seen` of both rows, and nothing else."""
        ...

    # --- Refresh (the whole of the contract is in `atproto_oauth_asgi.refresh`) ---

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
        """Take the lease: one guarded UPDATE, true when it changed one row.

        It takes when the row has this version, is `active`, a refresh is allowed by now, and the
        lease is free, or this owner's already, or over with no attempt announced, or over and
        still exactly the `watched` (owner, lease_until). It sets owner and the lease's end.
        A serialization failure is a lost race: False.
        """
        ...

    async def mark_refresh(
        self, session_id: str, /, *, version: int, owner: str, lease_ms: int, first: bool
    ) -> bool:
        """Announce a token request: one guarded UPDATE, true when it changed one row.

        It marks when the row has this version and owner and is `active`. It moves the lease's
        end, and with `first` adds one to `attempts` and, if empty, writes `first_sent_at`.
        """
        ...

    async def commit_refresh(
        self, session_id: str, /, *, version: int, owner: str, refreshed: Refreshed
    ) -> bool:
        """Store new tokens over `version`: one guarded UPDATE, true when it changed one row.

        Guarded by version and by status not `ended`, and by nothing else: whoever holds the
        answer holds the only live tokens. Writes the fields of `refreshed`, version + 1, no
        lease end, attempts 0, no first_sent_at, failures 0, `refreshed` = now, and the owner.

        Nobody else has these tokens, so this must not depend on connections that were made
        before: when they are all taken, are dead or silent, or lead to what is the primary no
        longer, a fresh one is tried, soon. The caller gives each call 3 s, leaves it, and calls
        again for as long as it lives: calls that nobody waits for any more may still take
        effect, beside or after the next one, and then the guard lets one of them change the row.
        """
        ...

    async def release_refresh(
        self, session_id: str, /, *, version: int, owner: str, wait_ms: int | None, unspent: bool
    ) -> bool:
        """Give the lease back, for this version and owner only.

        With `wait_ms`, add one to `failures` and forbid a refresh for that long. With `unspent`
        the request that this owner announced is known not to have spent the token (it never
        left, or was answered with a refusal that comes before the token is looked at): take one
        off `attempts` (never below 0), and clear `first_sent_at` when none is left.
        """
        ...

    async def count_attempt(self, session_id: str, /, *, version: int) -> bool:
        """Add one to the attempts of this version: a replay is known to have hit the grant."""
        ...

    async def end_session(
        self, session_id: str, reason: EndedReason, /, *, version: int | None = None
    ) -> bool:
        """End a session: status, reason and time are written and the sealed columns wiped.

        Guarded by status not `ended` (the first reason stays) and by `version` when given. True
        when this call ended it.
        """
        ...

    async def require_reauth(self, session_id: str, /, *, version: int) -> bool:
        """Set an `active` session of this version to `reauth_required`, and free its lease."""
        ...

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
        """Replace both sealed columns of an unended session of this version (compare-and-swap).

        The version stays: the tokens are the same. A commit that comes later overwrites them.
        """
        ...

    async def purge_expired(self, limit: int, /) -> int:
        """Delete or end what is over and return how many rows were dealt with, at most `limit`.

        One-time things and browsers past their expiry are deleted (their sessions then belong to
        no browser); sessions past theirs end with reason `expired`;
        rows ended for longer than `ENDED_KEPT_MS` are deleted. Any number of
        workers may run it at once, and again.
        """
        ...
