"""The narrow interface through which a scenario drives either network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import httpx

from tests.network.walker import JSON
from tests.parity.site import ClientSite

if TYPE_CHECKING:
    from tests.parity.person import Person

#: `usual`: as servers run. `uncached`: client metadata and keys are fetched each time. `short`:
#: access tokens live 2 s, a nonce interval is 1 s.
Variant = Literal["usual", "uncached", "short"]

Permission = dict[str, object]


class PageShown(Exception):
    """Says that the server shows a page of its own and sends nobody back to the app."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the server shows a page with status {status}")
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Is an account on the PDS."""

    handle: str
    did: str
    password: str = field(repr=False)
    email: str


class World(Protocol):
    """Is a PDS with its authorization server, its PLC directory, and a site for clients."""

    #: Sends requests to any origin of the network; follows no redirects.
    http: httpx.AsyncClient
    #: Where confidential clients publish themselves.
    site: ClientSite
    issuer: str
    pds: str
    plc: str

    def now(self) -> float:
        """Return the time by the servers' clock, in seconds since 1970."""
        ...

    async def wait(self, seconds: float) -> None:
        """Let so much time go by for everything; a few seconds only."""
        ...

    async def age(self, seconds: float) -> None:
        """Let requests, codes and sessions be older by so much than they are."""
        ...

    async def account(self, handle: str) -> Account:
        """Return an account that every scenario may use and none may spoil."""
        ...

    async def create_account(self, name: str) -> Account:
        """Make an account for this scenario alone; its handle begins with the name."""
        ...

    async def approve(self, url: str, account: Account, *, scope: str | None = None) -> str:
        """Open an authorization URL in a new browser, sign in, consent; return the callback URL.

        Raises `PageShown`.
        """
        ...

    async def deny(self, url: str) -> str:
        """Open an authorization URL in a new browser and cancel; return the callback URL."""
        ...

    async def person(self) -> Person:
        """Return somebody with a new browser."""
        ...

    async def age_sign_ins(self, account: Account, seconds: float) -> None:
        """Let it be so much longer since the account typed its password."""
        ...

    async def deactivate(self, account: Account) -> None:
        """Let the person deactivate the account."""
        ...

    async def activate(self, account: Account) -> None:
        """Let the person activate the account again."""
        ...

    async def take_down(self, account: Account) -> None:
        """Suspend the account as moderators do."""
        ...

    async def delete(self, account: Account) -> None:
        """Delete the account."""
        ...

    async def change_password(self, account: Account) -> None:
        """Give the account another password."""
        ...

    async def change_handle(self, account: Account, handle: str) -> None:
        """Give the account another handle."""
        ...

    async def handle_document(self, handle: str) -> httpx.Response:
        """Get `/.well-known/atproto-did` under a handle's host name."""
        ...

    async def publish_permission_set(self, nsid: str, permissions: list[Permission]) -> None:
        """Publish the lexicon of a permission set for `include:`."""
        ...

    async def second(self) -> World:
        """Return a PDS with an authorization server of its own, in the same directory."""
        ...

    def origins(self) -> dict[str, str]:
        """Map the origins of this run to names that outcomes use."""
        ...


__all__ = ["JSON", "Account", "PageShown", "Permission", "Variant", "World"]
