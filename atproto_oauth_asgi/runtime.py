"""What one event loop owns: connections, sessions in mind, and every background task."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from atproto_oauth_asgi.authorization_server import ClientIdentity
from atproto_oauth_asgi.commit import Committer
from atproto_oauth_asgi.discovery import Discovery
from atproto_oauth_asgi.errors import RequestError, SealBroken, StoreUnavailable
from atproto_oauth_asgi.housekeeping import housekeeping
from atproto_oauth_asgi.identity import IdentityResolver
from atproto_oauth_asgi.instrumentation import Events
from atproto_oauth_asgi.keep_alive import KeepAlive
from atproto_oauth_asgi.lease import Watches
from atproto_oauth_asgi.live import LiveSession
from atproto_oauth_asgi.net import Net
from atproto_oauth_asgi.net_policy import NetPolicy
from atproto_oauth_asgi.refresh import Refresher
from atproto_oauth_asgi.refresh_timing import RefreshTiming
from atproto_oauth_asgi.revocation import Revoker
from atproto_oauth_asgi.session import OAuthSession
from atproto_oauth_asgi.sessions import Sessions
from atproto_oauth_asgi.store import Store
from atproto_oauth_asgi.tasks import Running, Tasks, finish
from atproto_oauth_asgi.tokens import Tokens
from atproto_oauth_asgi.upkeep import Upkeep
from atproto_oauth_asgi.vault import Vault

#: `seen` is written at most this often, in seconds.
TOUCH_EVERY = 600.0
#: Tries to end exactly the tokens that were read; refreshes come ten seconds apart or more.
END_TRIES = 3


class Runtime:
    """The part of `ATProtoOAuth` that is bound to one event loop."""

    def __init__(
        self,
        *,
        store: Store,
        policy: NetPolicy,
        resolver: IdentityResolver,
        discovery: Discovery,
        client: ClientIdentity,
        vault: Vault,
        timing: RefreshTiming,
        watches: Watches,
        keep_alive: bool,
        opening: asyncio.Lock,
        events: Events,
    ) -> None:
        self.events = events
        self.store = store
        self.timing = timing
        self.tasks = Tasks(events)
        self.net = Net(policy)
        #: How many want this loop's resources kept; without any, nothing outlives a request.
        self.owners = 0
        #: Requests under way, each of which stays until what it left in the air has come down.
        self.attending = 0
        #: How many owners have come so far.
        self.entries = 0
        self.opened = False
        self.opening = opening
        self._chores: list[asyncio.Task[None]] = []
        self.sessions = Sessions(store=store, vault=vault, client=client, events=events)
        self.revoker = Revoker(
            net=self.net, discovery=discovery, client=client, tasks=self.tasks, events=events
        )
        committer = Committer(
            store=store,
            vault=vault,
            revoker=self.revoker,
            timing=timing,
            tasks=self.tasks,
            events=events,
        )
        refresher = Refresher(
            store=store,
            net=self.net,
            resolver=resolver,
            discovery=discovery,
            client=client,
            committer=committer,
            revoker=self.revoker,
            timing=timing,
            tasks=self.tasks,
            watches=watches,
            attended=lambda: self.owners > 0 or self.attending > 0,
            events=events,
        )
        self.upkeep = Upkeep(refresher=refresher, store=store, timing=timing, events=events)
        self.keep_alive = (
            KeepAlive(
                store=store,
                sessions=self.sessions,
                refresher=refresher,
                timing=timing,
                events=events,
            )
            if keep_alive
            else None
        )

    def session(
        self, live: LiveSession, prepare: Callable[[RequestError], None] | None = None
    ) -> OAuthSession:
        """Return what an app is given for a session; `prepare` knows the connection."""
        return OAuthSession(
            live,
            upkeep=self.upkeep,
            client=self.net.client,
            end=self.logout,
            prepare=prepare,
        )

    async def logout(self, live: LiveSession) -> None:
        """End a session here first, then revoke it; an unreachable server changes nothing.

        Raises:
            StoreUnavailable: the session could not be ended.
        """
        for number in range(END_TRIES):
            record = await self.store.load_session(live.id)
            if record is None:
                break
            # Another worker may have newer tokens; those are the ones to revoke.
            try:
                live.adopt(record)
            except SealBroken:
                self.events.exception("session.seal_broken", session=live.id, did=live.did)
            if record.status == "ended":
                break
            # The last try takes whatever there is.
            version = record.version if number < END_TRIES - 1 else None
            if await self._end(live, version=version):
                self.events.info("session.ended", session=live.id, did=live.did, reason="logout")
                break
        tokens: Tokens = live.tokens
        live.end("logout")
        task = self.revoker.start(live, tokens)
        # So that "logged out" on the page means logged out at the server too, where that is up.
        await asyncio.wait({task}, timeout=self.timing.wait if self.owners else None)

    async def _end(self, live: LiveSession, *, version: int | None) -> bool:
        try:
            return await self.store.end_session(live.id, "logout", version=version)
        except StoreUnavailable:
            # Perhaps only the acknowledgement was lost; nobody else has the tokens to revoke then.
            record = await self.store.load_session(live.id)
            if record is None or record.status != "ended":
                raise
            return True

    def touch(self, live: LiveSession) -> None:
        """Write that a session was seen, now and then, in the background."""
        if live.seen_ago < TOUCH_EVERY or not self.owners:
            return
        live.seen_ago = 0.0
        self.tasks.start(self._touch(live), name=f"touch {live.id}")

    async def _touch(self, live: LiveSession) -> None:
        try:
            await self.store.touch(live.browser_id, live.id)
        except StoreUnavailable:
            return

    def keep_house(self) -> None:
        """Begin to clear away what is over, for as long as somebody owns this loop."""
        if self._chores:
            return
        self._chores.append(
            asyncio.create_task(housekeeping(self.store, self.events), name="housekeeping")
        )
        if self.keep_alive is not None:
            self._chores.append(asyncio.create_task(self.keep_alive.run(), name="keep alive"))

    async def leave_house(self) -> None:
        """End what `keep_house` began."""
        chores, self._chores = self._chores, []
        for chore in chores:
            chore.cancel()
        await asyncio.gather(*chores, return_exceptions=True)

    def arrive(self) -> Running:
        """Count a request; return what was going on before it."""
        self.attending += 1
        return () if self.owners else self.tasks.running()

    async def depart(self, before: Running) -> None:
        """Let a request go, but not before what it left in the air has come down."""
        try:
            if not self.owners:
                await self.settle(before)
        finally:
            self.attending -= 1

    async def settle(self, before: Running) -> None:
        """Let everything come to its end that a request left behind where nobody owns the loop.

        A refresh that has sent nothing yet may freeze: its lease runs out unspent.
        """
        end = time.monotonic() + self.timing.marked_lease
        cancelled: asyncio.CancelledError | None = None
        while left := [
            task
            for task in self.tasks.running()
            if task not in self.sessions.waiting() and (task not in before or self.attending == 1)
        ]:
            if (within := end - time.monotonic()) <= 0:
                break
            try:
                await finish(left[0], within=within)
            except asyncio.CancelledError as exc:
                cancelled = exc
        if cancelled is not None:
            raise cancelled

    async def aclose(self) -> None:
        """Close every connection of this loop; what is still going on is cut off."""
        await self.leave_house()
        await self.net.aclose()
        await self.store.aclose()
        self.opened = False
