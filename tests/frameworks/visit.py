"""Serve an app of docs/frameworks.md and visit it: `python -m tests.frameworks.visit FRAMEWORK`.

It prints what it was answered, as one JSON object; its test judges that.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import types

import httpx
import uvicorn
from starlette.types import ASGIApp

from atproto_oauth_asgi.testing import Network
from tests.frameworks.page import URL, block

#: What the page leaves to a project's own files: settings before, routes after.
BEFORE = {
    "Django": """
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"], MIDDLEWARE=["app.AnswerSignIn"], ROOT_URLCONF="app", SECRET_KEY="x"
)
"""
}
AFTER = {
    "Django": """
from django.urls import path

urlpatterns = [path("me", me)]
"""
}


def load(framework: str, network: Network) -> ASGIApp:
    """Run the app's source as a module, as a server does that is given its name."""
    source = block(framework).replace(
        f'"{URL}"', f'"{URL}", net_policy=network.policy(), store="memory://"'
    )
    module = types.ModuleType("app")
    sys.modules["app"] = module
    module.__dict__["network"] = network
    source = BEFORE.get(framework, "") + source + AFTER.get(framework, "")
    exec(compile(source, f"{framework}.py", "exec"), module.__dict__)  # noqa: S102  # our page
    app: ASGIApp = module.__dict__["app"]
    return app


def told(answer: httpx.Response) -> dict[str, object]:
    """Return what a browser, or a script of the page, goes by."""
    return {
        "status": answer.status_code,
        "types": answer.headers.get_list("content-type"),
        "location": answer.headers.get("location"),
        "cache": answer.headers.get("cache-control"),
        "text": answer.text,
    }


async def visit(network: Network, origin: str) -> dict[str, dict[str, object]]:
    """Come as nobody, sign in, read, and sign out."""
    headers = {"host": httpx.URL(URL).netloc.decode(), "accept": "application/json"}
    page = {"sec-fetch-mode": "navigate", "accept": "text/html"}
    own = {"origin": URL, "sec-fetch-site": "same-origin"}
    async with httpx.AsyncClient(
        base_url=origin, headers=headers, timeout=20, trust_env=False
    ) as browser:
        nobody = await browser.get("/me")
        nobody_page = await browser.get("/me", headers=page)
        begun = await browser.post("/oauth/login", json={"identifier": "alice.test"}, headers=own)
        back = httpx.URL(network.approve(begun.json()["url"], "alice.test"))
        callback = await browser.get(back.raw_path.decode(), headers=page)
        alice = await browser.get("/me")
        logout = await browser.post("/oauth/logout", json={}, headers=own)
        gone = await browser.get("/me")
    return {
        "nobody": told(nobody),
        "nobody's page": told(nobody_page),
        "callback": told(callback),
        "alice": told(alice),
        "logout": told(logout),
        "gone": told(gone),
    }


async def main(framework: str) -> None:
    network = Network()
    server = uvicorn.Server(
        uvicorn.Config(load(framework, network), lifespan="on", log_level="error")
    )
    # What comes before the app has started waits in the socket.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            async with asyncio.timeout(40):
                answers = await visit(network, f"http://127.0.0.1:{listening.getsockname()[1]}")
        finally:
            server.should_exit = True
            await serving
    print(json.dumps(answers))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
