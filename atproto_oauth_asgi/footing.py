"""What an `ATProtoOAuth` stands on: a way out, a store, and what each event loop owns of them."""

from __future__ import annotations

import asyncio
import threading
from typing import Self
from weakref import WeakKeyDictionary

from atproto_oauth_asgi import embedded
from atproto_oauth_asgi.authorization_server import ClientIdentity
from atproto_oauth_asgi.core import Core, OnLogin
from atproto_oauth_asgi.discovery import Discovery
from atproto_oauth_asgi.errors import ConfigurationError
from atproto_oauth_asgi.handles import HandleResolver
from atproto_oauth_asgi.identity import IdentityResolver
from atproto_oauth_asgi.instrumentation import Events
from atproto_oauth_asgi.lease import Watches
from atproto_oauth_asgi.net import Net
from atproto_oauth_asgi.net_policy import NetPolicy
from atproto_oauth_asgi.refresh_timing import RefreshTiming
from atproto_oauth_asgi.runtime import Runtime
from atproto_oauth_asgi.sealing import KeyRing
from atproto_oauth_asgi.settings import Settings
from atproto_oauth_asgi.store import Store
from atproto_oauth_asgi.vault import Vault


class Footing:
    """Opens one network policy and one store on each event loop that asks, and closes them there.

    Args:
        settings: The configuration.
        policy: What may be reached.
        store: Where sessions are.
        ring: The keys that seal them.
        embedded_store: Whether STORE_URL made the store, so that its tables may have to be made.
        handle_resolver: Is asked for handles instead of DNS and HTTPS.
        timing: The times of a refresh.
        events: Is told what happens.
        on_login: The app's say in a login.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        policy: NetPolicy,
        store: Store,
        ring: KeyRing,
        embedded_store: bool,
        handle_resolver: HandleResolver | None,
        timing: RefreshTiming,
        events: Events,
        on_login: OnLogin | None,
    ) -> None:
        self._ring = ring
        self._embedded_store = embedded_store
        metadata = settings.client_metadata
        self.core = Core(
            settings=settings,
            policy=policy,
            metadata=metadata,
            client=ClientIdentity(client_id=metadata.client_id, keys=settings.client_keys),
            store=store,
            vault=Vault(ring),
            resolver=IdentityResolver(self._net, handle_resolver=handle_resolver),
            discovery=Discovery(self._net),
            timing=timing,
            events=events,
            on_login=on_login,
        )
        self._runtimes: WeakKeyDictionary[asyncio.AbstractEventLoop, Runtime] = WeakKeyDictionary()
        # Held while what a loop had is closed: nobody opens the store in between.
        self._closing: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = (
            WeakKeyDictionary()
        )
        # Most apps have one loop; looking in the weak dictionary costs more than the rest.
        self._last: tuple[asyncio.AbstractEventLoop | None, Runtime | None] = (None, None)
        self._lock = threading.Lock()
        self._opened_before = False
        self._watches = Watches(timing)

    def over(self, *, policy: NetPolicy, store: Store | None) -> Footing:
        """Return another footing for the same app; without a store it has this one's.

        The app's handle resolver is left out: it would ask somebody outside of the policy.
        """
        return Footing(
            settings=self.core.settings,
            policy=policy,
            store=self.core.store if store is None else store,
            ring=self._ring,
            embedded_store=self._embedded_store and store is None,
            handle_resolver=None,
            timing=self.core.timing,
            events=self.core.events,
            on_login=self.core.on_login,
        )

    async def __aenter__(self) -> Self:
        runtime = self.runtime()
        runtime.owners += 1
        runtime.entries += 1
        # Somebody may be draining for the one before.
        runtime.tasks.go_on()
        try:
            await self.open()
        except BaseException:
            await self._leave(runtime)
            raise
        runtime.keep_house()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._leave(self.runtime())

    async def open(self) -> Runtime:
        """Open the store on the running event loop, once, and check it.

        Raises:
            ConfigurationError: the database is behind or cannot be read with these keys.
            StoreUnavailable: the database does not answer.
        """
        runtime = self.runtime()
        if runtime.opened:
            return runtime
        settings, events = self.core.settings, self.core.events
        async with runtime.opening:
            if not runtime.opened:
                if not self._opened_before and self._embedded_store:
                    await embedded.prepare(settings)
                await self.core.store.open()
                if not self._opened_before:
                    await embedded.check_keys(
                        settings, self.core.store, self._ring, self.core.events
                    )
                if not self._opened_before and not runtime.owners:
                    # Nothing will drain a refresh at the end: add the middleware where it sees
                    # lifespan, or use `async with oauth`.
                    events.warning("oauth.no_lifespan", base_url=settings.base_url)
                runtime.opened = self._opened_before = True
        return runtime

    def runtime(self) -> Runtime:
        """Return what the running event loop owns.

        Raises:
            ConfigurationError: asyncio does not run here.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError as exc:
            msg = (
                "Sign-in runs on asyncio, and no event loop of asyncio runs here; let the server"
                " use asyncio, as hypercorn does with -k asyncio, and call this from a coroutine."
            )
            raise ConfigurationError(msg) from exc
        last, runtime = self._last
        if last is loop and runtime is not None:
            return runtime
        runtime = self._runtimes.get(loop)
        if runtime is None:
            core = self.core
            runtime = Runtime(
                store=core.store,
                policy=core.policy,
                resolver=core.resolver,
                discovery=core.discovery,
                client=core.client,
                vault=core.vault,
                timing=core.timing,
                watches=self._watches,
                keep_alive=core.settings.keep_alive,
                opening=self._closing.get(loop) or asyncio.Lock(),
                events=core.events,
            )
            with self._lock:
                # Their connections hold their loop, so they would never be let go.
                for ended in [old for old in self._runtimes if old.is_closed()]:
                    del self._runtimes[ended]
                self._runtimes[loop] = runtime
        self._last = (loop, runtime)
        return runtime

    def running(self) -> Runtime | None:
        """Return what the running event loop owns, if it owns anything yet."""
        return self._runtimes.get(asyncio.get_running_loop())

    async def _leave(self, runtime: Runtime) -> None:
        runtime.owners -= 1
        if runtime.owners:
            return
        entries = runtime.entries
        try:
            await runtime.leave_house()
            await runtime.tasks.drain(runtime.timing.marked_lease)
        except asyncio.CancelledError:
            # Nobody's, until somebody opens it again and closes it.
            runtime.opened = False
            raise
        if runtime.entries != entries:
            # Theirs by now, or on its way to its end by their leaving.
            return
        loop = asyncio.get_running_loop()
        with self._lock:
            # Who is not done yet goes on with it.
            if runtime.attending or self._runtimes.get(loop) is not runtime:
                runtime.tasks.go_on()
                return
            del self._runtimes[loop]
            self._last = (None, None)
            self._closing[loop] = runtime.opening
        try:
            async with runtime.opening:
                await runtime.aclose()
        finally:
            self._closing.pop(loop, None)

    def _net(self) -> Net:
        return self.runtime().net
