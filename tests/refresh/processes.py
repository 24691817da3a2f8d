"""Worker processes that tests start, ask and stop."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from atproto_oauth_asgi.testing import Network
from tests.refresh.fleet import SECRET_KEYS, within

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def process(
    network: Network, database: Path, fault: str
) -> AsyncGenerator[asyncio.subprocess.Process]:
    folders = (str(ROOT / part) for part in ("", "stores", "migrations"))
    key = base64.urlsafe_b64encode(SECRET_KEYS[0]).rstrip(b"=").decode()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.refresh.worker_process", str(database), fault,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={
            **os.environ,
            **network.environment(),
            "ATPROTO_OAUTH_SECRET_KEYS": key,
            "PYTHONPATH": os.pathsep.join(folders),
        },
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert await within(30, process.stdout.readline()) == b"ready\n"
        yield process
    finally:
        process.stdin.close()
        try:
            await within(30, process.wait())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def ask(process: asyncio.subprocess.Process, calls: int) -> list[int | str]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{calls}\n".encode())
    await process.stdin.drain()
    answers: list[int | str] = json.loads(await within(30, process.stdout.readline()))
    return answers
