"""The embedded network as a world of scenarios, in this process and on a clock that they move."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
from starlette.types import Receive, Scope, Send

from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.testing import accounts as embedded
from atproto_oauth_asgi.testing.host import Host
from tests.network.walker import Clock
from tests.parity.embedded_person import EmbeddedPerson
from tests.parity.site import ClientSite
from tests.parity.world import Account, PageShown, Permission, Variant

CLIENT_ORIGIN = "https://app.home.arpa:44068"


class EmbeddedWorld:
    """Shows one host of an embedded network."""

    def __init__(
        self,
        network: Network,
        host: Host,
        http: httpx.AsyncClient,
        clock: Clock,
        site: ClientSite,
    ) -> None:
        self.network = network
        self.http = http
        self.site = site
        self._host = host
        self._clock = clock
        self.issuer = host.authorization_server.issuer
        self.pds = host.origin
        self.plc = network.plc.origin

    def now(self) -> float:
        return self._clock()

    async def wait(self, seconds: float) -> None:
        self._clock.advance(seconds)

    async def age(self, seconds: float) -> None:
        self._clock.advance(seconds)

    async def account(self, handle: str) -> Account:
        return _shown(self.network.account(handle))

    async def create_account(self, name: str) -> Account:
        handle = f"{name}-{secrets.token_hex(3)}.test"
        return _shown(self.network.add_account(handle, host=self._host))

    async def approve(self, url: str, account: Account, *, scope: str | None = None) -> str:
        try:
            return self.network.approve(url, account.did, scope=scope)
        except ValueError as exc:
            raise PageShown(400) from exc

    async def deny(self, url: str) -> str:
        try:
            return self.network.deny(url)
        except ValueError as exc:
            raise PageShown(400) from exc

    async def person(self) -> EmbeddedPerson:
        return EmbeddedPerson(self.http)

    async def age_sign_ins(self, account: Account, seconds: float) -> None:
        del account
        self._clock.advance(seconds)

    async def deactivate(self, account: Account) -> None:
        self.network.account(account.did).status = "deactivated"

    async def activate(self, account: Account) -> None:
        self.network.account(account.did).status = "active"

    async def take_down(self, account: Account) -> None:
        self.network.take_down(account.did)

    async def delete(self, account: Account) -> None:
        self.network.delete_account(account.did)

    async def change_password(self, account: Account) -> None:
        self.network.account(account.did).password = "another-password"

    async def change_handle(self, account: Account, handle: str) -> None:
        self.network.account(account.did).handle = handle

    async def handle_document(self, handle: str) -> httpx.Response:
        return await self.http.get(f"https://{handle}/.well-known/atproto-did")

    async def publish_permission_set(self, nsid: str, permissions: list[Permission]) -> None:
        self.network.add_permission_set(nsid, permissions)

    async def second(self) -> EmbeddedWorld:
        host = self.network.add_host()
        return EmbeddedWorld(self.network, host, self.http, self._clock, self.site)

    def origins(self) -> dict[str, str]:
        hosts = {host.origin: f"<server {n}>" for n, host in enumerate(self.network.hosts, 1)}
        return {**hosts, self.plc: "<plc>", **self.site.origins()}


def _shown(account: embedded.Account) -> Account:
    return Account(
        handle=account.handle, did=account.did, password=account.password, email=account.email
    )


@asynccontextmanager
async def embedded_world(variant: Variant) -> AsyncGenerator[EmbeddedWorld]:
    """Make a network for one scenario."""
    clock = Clock()
    network = Network(
        clock=clock,
        token_life=2 if variant == "short" else 3600,
        nonce_interval=1 if variant == "short" else 60,
        client_cache=0 if variant == "uncached" else 600,
    )
    site = ClientSite(CLIENT_ORIGIN)
    network.register_client_app(CLIENT_ORIGIN, site)

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        host = dict(scope["headers"])[b"host"].decode()
        await network.policy().apps[f"https://{host}"](scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=route)) as http:
        yield EmbeddedWorld(network, network.host, http, clock, site)
