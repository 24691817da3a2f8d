"""Handles and DID documents, served in process, and a resolver that sees only them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from atproto_oauth_asgi.errors import (
    ATProtoOAuthError,
)
from atproto_oauth_asgi.handles import HandleResolver
from atproto_oauth_asgi.identity import Identity, IdentityResolver
from atproto_oauth_asgi.net import Net, NetPolicy

HANDLE = "alice.example.com"
DID = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"
OTHER = "did:plc:44ybard66vv44zksje25o7dz"
PDS = "https://pds.example.com"
PLC = "https://plc.directory"

Answer = Callable[[Request], Awaitable[Response]]


def document(
    did: str = DID, *, handle: str = HANDLE, pds: object = PDS, **changes: object
) -> dict[str, object]:
    service = {
        "id": "#atproto_pds",
        "type": "AtprotoPersonalDataServer",
        "serviceEndpoint": pds,
    }
    return {"id": did, "alsoKnownAs": [f"at://{handle}"], "service": [service], **changes}


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Web:
    """Documents at URLs, TXT records, and a list of everything that was asked."""

    pages: dict[str, Response | Answer] = field(default_factory=dict[str, Response | Answer])
    txt: dict[str, list[bytes] | OSError] = field(
        default_factory=dict[str, "list[bytes] | OSError"]
    )
    asked: list[str] = field(default_factory=list[str])
    dns_gate: asyncio.Event | None = None

    def put(self, url: str, page: Response | Answer | dict[str, object] | str) -> None:
        if isinstance(page, dict):
            page = JSONResponse(page)
        elif isinstance(page, str):
            page = PlainTextResponse(page)
        self.pages[url] = page

    def put_account(self, did: str = DID, **parts: object) -> None:
        self.put(f"{PLC}/{did}", document(did, **parts))  # type: ignore[arg-type]  # passed on

    def put_did(self, text: str, handle: str = HANDLE) -> None:
        self.put(f"https://{handle}/.well-known/atproto-did", text)

    def put_txt(self, *records: bytes, handle: str = HANDLE) -> None:
        self.txt[f"_atproto.{handle}"] = list(records)

    def app(self, origin: str) -> ASGIApp:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            request = Request(scope, receive)
            url = origin + request.url.path + (f"?{request.url.query}" if request.url.query else "")
            self.asked.append(url)
            page = self.pages.get(url, PlainTextResponse("not found", 404))
            response = page if isinstance(page, Response) else await page(request)
            await response(scope, receive, send)

        return answer

    async def resolve_txt(self, name: str) -> Sequence[bytes]:
        self.asked.append(f"TXT {name}")
        if self.dns_gate is not None:
            await self.dns_gate.wait()
        found = self.txt.get(name, [])
        if isinstance(found, OSError):
            raise found
        return found


ORIGINS = (
    PLC,
    f"https://{HANDLE}",
    "https://bob.example.com",
    "https://web.example.com",
    "https://resolver.example.com",
)


@asynccontextmanager
async def resolver_for(
    web: Web,
    *,
    origins: Sequence[str] = ORIGINS,
    clock: Clock | None = None,
    handle_resolver: HandleResolver | None = None,
    handle_resolver_url: str | None = None,
    allow_insecure_loopback: bool = False,
    dns: bool = True,
    dns_deadline: float = 3.0,
) -> AsyncGenerator[IdentityResolver, None]:
    async def no_host(name: str) -> Sequence[str]:
        web.asked.append(f"HOST {name}")
        return []

    net = Net(
        NetPolicy(
            apps={origin: web.app(origin) for origin in origins},
            resolve_txt=web.resolve_txt if dns else None,
            resolve_host=no_host,
            handle_resolver_url=handle_resolver_url,
            allow_insecure_loopback=allow_insecure_loopback,
        )
    )
    try:
        yield IdentityResolver(
            lambda: net,
            handle_resolver=handle_resolver,
            clock=clock or Clock(),
            dns_deadline=dns_deadline,
        )
    finally:
        await net.aclose()


async def resolve(web: Web, identifier: str = HANDLE, **options: object) -> Identity:
    async with resolver_for(web, **options) as resolver:  # type: ignore[arg-type]  # passed on
        return await resolver.resolve(identifier)


async def failure(web: Web, identifier: str = HANDLE, **options: object) -> ATProtoOAuthError:
    with pytest.raises(ATProtoOAuthError) as caught:
        await resolve(web, identifier, **options)
    return caught.value


def service(**changes: object) -> dict[str, object]:
    return {
        "id": "#atproto_pds",
        "type": "AtprotoPersonalDataServer",
        "serviceEndpoint": PDS,
        **changes,
    }
