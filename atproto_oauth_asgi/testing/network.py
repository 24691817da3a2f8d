"""A PLC directory, PDSes and their authorization servers, without the internet."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import (
    AsyncGenerator,
    Callable,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Unpack

from atproto_oauth_asgi.net_policy import NetPolicy
from atproto_oauth_asgi.oauth import ATProtoOAuth
from atproto_oauth_asgi.testing.attachment import Attachment, client_app
from atproto_oauth_asgi.testing.authorization_requests import (
    AuthorizationRequest,
    Redirection,
)
from atproto_oauth_asgi.testing.host import Host
from atproto_oauth_asgi.testing.names import Names, PolicyOverrides
from atproto_oauth_asgi.testing.person import decide
from atproto_oauth_asgi.testing.serving import Background, listen, serving
from atproto_oauth_asgi.testing.trouble import Trouble


class Network(Trouble):
    """Plays the servers that a login meets, as the reference server behaves.

    In one process it needs no socket: give `policy()` to `ATProtoOAuth`. `async with serve()`, or
    `start()` and `stop()`, serve it on loopback ports for browsers and other processes.
    Everything is kept in memory, and every lifetime follows `clock`.

    Args:
        accounts: Handles of the first accounts, on the first PDS.
        token_life: Seconds that an access token lives.
        nonce_interval: Seconds between two DPoP nonces; each is accepted for 2 to 3 intervals.
        client_cache: Seconds that client metadata and keys are remembered.
        list_accounts: Whether sign-in pages list the accounts with their passwords, for demos.
        entryway: Whether the first PDS leaves its people to an authorization server on another
            origin, `network.entryway`, as Bluesky's PDSes do.
        clock: Gives the time in seconds since 1970.
    """

    def __init__(
        self,
        accounts: Sequence[str] = ("alice.test", "bob.test"),
        *,
        token_life: float = 3600.0,
        nonce_interval: float = 60.0,
        client_cache: float = 600.0,
        list_accounts: bool = False,
        entryway: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(
            accounts,
            token_life=token_life,
            nonce_interval=nonce_interval,
            client_cache=client_cache,
            list_accounts=list_accounts,
            entryway=entryway,
            clock=clock,
        )
        self._names = Names(self, self.plc, self._plc_app, self.hosts)
        self._background: Background | None = None
        self._attachments: list[Attachment] = []

    # A person at the authorization server, without a browser

    def approve(self, authorize_url: str, identifier: str, *, scope: str | None = None) -> str:
        """Sign in and consent as an account; return the callback URL that a browser would open.

        A request that is expired, or used already, gives a callback with an error, as it does in
        a browser.

        Args:
            authorize_url: Where the app sends the person.
            identifier: Handle, DID or e-mail address of the account.
            scope: What is granted of the scopes asked for; by default all that are understood.

        Raises:
            ValueError: There is no such account or request, or the account was taken down: a
                browser would show an error page.
        """
        account = self.account(identifier)
        if not account.usable:
            raise ValueError(f"The server refuses the password: {identifier} was taken down.")

        def consent(host: Host, request: AuthorizationRequest) -> Redirection:
            return host.authorization_server.accept(request, account.did, scope)

        return decide(self.hosts, authorize_url, consent)

    def deny(self, authorize_url: str) -> str:
        """Cancel; return the callback URL that a browser would open.

        Raises:
            ValueError: There is no such request: a browser would show an error page.
        """

        def refuse(host: Host, request: AuthorizationRequest) -> Redirection:
            return host.authorization_server.requests.deny(request)

        return decide(self.hosts, authorize_url, refuse)

    # Where the servers are

    def policy(self, **overrides: Unpack[PolicyOverrides]) -> NetPolicy:
        """Return the policy under which the library reaches this network and nothing else."""
        policy = NetPolicy(
            allow_insecure_loopback=True,
            ports=None if self._served else frozenset({443}),
            plc_url=self.plc.origin,
            resolve_host=self._names.resolve_host,
            resolve_txt=self._names.resolve_txt,
            apps=self._names,
        )
        return replace(policy, **overrides)

    def attach(self, oauth: ATProtoOAuth, *, keep_store: bool = False) -> Attachment:
        """Let an app's `ATProtoOAuth` reach this network and nothing else, from now on.

        Whatever its settings are, no port is opened, and sessions are kept in memory, so that
        tests leave the app's database alone. It ends with `detach()`, or with the `with` block
        that is put round what is returned. Attaching again changes nothing.

        Args:
            oauth: What the app is made with, opened already or not.
            keep_store: Whether sessions go to the app's own store all the same.
        """
        again = oauth.core.policy.apps is self._names
        attachment = Attachment(oauth, None if again else self.policy(), keep_store=keep_store)
        if not again:
            origin = oauth.settings.origin
            self.register_client_app(origin, client_app(oauth))
            attachment.on_detach(lambda: self._client_apps.pop(origin, None))
            self._attachments.append(attachment)
        return attachment

    def detach(self) -> None:
        """End what `attach` began, and forget who was logged in there."""
        while self._attachments:
            self._attachments.pop().detach()

    def environment(self) -> dict[str, str]:
        """Return the settings with which another process reaches the network while it is served."""
        assert self._served, "serve the network first: another process needs a port"
        return {
            "ATPROTO_OAUTH_PLC_URL": self.plc.origin,
            "ATPROTO_OAUTH_HANDLE_RESOLVER_URL": self.host.origin,
            "ATPROTO_OAUTH_ALLOW_INSECURE_LOOPBACK": "1",
        }

    @asynccontextmanager
    async def serve(self, *, port: int = 0, plc_port: int = 0) -> AsyncGenerator[Network]:
        """Serve on loopback ports in the running event loop until the end of the block.

        Args:
            port: Port of the first PDS; 0 finds a free one, as it is done for the other servers.
            plc_port: Port of the PLC directory.

        Raises:
            ConfigurationError: uvicorn is not installed.
            OSError: A port is taken.
        """
        assert not self._served, "the network is served already"
        ports = [port if host is self.host else 0 for host in self.hosts]
        with contextlib.ExitStack() as stack:
            bound: list[list[socket.socket]] = []
            for wanted in (plc_port, *ports):
                bound.append(listen(wanted))
                for each in bound[-1]:
                    stack.callback(each.close)
            numbers = [sockets[0].getsockname()[1] for sockets in bound]
            before = [self.plc.origin, *(host.origin for host in self.hosts)]
            apps = [self._plc_app, *(host.app for host in self.hosts)]
            self._move_to([f"http://localhost:{number}" for number in numbers])
            self._served = True
            try:
                async with serving(list(zip(apps, bound, strict=True))):
                    try:
                        yield self
                    finally:
                        self.faults.clear()
                        self._alterations.release()
            finally:
                self._served = False
                self._move_to(before)

    def start(self, *, port: int = 0, plc_port: int = 0) -> Network:
        """Serve on loopback ports in a thread until `stop()`; raises as `serve` does."""
        background = Background(lambda: self.serve(port=port, plc_port=plc_port))
        background.start()
        self._background = background
        return self

    def stop(self) -> None:
        """End what `start()` began."""
        if self._background is not None:
            self._background.stop()
            self._background = None

    def _move_to(self, origins: Sequence[str]) -> None:
        self.plc.origin = origins[0]
        for host, origin in zip(self.hosts, origins[1:], strict=True):
            for account in self.plc.accounts():
                if account.pds == host.origin:
                    account.pds = origin
            host.origin = origin
