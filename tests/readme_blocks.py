"""The blocks of the README, and apps on the embedded network to run them in."""

from __future__ import annotations

import ast
import inspect
import re
import types
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from starlette.requests import Request
from starlette.types import ASGIApp

import atproto_oauth_asgi
from atproto_oauth_asgi import ATProtoOAuth, ATProtoOAuthMiddleware
from atproto_oauth_asgi.testing import Network

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
URL = "http://127.0.0.1:8000"
SCOPE = "atproto repo:app.bsky.feed.post blob:*/*"

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CLAIMED: set[tuple[str, str]] = set()


def blocks() -> dict[tuple[str, str], str]:
    """Return all blocks by the heading above them and their language."""
    found: dict[tuple[str, str], str] = {}
    for match in _BLOCK.finditer(README):
        headings = re.findall(r"^#+ (.*)$", README[: match.start()], re.MULTILINE)
        key = (headings[-1], match[1])
        assert key not in found, f"two blocks of one language under {key[0]}: give one a heading"
        found[key] = match[2]
    return found


BLOCKS = blocks()
FIRST = ("atproto-oauth-asgi", "python")


def claim(heading: str, language: str) -> str:
    """Return a block; called while this module is imported, so that the last test knows."""
    CLAIMED.add((heading, language))
    return BLOCKS[heading, language]


async def run(source: str, **names: object) -> dict[str, Any]:
    """Execute a block, with `await` at its top level, and return its names."""
    code = compile(source, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    public = {name: getattr(atproto_oauth_asgi, name) for name in dir(atproto_oauth_asgi)}
    namespace: dict[str, Any] = {**public, "httpx": httpx, **names, "__name__": "app"}
    result = types.FunctionType(code, namespace)()
    if inspect.isawaitable(result):
        await result
    return namespace


def on_network(source: str) -> str:
    """Give every `ATProtoOAuth` of a block a network, and a store that leaves no file."""
    changed = source.replace(f'"{URL}"', f'"{URL}", net_policy=network.policy(), store="memory://"')
    assert changed != source
    return changed


@dataclass
class Visit:
    network: Network
    browser: httpx.AsyncClient

    async def login(self, handle: str = "alice.test", **form: str) -> None:
        begun = await self.browser.post("/oauth/login", json={"identifier": handle, **form})
        back = await self.browser.get(self.network.approve(begun.json()["url"], handle))
        assert back.status_code == 303


@asynccontextmanager
async def visit(app: ASGIApp, network: Network) -> AsyncGenerator[Visit]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=URL) as browser:
        yield Visit(network, browser)


@asynccontextmanager
async def signed_in(
    **settings: Any,
) -> AsyncGenerator[tuple[ATProtoOAuth, Visit, dict[str, Any]]]:
    """Sign alice in to an app that keeps the last request it got in the third value."""
    network, last = Network(), dict[str, Any]()
    oauth = ATProtoOAuth(
        URL, store="memory://", scope=SCOPE, net_policy=network.policy(), **settings
    )

    async def app(scope: Any, receive: Any, send: Any) -> None:
        last["request"] = Request(scope, receive)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async with oauth, visit(ATProtoOAuthMiddleware(app, oauth=oauth), network) as here:
        await here.login()
        await here.browser.get("/")
        yield oauth, here, last
