"""What the parts of the conformance kit share: fixtures to override, and things to store."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Coroutine
from typing import ClassVar

import anyio
import pytest

from atproto_oauth_asgi.store import BrowserLogin, NewSession, OneTime, Refreshed, Store

#: Longest time that a test waits for real; tests that need more are skipped, see `advance`.
PATIENCE_MS = 1000
#: How far a duration may be off, for slow machines.
SLACK_MS = 10_000
HOUR_MS = 3_600_000


class ConformanceBase:
    """Says where the store under test comes from."""

    pytestmark = pytest.mark.anyio

    #: How far the clocks may be apart that the store goes by; see `atproto_oauth_asgi.store`.
    skew_margin_ms: ClassVar[int] = 0

    @pytest.fixture
    def anyio_backend(self) -> str:
        """Run on asyncio, which is all that the library supports."""
        return "asyncio"

    @pytest.fixture
    async def store(self) -> Store:
        """Return an open, empty store; override this."""
        raise NotImplementedError("Override the fixture `store` with your own.")

    @pytest.fixture
    async def second_store(self, store: Store) -> Store:
        """Return another object on the same database; override this where there can be one."""
        return store

    async def advance(self, store: Store, ms: int) -> None:  # noqa: ARG002 - for those who override
        """Let time pass for the store; override this if its clock can be moved."""
        if ms > PATIENCE_MS:
            pytest.skip("the store's clock cannot be moved: override `advance`")
        await anyio.sleep((ms + 50) / 1000)


#: Moments at which a cancellation test goes away, as parts of the time that the work takes.
MOMENTS = tuple(part / 20 for part in range(24))


async def timed(work: Coroutine[object, object, object]) -> float:
    """Do the work and return how many seconds it took."""
    started = time.perf_counter()
    await work
    return time.perf_counter() - started


async def cancelled_after(seconds: float, work: Coroutine[object, object, object]) -> None:
    """Start the work and cancel it after a while, whatever it is at then."""
    task = asyncio.ensure_future(work)
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def hashed(text: str) -> bytes:
    """Return what the store is given of a secret."""
    return hashlib.sha256(text.encode()).digest()


def about(expected_ms: int, actual_ms: int | None) -> bool:
    """Tell whether a duration is as expected, but for a slow machine."""
    return actual_ms is not None and abs(expected_ms - actual_ms) < SLACK_MS


def one_time(
    name: str = "state", *, kind: str = "login", sealed: bytes = b"sealed", ms: int = HOUR_MS
) -> OneTime:
    """Return a one-time thing to put."""
    return OneTime(
        key_hash=hashed(name),
        kind=kind,
        browser_hash=hashed("login cookie"),
        sealed=sealed,
        lifetime_ms=ms,
    )


def browser(id_: str = "browser", cookie: str = "cookie", *, ms: int = HOUR_MS) -> BrowserLogin:
    """Return the browser of a login."""
    return BrowserLogin(id=id_, cookie_hash=hashed(cookie), lifetime_ms=ms)


def session(  # each keyword is a column that some test needs to differ
    id_: str = "session",
    *,
    did: str = "did:plc:alice",
    client_kid: str | None = None,
    sealed_key: str = "key-1",
    sealed: bytes = b"sealed tokens",
    sent_ago_ms: int = 0,
    refresh_after_ms: int = 0,
    lifetime_ms: int = 24 * HOUR_MS,
) -> NewSession:
    """Return a session to create; by default it may be refreshed at once."""
    return NewSession(
        id=id_,
        client_id="https://app.test/oauth-client-metadata.json",
        did=did,
        issuer="https://pds.test",
        handle="alice.test",
        scope="atproto transition:generic",
        pds="https://pds.test",
        client_kid=client_kid,
        sealed_dpop_key=b"sealed key",
        sealed_tokens=sealed,
        sealed_key=sealed_key,
        sent_ago_ms=sent_ago_ms,
        life_ms=HOUR_MS,
        refresh_after_ms=refresh_after_ms,
        lifetime_ms=lifetime_ms,
    )


def refreshed(
    sealed: bytes = b"new tokens", *, sent_ago_ms: int = 0, refresh_after_ms: int = 0
) -> Refreshed:
    """Return what a refresh commits."""
    return Refreshed(
        sealed_tokens=sealed,
        sealed_key="key-2",
        scope="atproto",
        pds="https://other.test",
        handle="new.test",
        client_kid="kid-2",
        sent_ago_ms=sent_ago_ms,
        life_ms=2 * HOUR_MS,
        refresh_after_ms=refresh_after_ms,
    )
