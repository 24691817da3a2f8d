"""An authenticated call to a PDS against the same httpx client with fixed headers."""

from __future__ import annotations

import asyncio
import multiprocessing
import secrets
from collections.abc import Callable
from multiprocessing.connection import Connection

from atproto_oauth_asgi import ATProtoOAuth
from atproto_oauth_asgi.dpop import DPoPKey
from atproto_oauth_asgi.net_policy import NetPolicy
from atproto_oauth_asgi.store import NewSession
from atproto_oauth_asgi.tokens import Tokens
from atproto_oauth_asgi.vault import Owner
from bench.interleave import Figure, compare

_BODY = b'{"did":"did:plc:ewvi7nxzyoun6zhxrhs64oiz","handle":"alice.test","pad":"%s"}' % (
    b"x" * 870
)
_ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ndpop-nonce: nonce\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)
_PATH = "/xrpc/com.atproto.server.getSession"


async def measure(*, rounds: int) -> list[Figure]:
    """Return the figures; goal: ratio of at least 0.88."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    try:
        origin = f"http://127.0.0.1:{await asyncio.to_thread(ours.recv)}"
        return await _measure(origin, rounds=rounds)
    finally:
        server.terminate()
        server.join()


async def _measure(origin: str, *, rounds: int) -> list[Figure]:
    oauth = ATProtoOAuth(
        "https://app.birdsong.dev",
        store="memory://",
        secret_keys=(b"k" * 32,),
        net_policy=NetPolicy(allow_insecure_loopback=True, ports=None),
    )
    did = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"
    async with oauth:
        await oauth.core.store.create_session(_row(oauth, did, origin), browser=None)
        async with oauth.session_for(did) as session:
            client = oauth.runtime().net.client
            fixed = {"authorization": "DPoP " + "t" * 700, "dpop": "p" * 640}

            async def with_fixed_headers(count: int) -> None:
                for _ in range(count):
                    (await client.get(origin + _PATH, headers=fixed)).raise_for_status()

            async def with_auth(count: int) -> None:
                for _ in range(count):
                    (await client.get(origin + _PATH, auth=session.auth)).raise_for_status()

            async def with_session(count: int) -> None:
                for _ in range(count):
                    (await session.get(_PATH)).raise_for_status()

            return await compare(
                [
                    ("httpx, fixed headers", with_fixed_headers),
                    ("httpx, auth=session.auth", with_auth),
                    ("session.get", with_session),
                ],
                rounds=rounds,
                operations=60,
            )


def _row(oauth: ATProtoOAuth, did: str, pds: str) -> NewSession:
    core = oauth.core
    owner = Owner(
        session_id=secrets.token_urlsafe(16),
        did=did,
        issuer="https://pds.birdsong.dev",
        client_id=core.client.client_id,
    )
    tokens = Tokens(access_token="t" * 700, refresh_token="r" * 68, pds=pds)
    return NewSession(
        id=owner.session_id,
        client_id=owner.client_id,
        did=did,
        issuer=owner.issuer,
        handle=None,
        scope="atproto",
        pds=pds,
        client_kid=None,
        sealed_dpop_key=core.vault.seal_key(owner, DPoPKey.generate()),
        sealed_tokens=core.vault.seal_tokens(owner, tokens),
        sealed_key=core.vault.key_id,
        sent_ago_ms=0,
        life_ms=3_600_000,
        refresh_after_ms=10_000,
        lifetime_ms=86_400_000,
    )


def serve(pipe: Connection) -> None:
    """Answer every request on a free loopback port with the same 1 KB, until terminated."""
    asyncio.run(_serve(pipe.send))


async def _serve(tell: Callable[[int], None]) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(_ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    tell(server.sockets[0].getsockname()[1])
    await server.serve_forever()
