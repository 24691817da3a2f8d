"""Every request to another server passes the guard: shown in the source, and at each hop."""

from __future__ import annotations

import ast
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from starlette.types import ASGIApp

import atproto_oauth_asgi
from atproto_oauth_asgi.errors import ATProtoOAuthError
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.testing.names import PolicyOverrides
from tests.app.faulty_store import FaultyStore
from tests.app.world import SCRIPT, World, live_of, world
from tests.discovery_documents import RESOURCE_PATH, SERVER_PATH
from tests.hostile.lies import member, unlimited

pytestmark = [pytest.mark.spec("P1", "P3"), pytest.mark.anyio]

PACKAGE = Path(atproto_oauth_asgi.__file__).parent
ELSEWHERE = "https://elsewhere.example.com"
GET_SESSION = "com.atproto.server.getSession"

# The source

#: Modules that reach the network by themselves.
REACHING = {
    "aiohttp", "dns", "ftplib", "http.client", "httpcore", "requests", "smtplib", "socket",
    "socketserver", "telnetlib", "urllib.request", "urllib3", "websockets",
}  # fmt: skip
#: What of httpx and asyncio opens connections.
OPENING = {
    "httpx": {
        "AsyncClient", "AsyncHTTPTransport", "Client", "HTTPTransport", "delete", "get", "head",
        "options", "patch", "post", "put", "request", "stream",
    },
    "asyncio": {"open_connection", "open_unix_connection"},
    "anyio": {"connect_tcp", "connect_unix", "create_udp_socket", "getaddrinfo"},
}  # fmt: skip
METHODS = {"create_connection", "create_datagram_endpoint", "sock_connect", "getaddrinfo"}


def reaches_out(source: str) -> list[str]:
    """Return what in a module's source opens connections without asking anybody."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            opening = OPENING.get(owner.id if isinstance(owner, ast.Name) else "", set[str]())
            if node.func.attr in opening | METHODS:
                found.append(f"line {node.lineno}: {node.func.attr}()")
            continue
        else:
            continue
        found += [
            f"line {node.lineno}: import {name}"
            for name in names
            if any(name == one or name.startswith(f"{one}.") for one in REACHING)
            or any(name == f"{module}.{one}" for module in OPENING for one in OPENING[module])
        ]
    return found


def test_nothing_but_the_way_out_opens_connections() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix(): reaches_out(path.read_text("utf-8"))
        for path in PACKAGE.rglob("*.py")
        # The testing kit plays servers; the library does not import it.
        if not path.name.startswith("net") and "testing" not in path.parts
    }
    assert len(found) > 50
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import socket",
        "from urllib.request import urlopen",
        "from urllib import request",
        "import httpx\nhttpx.get('https://a.b')",
        "import httpx\nclient = httpx.AsyncClient()",
        "from httpx import AsyncClient",
        "import asyncio\nasyncio.open_connection('a', 1)",
        "async def f(loop):\n  await loop.create_connection(None)",
        "import dns.resolver",
    ],
)
def test_a_way_round_would_be_seen(source: str) -> None:
    assert reaches_out(source)


# Each hop


class Connections:
    """Notes every connection and look-up that this process begins, whoever begins it."""

    def __init__(self) -> None:
        self.begun: list[object] = []
        self.on = False
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.on and event in {"socket.connect", "socket.sendto", "socket.getaddrinfo"}:
            self.begun.append((event, arguments[1:]))


CONNECTIONS = Connections()


@pytest.fixture(autouse=True)
def connections() -> Iterator[Connections]:
    CONNECTIONS.begun.clear()
    CONNECTIONS.on = True
    yield CONNECTIONS
    CONNECTIONS.on = False


class Hidden(Mapping[str, ASGIApp]):
    """Is the network without some origins, which are looked up like all others then."""

    def __init__(self, apps: Mapping[str, ASGIApp]) -> None:
        self._apps = apps
        self.origins: set[str] = set()

    def __getitem__(self, origin: str) -> ASGIApp:
        if origin in self.origins:
            raise KeyError(origin)
        return self._apps[origin]

    def __iter__(self) -> Iterator[str]:
        return (origin for origin in self._apps if origin not in self.origins)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass
class Trap:
    here: World
    hidden: Hidden
    asked: list[str] = field(default_factory=list[str])

    async def begin(self, identifier: str = "alice.test") -> str:
        """Begin a login that must fail; return the error's code."""
        begun = await self.here.browser.post(
            "/oauth/login",
            data={"identifier": identifier},
            headers={"origin": self.here.origin, **SCRIPT},
        )
        return str(begun.json()["error"])

    async def use(self, store: FaultyStore | None = None) -> str:
        """Use a session in a way that must fail; return the error's code."""
        async with self.here.oauth.session_for(self.here.did()) as session:
            if store is not None:
                store.allow_refresh()
                live_of(session).access_expires = live_of(session).refresh_at = 0.0
            with pytest.raises(ATProtoOAuthError) as caught:
                await session.query(GET_SESSION)
            return caught.value.code


@asynccontextmanager
async def trap(
    address: str, store: FaultyStore | None = None, **overrides: object
) -> AsyncGenerator[Trap, None]:
    """Let every name that is not of the network resolve to an address that nobody may reach."""
    network = Network()
    asked: list[str] = []

    async def inside(host: str) -> Sequence[str]:
        asked.append(host)
        return ["93.184.215.14", address]

    async def no_txt(name: str) -> Sequence[bytes]:
        del name
        return ()

    plain = network.policy()
    hidden = Hidden(plain.apps)
    changes: PolicyOverrides = {
        "apps": hidden,
        "resolve_host": inside,
        "resolve_txt": no_txt,
        **overrides,  # type: ignore[typeddict-item]  # passed on
    }
    async with world(
        network,
        store=store or "memory://",
        net_policy=network.policy(**changes),
        limit_logins=unlimited,
    ) as here:
        yield Trap(here, hidden, asked)


ADDRESSES = ["10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1", "64:ff9b::a00:1", "fe80::1%eth0"]
each_address = pytest.mark.parametrize("address", ADDRESSES)
some_addresses = pytest.mark.parametrize("address", ADDRESSES[:3:2])


@each_address
async def test_on_the_way_to_an_account(address: str) -> None:
    async with trap(address) as here:
        network = here.here.network
        for origin, identifier in (
            ("https://alice.test", "alice.test"),
            ("https://victim.example.com", "did:web:victim.example.com"),
            (network.plc.origin, here.here.did()),
            (network.host.origin, here.here.did()),
            (ELSEWHERE, ELSEWHERE),
        ):
            here.hidden.origins = {origin}
            assert await here.begin(identifier) == "address_refused", origin
            assert here.asked[-1] == origin.removeprefix("https://")
        assert CONNECTIONS.begun == []


@some_addresses
async def test_at_a_resolver_of_handles(address: str) -> None:
    async with trap(address, handle_resolver_url=ELSEWHERE) as here:
        assert await here.begin() == "address_refused"
        assert here.asked == ["elsewhere.example.com"]
        assert CONNECTIONS.begun == []


@some_addresses
async def test_at_an_authorization_server(address: str) -> None:
    lies: list[tuple[str, str, object]] = [
        (RESOURCE_PATH, "authorization_servers", [ELSEWHERE]),
        (SERVER_PATH, "pushed_authorization_request_endpoint", f"{ELSEWHERE}/par"),
    ]
    async with trap(address) as here:
        for path, name, value in lies:
            with here.here.network.alter(path, member(name, value)):
                assert await here.begin() == "address_refused"
        assert here.asked == ["elsewhere.example.com"] * 2
        assert CONNECTIONS.begun == []


@some_addresses
async def test_at_a_token_endpoint(address: str) -> None:
    async with trap(address) as here:
        network = here.here.network
        # Metadata is remembered for a minute: the lie has to be there from the start.
        with network.alter(
            SERVER_PATH, lambda answer: answer.with_json(token_endpoint=f"{ELSEWHERE}/token")
        ):
            back = await here.here.browser.get(await here.here.approved())

        assert back.status_code == 400
        assert here.here.cookie is None
        assert here.asked == ["elsewhere.example.com"]
        assert CONNECTIONS.begun == []


@some_addresses
async def test_at_a_revocation(address: str) -> None:
    async with trap(address) as here:
        with here.here.network.alter(
            SERVER_PATH, lambda answer: answer.with_json(revocation_endpoint=f"{ELSEWHERE}/revoke")
        ):
            await here.here.login()
            assert (await here.here.logout()).status_code == 303

        assert await here.here.who() is None
        assert here.asked == ["elsewhere.example.com"]
        assert CONNECTIONS.begun == []


@some_addresses
async def test_at_a_call(address: str) -> None:
    async with trap(address) as here:
        await here.here.login()
        here.hidden.origins = {here.here.network.host.origin}

        assert await here.use() == "address_refused"
        assert here.asked == ["pds.example"]
        assert await here.here.who() == here.here.did()
        assert CONNECTIONS.begun == []


@some_addresses
@pytest.mark.parametrize("hop", ["the directory", "the PDS", "the token endpoint"])
async def test_at_a_refresh(hop: str, address: str) -> None:
    store = FaultyStore()
    async with trap(address, store) as here:
        network = here.here.network
        await here.here.login()
        lie = member("issuer", network.host.origin)  # which is no lie
        if hop == "the token endpoint":
            lie = member("token_endpoint", f"{ELSEWHERE}/token")
        else:
            origins = {"the directory": network.plc.origin, "the PDS": network.host.origin}
            here.hidden.origins = {origins[hop]}
        with network.alter(SERVER_PATH, lie):
            code = await here.use(store)

        assert code == "refresh_failed"
        assert here.asked
        assert [row.status for row in store.sessions] == ["active"]
        assert CONNECTIONS.begun == []
