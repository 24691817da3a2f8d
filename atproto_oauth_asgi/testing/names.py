"""Names of the network: which server answers for an origin, a handle or an account."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

from starlette.types import ASGIApp

from atproto_oauth_asgi.testing.accounts import Account
from atproto_oauth_asgi.testing.host import Host
from atproto_oauth_asgi.testing.plc import Directory
from atproto_oauth_asgi.testing.site import Site

if TYPE_CHECKING:
    from atproto_oauth_asgi.testing.network import Network


class PolicyOverrides(TypedDict, total=False):
    """Names the fields of `NetPolicy` that a test may set for itself."""

    allow_insecure_loopback: bool
    allow_private_hosts: tuple[str, ...]
    ports: frozenset[int] | None
    ca_file: str | None
    egress_proxy: str | None
    plc_url: str
    handle_resolver_url: str | None
    any_client_id: bool
    resolve_host: Callable[[str], Awaitable[Sequence[str]]] | None
    resolve_txt: Callable[[str], Awaitable[Sequence[bytes]]] | None
    apps: Mapping[str, ASGIApp]


class Names(Mapping[str, ASGIApp]):
    """Is the live map from origins to apps: accounts and hosts made later are in it.

    It answers DNS look-ups too, so that nothing asks the real one.
    """

    def __init__(
        self, network: Network, plc: Directory, plc_site: Site, hosts: Sequence[Host]
    ) -> None:
        #: Whose names these are.
        self.network = network
        self._plc = plc
        self._plc_site = plc_site
        self._hosts = hosts

    def __getitem__(self, origin: str) -> ASGIApp:
        site = self.site(origin)
        if site is None:
            raise KeyError(origin)
        return site

    def __iter__(self) -> Iterator[str]:
        yield self._plc.origin
        for host in self._hosts:
            yield host.origin
            for account in host.accounts:
                yield f"https://{account.handle}"
                if account.did.startswith("did:web:"):
                    yield f"https://{account.did.removeprefix('did:web:')}"

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def site(self, origin: str) -> Site | None:
        """Return what answers for an origin, or for the host name of a handle."""
        if origin == self._plc.origin:
            return self._plc_site
        for host in self._hosts:
            if origin == host.origin:
                return host.app
        name = origin.removeprefix("https://")
        if name == origin:
            return None
        found = self.find(name) or self.find(f"did:web:{name}")
        if found is not None:
            return found[0].app
        # Every other `.test` name is one that this PDS would give out, and says 404.
        return self._hosts[0].app if name.endswith(".test") else None

    def find(self, identifier: str) -> tuple[Host, Account] | None:
        """Return the account with a handle, DID or e-mail address, and its server."""
        return self.search(self._hosts, identifier)

    @staticmethod
    def search(hosts: Sequence[Host], identifier: str) -> tuple[Host, Account] | None:
        """Return the account that one of these hosts has, and the host where it lives."""
        for host in hosts:
            account = host.accounts.find(identifier)
            if account is not None:
                return host, account
        return None

    async def resolve_host(self, name: str) -> Sequence[str]:
        """Answer a look-up of addresses."""
        return ("127.0.0.1",) if name == "localhost" else ()

    async def resolve_txt(self, name: str) -> Sequence[bytes]:
        """Answer a look-up of TXT records (atproto: Handle Resolution, DNS TXT Method)."""
        prefix, _, handle = name.rstrip(".").lower().partition(".")
        found = self.find(handle) if prefix == "_atproto" else None
        if found is None or found[1].handle != handle:
            return ()
        if found[1].handle_proof not in {"both", "dns"}:
            return ()
        return (f"did={found[1].did}".encode(),)
