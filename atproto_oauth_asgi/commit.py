"""Storing new tokens: whoever holds a 200 holds the only live tokens of the session."""

from __future__ import annotations

import asyncio
import time

from atproto_oauth_asgi.errors import SealBroken, StoreUnavailable
from atproto_oauth_asgi.instrumentation import Events
from atproto_oauth_asgi.live import Flight, LiveSession
from atproto_oauth_asgi.refresh_timing import RefreshTiming, milliseconds
from atproto_oauth_asgi.revocation import Revoker
from atproto_oauth_asgi.store import Refreshed, SessionRecord, Store
from atproto_oauth_asgi.tasks import Tasks
from atproto_oauth_asgi.tokens import TokenResponse, Tokens
from atproto_oauth_asgi.vault import Owner, Vault


class Committer:
    """Serves new tokens from memory at once, and stores them for as long as that takes."""

    def __init__(
        self,
        *,
        store: Store,
        vault: Vault,
        revoker: Revoker,
        timing: RefreshTiming,
        tasks: Tasks,
        events: Events,
    ) -> None:
        self._events = events
        self._store = store
        self._vault = vault
        self._revoker = revoker
        self._timing = timing
        self._tasks = tasks

    async def commit(
        self,
        live: LiveSession,
        flight: Flight,
        tokens: Tokens,
        response: TokenResponse,
        *,
        version: int,
        owner: str,
        kid: str | None,
        sent: float,
    ) -> None:
        """Store tokens over `version`; `sent` is when their request left, by the monotonic clock.

        `kid` is the client key that the request was signed with.

        Comes back when the tokens are stored, given up for newer ones, or revoked, or when this
        process goes while the database is still away.
        """
        live.client_kid = kid
        live.install(
            tokens,
            version=version + 1,
            scope=response.scope,
            access_expires=sent + response.life_ms / 1000,
            life=response.life_ms / 1000,
            refresh_at=sent + response.refresh_after_ms / 1000,
        )
        flight.serve()
        sealed = self._vault.seal_tokens(_owner(live), tokens)
        key_id = self._vault.key_id
        going: float | None = None
        while True:
            # Read before the try: the last one, when this process goes, is made after it is set.
            if not self._tasks.closing.is_set():
                # Perhaps again: another owner has come.
                going = None
            elif going is None:
                going = time.monotonic()
            last = going is not None and time.monotonic() - going >= self._timing.wait
            refreshed = Refreshed(
                sealed_tokens=sealed,
                sealed_key=key_id,
                scope=response.scope,
                pds=tokens.pds,
                handle=live.handle,
                client_kid=live.client_kid,
                sent_ago_ms=milliseconds(time.monotonic() - sent),
                life_ms=response.life_ms,
                refresh_after_ms=response.refresh_after_ms,
            )
            try:
                async with asyncio.timeout(self._timing.commit_try):
                    if await self._try(live, tokens, refreshed, version=version, owner=owner):
                        return
            except Exception as exc:  # noqa: BLE001  # told with its traceback
                # Whatever a store raises: nobody else has these tokens.
                passing = isinstance(exc, StoreUnavailable | TimeoutError)
                self._events.warning(
                    "commit.retry", None if passing else exc, session=live.id, did=live.did
                )
            if last:
                self._events.critical(
                    "session.lost_rotation", session=live.id, did=live.did, version=version + 1
                )
                return
            await self._pause()

    async def _try(
        self,
        live: LiveSession,
        tokens: Tokens,
        refreshed: Refreshed,
        *,
        version: int,
        owner: str,
    ) -> bool:
        """Try once; say whether there is nothing left to do."""
        fields = {"session": live.id, "did": live.did, "version": version + 1}
        if await self._store.commit_refresh(
            live.id, version=version, owner=owner, refreshed=refreshed
        ):
            self._events.info("session.refreshed", **fields)
            return True
        record: SessionRecord | None = await self._store.load_session(live.id)
        if record is None or record.status == "ended":
            # Somebody signed out meanwhile: these tokens must not outlive that.
            live.end((record.ended_reason if record else None) or "expired")
            self._revoker.start(live, tokens)
            return True
        if record.version == version + 1 and record.lease_owner == owner:
            # The commit had arrived; only its acknowledgement was lost.
            self._events.info("session.refreshed", **fields)
            return True
        if record.version > version:
            # Never revoke here: revoking any token of a grant ends the other worker's too.
            self._events.warning("refresh.superseded", **fields)
            try:
                live.adopt(record, replace=True)
            except SealBroken:
                self._events.exception("session.seal_broken", **fields)
                live.end("lost_rotation")
            return True
        return False

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._timing.commit_again):
                await self._tasks.closing.wait()
        except TimeoutError:
            return
        # Going: a short pause, never a busy loop.
        await asyncio.sleep(min(self._timing.commit_again, 0.1))


def _owner(live: LiveSession) -> Owner:
    return Owner(session_id=live.id, did=live.did, issuer=live.issuer, client_id=live.client_id)
