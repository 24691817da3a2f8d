"""Server metadata, served in process, and a discovery that sees only it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from atproto_oauth_asgi.discovery import Discovery, ServerMetadata
from atproto_oauth_asgi.errors import (
    ATProtoOAuthError,
)
from atproto_oauth_asgi.net import Net, NetPolicy

PDS = "https://pds.example.com"
ISSUER = "https://auth.example.com"
RESOURCE_PATH = "/.well-known/oauth-protected-resource"
SERVER_PATH = "/.well-known/oauth-authorization-server"
GONE = object()


def resource(**changes: object) -> dict[str, object]:
    return changed({"resource": PDS, "authorization_servers": [ISSUER]}, changes)


def server(issuer: str = ISSUER, **changes: object) -> dict[str, object]:
    return changed(
        {
            "issuer": issuer,
            "scopes_supported": ["atproto", "transition:generic"],
            "response_types_supported": ["code"],
            "response_modes_supported": ["query", "fragment"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
            "authorization_endpoint": f"{issuer}/oauth/authorize",
            "token_endpoint": f"{issuer}/oauth/token",
            "token_endpoint_auth_methods_supported": ["none", "private_key_jwt"],
            "token_endpoint_auth_signing_alg_values_supported": ["RS256", "ES256"],
            "revocation_endpoint": f"{issuer}/oauth/revoke",
            "pushed_authorization_request_endpoint": f"{issuer}/oauth/par",
            "require_pushed_authorization_requests": True,
            "dpop_signing_alg_values_supported": ["ES256", "ES256K"],
            "client_id_metadata_document_supported": True,
            "require_request_uri_registration": True,
            "prompt_values_supported": ["login", "create"],
        },
        changes,
    )


def changed(document: dict[str, object], changes: Mapping[str, object]) -> dict[str, object]:
    return {k: v for k, v in {**document, **changes}.items() if v is not GONE}


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Web:
    pages: dict[str, Response] = field(default_factory=dict[str, Response])
    asked: list[str] = field(default_factory=list[str])

    def put_resource(
        self, page: Response | None = None, *, origin: str = PDS, **changes: object
    ) -> None:
        self.pages[origin + RESOURCE_PATH] = page or JSONResponse(resource(**changes))

    def put_server(
        self, page: Response | None = None, *, issuer: str = ISSUER, **changes: object
    ) -> None:
        self.pages[issuer + SERVER_PATH] = page or JSONResponse(server(issuer, **changes))

    def change_server(self, name: str, value: object) -> None:
        self.put_server(JSONResponse(changed(server(), {name: value})))

    def app(self, origin: str) -> ASGIApp:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            url = origin + Request(scope, receive).url.path
            self.asked.append(url)
            await self.pages.get(url, PlainTextResponse("not found", 404))(scope, receive, send)

        return answer


@asynccontextmanager
async def discovery_for(
    web: Web,
    *,
    origins: tuple[str, ...] = (PDS, ISSUER),
    clock: Clock | None = None,
    insecure: bool = False,
    ports: frozenset[int] | None = frozenset({443}),
    private: tuple[str, ...] = (),
) -> AsyncGenerator[Discovery, None]:
    async def no_host(_: str) -> list[str]:
        return []

    net = Net(
        NetPolicy(
            apps={origin: web.app(origin) for origin in origins},
            resolve_host=no_host,
            allow_insecure_loopback=insecure,
            ports=ports,
            allow_private_hosts=private,
        )
    )
    try:
        yield Discovery(lambda: net, clock=clock or Clock())
    finally:
        await net.aclose()


async def discover(web: Web, **options: object) -> ServerMetadata:
    async with discovery_for(web, **options) as discovery:  # type: ignore[arg-type]  # passed on
        return await discovery.for_pds(PDS)


async def failure(web: Web, **options: object) -> ATProtoOAuthError:
    with pytest.raises(ATProtoOAuthError) as caught:
        await discover(web, **options)
    return caught.value
