"""A database server whose certificate does not verify is away; nothing is wrong with the URL."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path

import pytest
import trustme

from atproto_oauth_asgi.errors import StoreUnavailable
from atproto_oauth_asgi_stores import SQLStore

pytestmark = pytest.mark.anyio


async def test_a_certificate_of_another_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("PGSSLROOTCERT", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = trustme.CA().issue_cert("localhost", "127.0.0.1")
    certificate.configure_cert(context)  # pyright: ignore[reportUnknownMemberType]
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        # PostgreSQL's SSLRequest.
        await reader.readexactly(8)
        asked += 1
        writer.write(b"S")
        with contextlib.suppress(OSError):
            await writer.start_tls(context)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        store = SQLStore(f"postgresql+asyncpg://u:p@127.0.0.1:{port}/d?ssl=verify-full")
        try:
            with pytest.raises(StoreUnavailable):
                await store.load(b"x" * 32)
        finally:
            await store.aclose()
    assert asked
