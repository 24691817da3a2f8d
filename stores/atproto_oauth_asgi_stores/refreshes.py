"""The refresh's guarded writes in SQL: each is one UPDATE whose row count is the answer."""

from __future__ import annotations

import sqlalchemy as sa

from atproto_oauth_asgi.errors import StoreError
from atproto_oauth_asgi.store import EndedReason, Refreshed
from atproto_oauth_asgi_stores.clock import now_ms
from atproto_oauth_asgi_stores.database import Database
from atproto_oauth_asgi_stores.failures import is_lost_race
from atproto_oauth_asgi_stores.records import ending


class Refreshes(Database):
    """Writes what a refresh, and the end of a session, write."""

    def _at(self, session_id: str, version: int) -> sa.Update:
        row = self.tables.session.c
        return sa.update(self.tables.session).where(row.id == session_id, row.version == version)

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
        row = self.tables.session.c
        harmless = row.attempts == 0
        if watched is not None:
            was_owner, was_until = watched
            harmless |= sa.and_(row.lease_owner == was_owner, row.lease_until == was_until)
        free = sa.or_(
            row.lease_until.is_(None),
            row.lease_owner == owner,
            sa.and_(row.lease_until <= now_ms(), harmless),
        )
        taking = (
            self._at(session_id, version)
            .where(row.status == "active", row.refresh_after <= now_ms(), free)
            .values(lease_owner=owner, lease_until=now_ms() + lease_ms)
        )
        try:
            return await self.change(taking, races=1) == 1
        except StoreError as exc:
            if is_lost_race(exc.__cause__):
                return False
            raise

    async def mark_refresh(
        self, session_id: str, /, *, version: int, owner: str, lease_ms: int, first: bool
    ) -> bool:
        """Announce a token request; see `Store.mark_refresh`."""
        row = self.tables.session.c
        marking = (
            self._at(session_id, version)
            .where(row.lease_owner == owner, row.status == "active")
            .values(lease_until=now_ms() + lease_ms)
        )
        if first:
            marking = marking.values(
                attempts=row.attempts + 1, first_sent=sa.func.coalesce(row.first_sent, now_ms())
            )
        return await self.change(marking) == 1

    async def commit_refresh(
        self, session_id: str, /, *, version: int, owner: str, refreshed: Refreshed
    ) -> bool:
        """Store new tokens; see `Store.commit_refresh`."""
        sent = now_ms() - refreshed.sent_ago_ms
        committing = (
            self._at(session_id, version)
            .where(self.tables.session.c.status != "ended")
            .values(
                sealed_tokens=refreshed.sealed_tokens,
                sealed_key=refreshed.sealed_key,
                scope=refreshed.scope,
                pds=refreshed.pds,
                handle=refreshed.handle,
                client_kid=refreshed.client_kid,
                access_expires=sent + refreshed.life_ms,
                refresh_after=sent + refreshed.refresh_after_ms,
                version=version + 1,
                lease_owner=owner,
                lease_until=None,
                attempts=0,
                first_sent=None,
                failures=0,
                refreshed=now_ms(),
            )
        )
        return await self.change_surely(committing) == 1

    async def release_refresh(
        self, session_id: str, /, *, version: int, owner: str, wait_ms: int | None, unspent: bool
    ) -> bool:
        """Give the lease back; see `Store.release_refresh`."""
        row = self.tables.session.c
        # In this order: MySQL gives later assignments the values of the earlier ones.
        writes: list[tuple[sa.Column[object], object]] = []
        if unspent:
            writes += [
                (row.first_sent, sa.case((row.attempts > 1, row.first_sent), else_=None)),
                (row.attempts, sa.case((row.attempts > 0, row.attempts - 1), else_=0)),
            ]
        if wait_ms is not None:
            writes += [(row.failures, row.failures + 1), (row.refresh_after, now_ms() + wait_ms)]
        releasing = (
            self._at(session_id, version)
            .where(row.lease_owner == owner)
            .ordered_values(*writes, (row.lease_owner, None), (row.lease_until, None))
        )
        return await self.change(releasing) == 1

    async def count_attempt(self, session_id: str, /, *, version: int) -> bool:
        """Count a replay; see `Store.count_attempt`."""
        row = self.tables.session.c
        return (
            await self.change(self._at(session_id, version).values(attempts=row.attempts + 1)) == 1
        )

    async def end_session(
        self, session_id: str, reason: EndedReason, /, *, version: int | None = None
    ) -> bool:
        """End a session; see `Store.end_session`."""
        row = self.tables.session.c
        write = ending(self.tables, reason).where(row.id == session_id)
        if version is not None:
            write = write.where(row.version == version)
        return await self.change(write) == 1

    async def require_reauth(self, session_id: str, /, *, version: int) -> bool:
        """Ask for a new login; see `Store.require_reauth`."""
        write = (
            self._at(session_id, version)
            .where(self.tables.session.c.status == "active")
            .values(status="reauth_required", lease_owner=None, lease_until=None)
        )
        return await self.change(write) == 1

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
        write = (
            self._at(session_id, version)
            .where(self.tables.session.c.status != "ended")
            .values(
                sealed_dpop_key=sealed_dpop_key,
                sealed_tokens=sealed_tokens,
                sealed_key=sealed_key,
            )
        )
        return await self.change(write) == 1
