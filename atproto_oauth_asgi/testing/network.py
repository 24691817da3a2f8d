"""A PLC directory, PDSes and their authorization servers, without the internet."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import (
    AsyncGenerator,
    Callable,
    Generator,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from dataclasses import replace
from typing import Unpack

from starlette.types import ASGIApp

from atproto_oauth_asgi.net_policy import NetPolicy
from atproto_oauth_asgi.oauth import ATProtoOAuth
from atproto_oauth_asgi.testing.accounts import DEFAULT_PASSWORD, Account, did_for
from atproto_oauth_asgi.testing.attachment import Attachment, client_app
from atproto_oauth_asgi.testing.authorization_requests import (
    AuthorizationRequest,
    Redirection,
)
from atproto_oauth_asgi.testing.faults import Faults, Pause, When
from atproto_oauth_asgi.testing.host import Host
from atproto_oauth_asgi.testing.names import Names, PolicyOverrides
from atproto_oauth_asgi.testing.permission_sets import Permissions, PermissionSets
from atproto_oauth_asgi.testing.person import decide
from atproto_oauth_asgi.testing.plc import Directory
from atproto_oauth_asgi.testing.request_log import RequestLog, RequestRecord
from atproto_oauth_asgi.testing.serving import Background, listen, serving
from atproto_oauth_asgi.testing.sessions import Session
from atproto_oauth_asgi.testing.site import Alterations, Change, Site

#: Origins while nothing is served; only `Network.policy()` knows where they lead.
PLC_ORIGIN = "https://plc.example"
PDS_ORIGIN = "https://pds.example"


class Network:
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
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.log = RequestLog()
        self.faults = Faults()
        self.plc = Directory(PLC_ORIGIN)
        self._token_life = token_life
        self._nonce_interval = nonce_interval
        self._client_cache = client_cache
        self._list_accounts = list_accounts
        self._clock = clock
        self._alterations = Alterations()
        self._client_apps: dict[str, ASGIApp] = {}
        self._permission_sets = PermissionSets()
        self._plc_app = Site(self.plc.answer, self._alterations)
        self._served = False
        self._background: Background | None = None
        self._attachments: list[Attachment] = []
        #: The first PDS and authorization server.
        self.host = self._new_host(PDS_ORIGIN)
        self.hosts = [self.host]
        self._names = Names(self, self.plc, self._plc_app, self.hosts)
        for handle in accounts:
            self.add_account(handle)

    # Accounts and servers

    def add_host(self, origin: str = "https://pds2.example") -> Host:
        """Add a second PDS with an authorization server of its own; not while served."""
        assert not self._served, "add hosts before the network is served"
        host = self._new_host(origin)
        self.hosts.append(host)
        return host

    def add_account(
        self,
        handle: str,
        *,
        password: str = DEFAULT_PASSWORD,
        email: str | None = None,
        host: Host | None = None,
    ) -> Account:
        """Make an account, on the first PDS unless another is given.

        Raises:
            ValueError: There is an account with this handle.
        """
        host = host or self.host
        handle = handle.lower()
        account = Account(
            handle=handle,
            did=did_for(handle),
            password=password,
            email=email or f"{handle.partition('.')[0]}@mail.test",
            pds=host.origin,
        )
        self.plc.register(account)
        host.accounts.add(account)
        return account

    def account(self, identifier: str) -> Account:
        """Return the account with a handle, DID or e-mail address.

        Raises:
            ValueError: There is none.
        """
        found = self._names.find(identifier)
        if found is None:
            raise ValueError(f"There is no account {identifier}; make it with add_account().")
        return found[1]

    def move_account(self, identifier: str, host: Host) -> None:
        """Let another PDS take an account over, as a migration does: the DID document changes.

        The old server keeps its sessions, which is what makes a migration worth a test.
        """
        account = self.account(identifier)
        account.pds = host.origin
        host.accounts.add(account)

    def take_down(self, identifier: str) -> None:
        """Take an account down: its sessions end, and it cannot sign in."""
        self.account(identifier).status = "takendown"
        self.revoke_sessions(identifier)

    def delete_account(self, identifier: str) -> None:
        """Delete an account: its sessions end, and the directory says 410."""
        account = self.account(identifier)
        self.revoke_sessions(identifier)
        account.status = "deleted"

    def add_permission_set(self, nsid: str, permissions: Permissions) -> None:
        """Publish a permission set: `include:<nsid>` stands for what it holds.

        Args:
            nsid: Name of the set.
            permissions: Scope values, or permissions as a lexicon lists them. What is not under
                the authority of the name is left out when the set is used, as servers do.

        Raises:
            ValueError: One of the scope values is ill-formed.
        """
        self._permission_sets.add(nsid, permissions)

    def register_client_app(self, origin: str, app: ASGIApp) -> None:
        """Let the authorization servers fetch client metadata and keys of an origin from an app."""
        self._client_apps[origin] = app

    def forget_clients(self) -> None:
        """Let the authorization servers fetch client metadata and keys anew."""
        for host in self.hosts:
            host.authorization_server.registry.forget()

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

    # Sessions

    def sessions(self, identifier: str | None = None) -> list[Session]:
        """Return the live sessions, of one account if it is given, oldest first."""
        did = None if identifier is None else self.account(identifier).did
        return [
            session for host in self.hosts for session in host.authorization_server.sessions.of(did)
        ]

    def revoke_sessions(self, identifier: str | None = None) -> None:
        """End sessions, as a person can on their server's pages."""
        for session in self.sessions(identifier):
            for host in self.hosts:
                host.authorization_server.sessions.end(session.id)

    def expire_access_tokens(self, identifier: str | None = None) -> None:
        """Let access tokens expire now; the PDS answers 401 `invalid_token`, refreshing works."""
        did = None if identifier is None else self.account(identifier).did
        for host in self.hosts:
            host.authorization_server.sessions.expire_access_tokens(did)

    def restart_hosts(self) -> None:
        """Forget DPoP nonces as a restarted server does; sessions live on."""
        for host in self.hosts:
            host.nonces.restart()

    # What happened, and trouble

    def token_requests(
        self, grant: str | None = None, *, challenged: bool = False
    ) -> list[RequestRecord]:
        """Return the records of token requests, oldest first.

        Args:
            grant: `refresh_token`, `authorization_code`, or both by default.
            challenged: Whether to count those that only met the DPoP nonce challenge too.
        """
        return [
            record
            for record in self.log.of("token", grant)
            if challenged or record.error != "use_dpop_nonce"
        ]

    def pause_token_endpoint(
        self, grant: str | None = None, *, when: When = "before"
    ) -> AbstractAsyncContextManager[Pause]:
        """Hold token requests until the pause is released or the block ends.

        Args:
            grant: `refresh_token`, `authorization_code`, or both by default.
            when: `before` holds requests before anything is done, `after` holds the answers.
        """
        return self.faults.pause(grant=grant, when=when)

    def alter(self, path: str, change: Change) -> AbstractContextManager[None]:
        """Change every answer of a path on its way out, to play a faulty or hostile server.

        For example `network.alter("/oauth/token", lambda answer: answer.with_json(sub=other))`.
        The path of a DID document is `/<did>`.
        """
        return self._alterations.during(path, change)

    def hold(self, path: str, *, when: When = "before") -> AbstractAsyncContextManager[Pause]:
        """Hold every request of a path until the pause is released or the block ends.

        For token requests `pause_token_endpoint` is better: it lets nonce challenges pass.
        """
        return self._alterations.hold(path, when)

    @contextlib.contextmanager
    def outage(self, origin: str | None = None) -> Generator[None]:
        """Break every connection to an origin, by default to the first PDS."""
        site = self.host.app if origin is None else self._names.site(origin)
        if site is None:
            raise ValueError(f"{origin} is not a server of this network.")
        site.down = True
        try:
            yield
        finally:
            site.down = False

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
        ports = [port, *(0 for _ in self.hosts[1:])]
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

    def _new_host(self, origin: str) -> Host:
        def create_account(handle: str, password: str, email: str) -> Account:
            return self.add_account(handle, password=password, email=email, host=host)

        host: Host = Host(
            origin,
            apps=self._client_apps,
            may_connect=lambda: self._served,
            faults=self.faults,
            alterations=self._alterations,
            log=self.log,
            permission_sets=self._permission_sets,
            clock=self._clock,
            token_life=self._token_life,
            nonce_interval=self._nonce_interval,
            client_cache=self._client_cache,
            create_account=create_account,
        )
        host.interaction.show_accounts = self._list_accounts
        return host

    def _move_to(self, origins: Sequence[str]) -> None:
        self.plc.origin = origins[0]
        for host, origin in zip(self.hosts, origins[1:], strict=True):
            for each in self.hosts:
                for account in each.accounts:
                    if account.pds == host.origin:
                        account.pds = origin
            host.origin = origin
