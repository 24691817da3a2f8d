"""A signed-in session whose PDS is a server that answers with whatever bytes a test likes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from atproto_oauth_asgi import OAuthSession
from tests.app.world import World, live_of, world
from tests.net_server import Respond, Server, serving

CHALLENGE = (
    b"HTTP/1.1 401 Unauthorized\r\n"
    b'WWW-Authenticate: DPoP error="use_dpop_nonce"\r\n'
    b"DPoP-Nonce: fresh\r\n"
)
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@dataclass
class RawPDS:
    here: World
    session: OAuthSession
    server: Server

    def move_in(self) -> None:
        """Let the server be the account's PDS; a refresh moves the account back."""
        live = live_of(self.session)
        live.tokens = replace(live.tokens, pds=self.server.url)

    @property
    def access_token(self) -> str:
        return live_of(self.session).tokens.access_token


@asynccontextmanager
async def raw_pds(respond: Respond | bytes) -> AsyncGenerator[RawPDS, None]:
    """Log in at the network, then let the account's PDS be a server on loopback."""
    async with world() as here, serving(respond) as server:
        await here.login()
        async with here.oauth.session_for(here.did()) as session:
            pds = RawPDS(here, session, server)
            pds.move_in()
            yield pds
