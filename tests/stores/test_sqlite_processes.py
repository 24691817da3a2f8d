"""Processes that share a SQLite file, and one that is killed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from atproto_oauth_asgi.testing.conformance_base import (
    browser,
    hashed,
    one_time,
    refreshed,
    session,
)
from atproto_oauth_asgi_stores import SQLStore

pytestmark = pytest.mark.anyio

WORKER = """
import asyncio, json, sys
from atproto_oauth_asgi.testing.conformance_base import hashed, refreshed
from atproto_oauth_asgi_stores import SQLStore

async def main():
    store = SQLStore(sys.argv[1])
    await store.open()
    print("ready", flush=True)
    sys.stdin.readline()
    me = sys.argv[2]
    consumed = await asyncio.gather(
        *(store.consume(hashed("state"), kind="login") for _ in range(10)))
    leased = await asyncio.gather(
        *(store.acquire_refresh("session", version=1, owner=f"{me} {n}", lease_ms=60000)
          for n in range(10)))
    await store.aclose()
    print(json.dumps([sum(one.first for one in consumed), sum(leased)]), flush=True)

asyncio.run(main())
"""


def test_processes_share_a_file(path: Path) -> None:
    async def prepare() -> None:
        store = SQLStore(f"sqlite:///{path}")
        await store.put(one_time())
        await store.create_session(session(), browser=browser())

    asyncio.run(prepare())
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, f"sqlite:///{path}", str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        for number in range(3)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"

    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    counts = [json.loads(worker.communicate(timeout=30)[0]) for worker in workers]

    assert [sum(column) for column in zip(*counts, strict=True)] == [1, 1]


KILLED = """
import asyncio, os, signal, sys
from atproto_oauth_asgi.testing.conformance_base import browser, session
from atproto_oauth_asgi_stores import SQLStore

async def main():
    store = SQLStore(sys.argv[1])
    await store.create_session(session("old"), browser=browser(cookie="before"))
    async def half(connection):
        await store._create(connection, session("new"), browser(cookie="after"), ["old"])
        os.kill(os.getpid(), signal.SIGKILL)
    await store.transact(half)

asyncio.run(main())
"""


@pytest.fixture
def killed_half_way(path: Path) -> None:
    command = [sys.executable, "-c", KILLED, f"sqlite:///{path}"]
    assert subprocess.run(command, check=False, env=environment()).returncode != 0


async def test_a_killed_writer_leaves_all_or_nothing(killed_half_way: None, path: Path) -> None:
    store = SQLStore(f"sqlite:///{path}")

    assert await store.load(hashed("after")) is None
    found = await store.load(hashed("before"))
    assert found is not None
    assert found.session is not None
    assert (found.session.id, found.session.status) == ("old", "active")
    assert await store.load_session("new") is None
    await store.commit_refresh("old", version=1, owner="me", refreshed=refreshed())
    await store.aclose()


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
