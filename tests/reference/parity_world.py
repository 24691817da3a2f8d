"""The reference server as a world of parity scenarios."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.cookiejar import CookieJar

import anyio
import anyio.to_thread
import httpx

from tests.parity.outcome import Outcome
from tests.parity.scenario import Scenario
from tests.parity.site import ClientSite
from tests.parity.world import Account, PageShown, Permission, Variant
from tests.reference.conftest import ReferenceFactory
from tests.reference.network import ADMIN_PASSWORD, ReferenceNetwork
from tests.reference.network import Account as ReferenceAccount
from tests.reference.parity_person import ReferencePerson
from tests.reference.tls import CLIENT_HOST, ThrowawayCA
from tests.reference.user import ApprovalRefused, HttpUser, SignedIn

_SHARED = ("alice.test", "bob.test")


@dataclass(frozen=True, slots=True)
class Device:
    """Is a browser that remembers accounts of one server."""

    cookies: CookieJar = field(default_factory=CookieJar)
    known: set[str] = field(default_factory=set[str])


class ReferenceWorld:
    """Shows one reference server, which other scenarios and tests use too."""

    def __init__(
        self,
        network: ReferenceNetwork,
        http: httpx.AsyncClient,
        site: ClientSite,
        start_second: Callable[[], ReferenceNetwork] | None,
        device: Device,
    ) -> None:
        self.network = network
        self.http = http
        self.site = site
        self.issuer = network.issuer
        self.pds = network.pds
        self.plc = network.plc
        self._start_second = start_second
        self._device = device
        self._others: list[str] = []
        #: Whoever came with a browser, which is closed at the end.
        self.persons: list[ReferencePerson] = []

    def now(self) -> float:
        return time.time()

    async def wait(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def age(self, seconds: float) -> None:
        """Move every time that the server wrote down, which is what time does to them."""
        await anyio.to_thread.run_sync(self.network.age, seconds)

    async def account(self, handle: str) -> Account:
        return _shown(self.network.account(handle))

    async def create_account(self, name: str) -> Account:
        handle = f"{name}-{secrets.token_hex(3)}.test"
        return _shown(await anyio.to_thread.run_sync(self.network.create_account, handle))

    async def approve(self, url: str, account: Account, *, scope: str | None = None) -> str:
        """Approve on a device that remembers whom every scenario may use.

        The server takes 0.4 s for each password.
        """
        shared = account.handle in _SHARED
        async with HttpUser(self._device.cookies if shared else None) as user:
            try:
                page = await user.open(url)
                if page.is_redirect:
                    return page.headers["location"]
                # The page lists whom the device remembers; a code used twice makes it forget.
                if account.did in self._device.known and account.did in page.text:
                    person = SignedIn(did=account.did)
                else:
                    person = await user.sign_in(account.handle, account.password, remember=shared)
                callback = await user.consent(person, scope=scope)
            except ApprovalRefused as exc:
                raise PageShown(exc.status) from exc
        if shared and "code=" in callback:
            self._device.known.add(account.did)
        return callback

    async def deny(self, url: str) -> str:
        async with HttpUser() as user:
            try:
                return await user.deny(url)
            except ApprovalRefused as exc:
                raise PageShown(exc.status) from exc

    async def person(self) -> ReferencePerson:
        person = ReferencePerson()
        self.persons.append(person)
        return person

    async def age_sign_ins(self, account: Account, seconds: float) -> None:
        await anyio.to_thread.run_sync(self.network.age_sign_ins, account.did, seconds)

    async def deactivate(self, account: Account) -> None:
        await self._as_person(account, "com.atproto.server.deactivateAccount", {})

    async def activate(self, account: Account) -> None:
        await self._as_person(account, "com.atproto.server.activateAccount", None)

    async def take_down(self, account: Account) -> None:
        await anyio.to_thread.run_sync(self.network.take_down, account.did)

    async def delete(self, account: Account) -> None:
        await self._as_admin("com.atproto.admin.deleteAccount", {"did": account.did})

    async def change_password(self, account: Account) -> None:
        body: dict[str, object] = {"did": account.did, "password": "another-password"}
        await self._as_admin("com.atproto.admin.updateAccountPassword", body)

    async def change_handle(self, account: Account, handle: str) -> None:
        body: dict[str, object] = {"did": account.did, "handle": handle}
        await self._as_admin("com.atproto.admin.updateAccountHandle", body)

    async def handle_document(self, handle: str) -> httpx.Response:
        url = f"{self.pds}/.well-known/atproto-did"
        return await self.http.get(url, headers={"host": handle})

    async def publish_permission_set(self, nsid: str, permissions: list[Permission]) -> None:
        # The first account's repository answers for every NSID.
        publisher = _shown(self.network.accounts[0])
        main = {
            "type": "permission-set",
            "title": "Parity",
            "detail": "A set of permissions",
            "permissions": [{"type": "permission", **each} for each in permissions],
        }
        record = {
            "$type": "com.atproto.lexicon.schema",
            "lexicon": 1,
            "id": nsid,
            "defs": {"main": main},
        }
        body: dict[str, object] = {
            "repo": publisher.did,
            "collection": "com.atproto.lexicon.schema",
            "rkey": nsid,
            "record": record,
        }
        await self._as_person(publisher, "com.atproto.repo.putRecord", body)

    async def second(self) -> ReferenceWorld:
        assert self._start_second is not None
        network = await anyio.to_thread.run_sync(self._start_second)
        self._others.append(network.pds)
        return ReferenceWorld(network, self.http, self.site, None, Device())

    def origins(self) -> dict[str, str]:
        others = {origin: f"<server {n}>" for n, origin in enumerate(self._others, 2)}
        return {self.pds: "<server 1>", **others, self.plc: "<plc>", **self.site.origins()}

    async def _as_person(self, account: Account, nsid: str, body: dict[str, object] | None) -> None:
        credentials = {"identifier": account.did, "password": account.password}
        url = f"{self.pds}/xrpc/com.atproto.server.createSession"
        answer = (await self.http.post(url, json=credentials)).raise_for_status()
        headers = {"authorization": f"Bearer {answer.json()['accessJwt']}"}
        done = await self.http.post(f"{self.pds}/xrpc/{nsid}", json=body, headers=headers)
        assert done.status_code == 200, done.text

    async def _as_admin(self, nsid: str, body: dict[str, object]) -> None:
        done = await self.http.post(
            f"{self.pds}/xrpc/{nsid}", json=body, auth=("admin", ADMIN_PASSWORD)
        )
        assert done.status_code == 200, done.text


def _shown(account: ReferenceAccount) -> Account:
    return Account(
        handle=account.handle, did=account.did, password=account.password, email=account.email
    )


@asynccontextmanager
async def reference_world(
    network: ReferenceNetwork,
    site: ClientSite,
    start_second: Callable[[], ReferenceNetwork] | None,
    device: Device,
) -> AsyncGenerator[ReferenceWorld]:
    """Show a running network to one scenario."""
    async with httpx.AsyncClient(timeout=20, trust_env=False) as http:
        world = ReferenceWorld(network, http, site, start_second, device)
        yield world
        for person in world.persons:
            await person.user.aclose()


class Played:
    """Runs each scenario once, on servers that scenarios share."""

    def __init__(self, factory: ReferenceFactory, ca: ThrowawayCA, site: ClientSite) -> None:
        self._factory = factory
        self._ca = ca
        self._site = site
        self._outcomes: dict[str, dict[str, Outcome]] = {}
        self._devices: dict[str, Device] = {}

    async def outcomes(self, scenario: Scenario) -> dict[str, Outcome]:
        key = scenario.play.__name__
        if key not in self._outcomes:
            network = await anyio.to_thread.run_sync(self._network, scenario.variant)
            device = self._devices.setdefault(network.pds, Device())
            second = self._second(network)
            async with reference_world(network, self._site, second, device) as world:
                self._outcomes[key] = await scenario.outcomes(world)
        return self._outcomes[key]

    def _network(self, variant: Variant) -> ReferenceNetwork:
        return self._factory(map_hosts=(CLIENT_HOST,), ca_file=self._ca.file, **_OPTIONS[variant])

    def _second(self, first: ReferenceNetwork) -> Callable[[], ReferenceNetwork]:
        return lambda: self._factory(plc_url=first.plc, accounts=("carol.test",))


_OPTIONS: dict[Variant, dict[str, object]] = {
    "usual": {},
    "uncached": {"no_client_cache": True},
    "short": {"token_max_age": 2, "dpop_interval": 1},
}
