"""The pytest plugin, in runs of other people's tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Each starts Python anew, which takes its time on a busy machine.
pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]

APP = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from atproto_oauth_asgi import ATProtoOAuth, ATProtoOAuthMiddleware, session_from


async def me(request):
    return JSONResponse(await session_from(request).query("com.atproto.server.getSession"))


oauth = ATProtoOAuth("https://app.birdsong.dev", secret_keys=(b"k" * 32,), store="memory://")
app = Starlette(routes=[Route("/me", me)])
app.add_middleware(ATProtoOAuthMiddleware, oauth=oauth)
"""


def run(folder: Path, tests: str, *options: str, status: int = 0) -> str:
    (folder / "app.py").write_text(APP, encoding="utf-8")
    (folder / "test_app.py").write_text(tests, encoding="utf-8")
    clean = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", *options],
        cwd=folder,
        env=clean,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def test_a_run_that_does_not_ask_for_it_loads_nothing_of_ours(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "import sys\n"
        "def pytest_sessionfinish():\n"
        "    ours = [name for name in sys.modules if name.startswith('atproto')]\n"
        "    heavy = {'httpx', 'httpx2', 'starlette', 'sqlalchemy', 'joserfc', 'cryptography'}\n"
        "    print('\\nloaded', ours, sorted(heavy & set(sys.modules)))\n",
        encoding="utf-8",
    )
    said = run(tmp_path, "def test_other():\n    assert True\n", "-s")

    assert "loaded ['atproto_oauth_asgi_pytest'] []" in said


def test_it_loads_them_once_it_is_used(tmp_path: Path) -> None:
    tests = (
        "import sys\n"
        "def test_use(atproto_network):\n"
        "    assert 'atproto_oauth_asgi.testing' in sys.modules\n"
    )
    assert "1 passed" in run(tmp_path, tests)


def test_five_lines_of_a_module_level_app(tmp_path: Path) -> None:
    tests = """
from starlette.testclient import TestClient
from atproto_oauth_asgi.testing import login
from app import app, oauth

def test_me(atproto_network):
    atproto_network.attach(oauth)
    client = TestClient(app)
    login(client, "alice.test")
    assert client.get("/me").json()["handle"] == "alice.test"

def test_the_network_is_fresh_and_nothing_is_attached(atproto_network):
    assert atproto_network.sessions() == []
    assert not oauth.core.policy.apps
"""
    for order in ("random_order", "given_order"):
        options = ("-p", "no:randomly") if order == "given_order" else ()
        assert "2 passed" in run(tmp_path, tests, *options)


def test_it_serves_asynchronous_tests(tmp_path: Path) -> None:
    tests = """
import httpx, pytest
from atproto_oauth_asgi.testing import login, sign_out
from app import app, oauth

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.fixture
async def client(atproto_network):
    atproto_network.attach(oauth)
    async with oauth, httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        yield client

@pytest.mark.anyio
async def test_me(client):
    await login(client, "alice.test")
    assert (await client.get("/me")).json()["handle"] == "alice.test"
"""
    assert "1 passed" in run(tmp_path, tests)


def test_what_signed_in_changed_is_put_back_after_the_test(tmp_path: Path) -> None:
    tests = """
from starlette.testclient import TestClient
from atproto_oauth_asgi.testing import signed_in
from app import app, oauth

before = oauth.core

def test_signed_in():
    signed_in(TestClient(app), did="did:plc:ewvi7nxzyoun6zhxrhs64oiz")
    assert oauth.core is not before
    assert FAILS is None

def test_after():
    assert oauth.core is before
"""
    passing = tests.replace("FAILS", "None")
    assert "2 passed" in run(tmp_path, passing, "-p", "no:randomly")
    failing = tests.replace("FAILS", "1")
    assert "1 failed, 1 passed" in run(tmp_path, failing, "-p", "no:randomly", status=1)


def test_importing_the_library_does_not_load_the_kit() -> None:
    program = (
        "import sys, atproto_oauth_asgi\n"
        "print([name for name in sys.modules if 'testing' in name and 'atproto' in name])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"
