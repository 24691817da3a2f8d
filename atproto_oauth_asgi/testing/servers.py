from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.types import ASGIApp

from atproto_oauth_asgi.testing.accounts import DEFAULT_PASSWORD, Account, HandleProof, did_for
from atproto_oauth_asgi.testing.authorization_server import AuthorizationServer
from atproto_oauth_asgi.testing.faults import Faults
from atproto_oauth_asgi.testing.host import Host, Shared
from atproto_oauth_asgi.testing.names import Names
from atproto_oauth_asgi.testing.permission_sets import Permissions, PermissionSets
from atproto_oauth_asgi.testing.plc import Directory
from atproto_oauth_asgi.testing.request_log import RequestLog
from atproto_oauth_asgi.testing.sessions import Session
from atproto_oauth_asgi.testing.site import Alterations, Site
from atproto_oauth_asgi.testing.skewed_clock import SkewedClock

#: Origins while nothing is served; only `Network.policy()` knows where they lead.
PLC_ORIGIN = "https://plc.example"
PDS_ORIGIN = "https://pds.example"
ENTRYWAY_ORIGIN = "https://entryway.example"


class Servers:
    """Is who lives in a network: a directory, servers, accounts, and clients that are fetched."""

    def __init__(
        self,
        accounts: Sequence[str],
        *,
        token_life: float,
        nonce_interval: float,
        client_cache: float,
        list_accounts: bool,
        entryway: bool,
        clock: Callable[[], float],
    ) -> None:
        self.log = RequestLog()
        self.faults = Faults()
        self.plc = Directory(PLC_ORIGIN)
        self._served = False
        self._clock = SkewedClock(clock)
        self._list_accounts = list_accounts
        self._alterations = Alterations(self._clock)
        self._client_apps: dict[str, ASGIApp] = {}
        self._permission_sets = PermissionSets()
        self._plc_app = Site(self.plc.answer, self._alterations)
        self._shared = Shared(
            client_apps=self._client_apps,
            may_connect=lambda: self._served,
            faults=self.faults,
            alterations=self._alterations,
            log=self.log,
            permission_sets=self._permission_sets,
            clock=self._clock,
            token_life=token_life,
            nonce_interval=nonce_interval,
            client_cache=client_cache,
            sign_up=self._sign_up,
        )
        #: Every server but the directory, in the order in which they were made.
        self.hosts: list[Host] = []
        #: The authorization server that PDSes leave their people to, where there is one.
        self.entryway = self._new_host(ENTRYWAY_ORIGIN, pds=False) if entryway else None
        #: The first PDS.
        self.host = self._new_host(PDS_ORIGIN, entryway=self.entryway)
        for handle in accounts:
            self.add_account(handle)

    @property
    def authorization_servers(self) -> list[AuthorizationServer]:
        """Return every authorization server once."""
        return list(dict.fromkeys(host.authorization_server for host in self.hosts))

    def add_host(
        self, origin: str = "https://pds2.example", *, entryway: Host | None = None
    ) -> Host:
        """Add one more PDS; not while the network is served.

        Args:
            origin: Where it is while nothing is served.
            entryway: The host that signs its people in, see `Network(entryway=True)`; without one
                the PDS has an authorization server of its own.
        """
        assert not self._served, "add hosts before the network is served"
        return self._new_host(origin, entryway=entryway)

    def add_account(
        self,
        handle: str,
        *,
        password: str = DEFAULT_PASSWORD,
        email: str | None = None,
        host: Host | None = None,
        did: str | None = None,
        handle_proof: HandleProof = "both",
    ) -> Account:
        """Make an account, on the first PDS unless another is given.

        Args:
            handle: Its handle.
            password: What it signs in with.
            email: Its e-mail address.
            host: Its PDS.
            did: A `did:web:<host name>`, whose document that host then serves; by default a
                did:plc that is the same in every run.
            handle_proof: Where the handle says whose it is: `dns`, `well-known`, `both`, or
                `none`, which makes it a handle that does not resolve.

        Raises:
            ValueError: There is an account with this handle or DID.
        """
        host = host or self.host
        handle = handle.lower()
        account = Account(
            handle=handle,
            did=did or did_for(handle),
            password=password,
            email=email or f"{handle.partition('.')[0]}@mail.test",
            pds=host.origin,
            handle_proof=handle_proof,
        )
        self.plc.register(account)
        host.accounts.add(account)
        return account

    def account(self, identifier: str) -> Account:
        """Return the account with a handle, DID or e-mail address.

        Raises:
            ValueError: There is none.
        """
        found = Names.search(self.hosts, identifier)
        if found is None:
            raise ValueError(f"There is no account {identifier}; make it with add_account().")
        return found[1]

    def move_account(self, identifier: str, host: Host) -> None:
        """Let another PDS take an account over, as a migration does: the DID document changes.

        Behind one entryway its sessions go on at the new PDS. Otherwise the issuer is another one
        too, and the old server keeps its sessions, which is what makes a migration worth a test.
        """
        account = self.account(identifier)
        for old in self.hosts:
            if old.entryway is not None and old.entryway is host.entryway:
                old.accounts.remove(account)
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

    def sessions(self, identifier: str | None = None) -> list[Session]:
        """Return the live sessions, of one account if it is given, oldest first."""
        did = None if identifier is None else self.account(identifier).did
        return [one for server in self.authorization_servers for one in server.sessions.of(did)]

    def revoke_sessions(self, identifier: str | None = None) -> None:
        """End sessions, as a person can on their server's pages."""
        for session in self.sessions(identifier):
            for server in self.authorization_servers:
                server.sessions.end(session.id)

    def expire_access_tokens(self, identifier: str | None = None) -> None:
        """Let access tokens expire now; the PDS answers 401 `invalid_token`, refreshing works."""
        did = None if identifier is None else self.account(identifier).did
        for server in self.authorization_servers:
            server.sessions.expire_access_tokens(did)

    def restart_hosts(self) -> None:
        """Forget DPoP nonces as a restarted server does; sessions live on."""
        for host in self.hosts:
            host.nonces.restart()

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
        for server in self.authorization_servers:
            server.registry.forget()

    def _new_host(self, origin: str, *, pds: bool = True, entryway: Host | None = None) -> Host:
        host = Host(origin, self._shared, pds=pds, entryway=entryway)
        host.interaction.show_accounts = self._list_accounts
        self.hosts.append(host)
        return host

    def _sign_up(self, host: Host, handle: str, password: str, email: str) -> Account:
        # An entryway gives new people to its first PDS.
        home = next((each for each in self.hosts if each.entryway is host), host)
        return self.add_account(handle, password=password, email=email, host=home)
