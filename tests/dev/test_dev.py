"""`atproto-oauth-asgi dev`, in processes of its own."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import socket
import sys
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from atproto_oauth_asgi import dev_cli
from atproto_oauth_asgi.cli import main
from atproto_oauth_asgi.testing.dev_app import CannotLoad, Source, load
from tests.dev.process import dev, start
from tests.smoke.dev import sign_in

# Processes take their time on a busy machine.
pytestmark = pytest.mark.timeout(600)

APP = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from atproto_oauth_asgi import ATProtoOAuth, ATProtoOAuthMiddleware, session_from

async def me(request):
    session = session_from(request)
    return JSONResponse({"version": 1, **await session.query("com.atproto.server.getSession")})

async def home(request):
    return JSONResponse("home")

oauth = OAUTH
app = Starlette(routes=[Route("/", home), Route("/api/me", me)])
app.add_middleware(ATProtoOAuthMiddleware, oauth=oauth)

def make():
    return app

nothing = None
"""
FROM_ENV = "ATProtoOAuth.from_env()"

SOURCE = Source(name="", factory=False, folder="", url="http://127.0.0.1:8000")
ENVIRONMENT = {
    "ATPROTO_OAUTH_PLC_URL": "http://localhost:1",
    "ATPROTO_OAUTH_HANDLE_RESOLVER_URL": "http://localhost:2",
}


@pytest.fixture(autouse=True)
def modules() -> Generator[None]:
    """Forget the apps that a test has loaded in this process."""
    before, path = set(sys.modules), [*sys.path]
    yield
    sys.path[:] = path
    for name in {"myapp", "thatapp"} - before:
        sys.modules.pop(name, None)
    logger = logging.getLogger("atproto_oauth_asgi")
    logger.propagate = True
    logger.handlers.clear()


def write(folder: Path, oauth: str = FROM_ENV) -> Path:
    (folder / "site.db").unlink(missing_ok=True)
    (folder / "myapp.py").write_text(APP.replace("OAUTH", oauth, 1), encoding="utf-8")
    return folder


@contextlib.contextmanager
def browser() -> Generator[httpx.Client]:
    with httpx.Client(follow_redirects=True, trust_env=False, timeout=60) as client:
        yield client


@pytest.mark.parametrize(
    ("reload", "end"), [(False, signal.SIGINT), (False, signal.SIGTERM), (True, signal.SIGTERM)]
)
def test_the_app_is_served_with_accounts_that_can_sign_in(
    reload: bool, end: signal.Signals, tmp_path: Path
) -> None:
    options = ["--reload"] if reload else []
    with (
        dev(write(tmp_path), "myapp:app", "--port", "0", *options) as here,
        browser() as client,
    ):
        for handle, password in here.accounts:
            sign_in(client, here.url, handle, password)
            assert client.get(f"{here.url}/api/me").json()["handle"] == handle
        started = time.monotonic()
        errors = here.stop(end)
        took = time.monotonic() - started
        left = here.left_behind()

    assert [handle for handle, _ in here.accounts] == ["alice.test", "bob.test"]
    assert here.process.returncode == 0
    assert "Traceback" not in errors
    assert left == []
    assert took < 60


def test_sessions_survive_a_reload_of_the_app(tmp_path: Path) -> None:
    with (
        dev(write(tmp_path), "myapp:app", "--port", "0", "--reload") as here,
        browser() as client,
    ):
        sign_in(client, here.url, *here.accounts[0])
        first = client.get(f"{here.url}/api/me").json()
        source = (tmp_path / "myapp.py").read_text(encoding="utf-8")
        (tmp_path / "myapp.py").write_text(source.replace('"version": 1', '"version": 2'))
        second = first
        for _ in range(1200):
            if second["version"] == 2:
                break
            time.sleep(0.1)
            # While nobody accepts it waits in the socket, which outlives the app.
            second = client.get(f"{here.url}/api/me").json()
        errors = here.stop(signal.SIGINT)

    assert (first["version"], second["version"]) == (1, 2)
    assert second["handle"] == "alice.test"
    assert "Traceback" not in errors


def test_a_factory_and_another_folder(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    options = ["--factory", "--port", "0", "--app-dir", str(write(tmp_path))]
    with dev(elsewhere, "myapp:make", *options) as here, browser() as client:
        assert client.get(here.url).json() == "home"


def test_an_app_that_does_not_read_the_environment(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = write(tmp_path, f'ATProtoOAuth("http://127.0.0.1:{port}")')
    with dev(folder, "myapp:app", "--port", str(port)) as here, browser() as client:
        sign_in(client, here.url, *here.accounts[0])
        assert client.get(f"{here.url}/api/me").json()["handle"] == "alice.test"


def test_it_listens_on_this_machine_alone(tmp_path: Path) -> None:
    with dev(write(tmp_path), "myapp:app", "--port", "0") as here:
        found = listening(here.process.pid)

    assert len(found) >= 3
    assert {address for address, _ in found} <= {"127.0.0.1", "::1"}


def listening(pid: int) -> set[tuple[str, int]]:
    """Return the addresses on which a process listens, as the kernel says."""
    inodes = set[str]()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.update(re.findall(r"socket:\[(\d+)\]", str(link.readlink())))
    found: set[tuple[str, int]] = set()
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{name}").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                packed, port = fields[1].split(":")
                words = [
                    bytes.fromhex(packed[at : at + 8])[::-1] for at in range(0, len(packed), 8)
                ]
                found.add((socket.inet_ntop(family, b"".join(words)), int(port, 16)))
    return found


def refusal(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    process = start(folder, *arguments, **environment)
    said, errors = process.communicate(timeout=120)
    assert said == ""
    return process.returncode, errors


def test_what_cannot_be_served_is_one_sentence(tmp_path: Path) -> None:
    code, errors = refusal(write(tmp_path), "myapp:missing", "--port", "0")

    assert code == 1
    assert re.fullmatch("The module myapp has no 'missing'; .*\n", errors)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("thatapp", "'thatapp' names no app; write module and attribute"),
        ("nowhere:app", "There is no module nowhere in "),
        ("nowhere.below:app", "There is no module nowhere in "),
        ("thatapp:app.missing", "The module thatapp has no 'app.missing'; name the attribute"),
        ("thatapp:nothing", "thatapp:nothing is no ASGI app"),
        ("thatapp:make", "thatapp:make takes no request; if it makes the app, add --factory."),
    ],
)
def test_what_cannot_be_loaded(name: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "thatapp.py").write_text("app = print\nnothing = None\ndef make(): ...\n")
    with pytest.raises(CannotLoad) as refused:
        load(replace(SOURCE, name=name, folder=str(tmp_path)), ENVIRONMENT)

    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["app:app", "--host", "0.0.0.0"], "--host is 0.0.0.0, but the development network"),
        (["app:app", "--host", "192.168.1.2"], "--host is 192.168.1.2, but"),
        (["app:app", "--port", "65536"], "--port is 65536, which is no port"),
        (["--reload"], "--factory and --reload need the name of an app"),
    ],
)
def test_what_is_called_wrongly(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dev", *arguments]) == 2
    assert capsys.readouterr().err.startswith(sentence)


HTTPS = "https://app.birdsong.dev"


@pytest.mark.parametrize(
    ("oauth", "sentence"),
    [
        (
            f'ATProtoOAuth("{HTTPS}", secret_keys=(b"k" * 32,))',
            (
                f"BASE_URL is {HTTPS}, but the development network is for apps on this machine"
                " only; set ATPROTO_OAUTH_BASE_URL=http://127.0.0.1:8000 while you develop."
            ),
        ),
        (
            'ATProtoOAuth("http://127.0.0.1:1", store="memory://")',
            (
                "BASE_URL is http://127.0.0.1:1, but the app is about to be served at"
                " http://127.0.0.1:8000, where its cookies and redirects would not work; leave"
                " BASE_URL to this command, or choose --port 1."
            ),
        ),
        (
            f'ATProtoOAuth("{HTTPS}", secret_keys=(b"k" * 32,), allow_insecure_loopback=True)',
            (
                "ALLOW_INSECURE_LOOPBACK is set although BASE_URL is https; unset it, because it is"
                " for development on this machine only."
            ),
        ),
    ],
)
def test_an_app_with_a_base_url_that_is_not_served_here(
    oauth: str, sentence: str, tmp_path: Path
) -> None:
    write(tmp_path, oauth)
    with pytest.raises(CannotLoad) as refused:
        load(replace(SOURCE, name="myapp:app", folder=str(tmp_path)), ENVIRONMENT)

    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("base_url", "arguments", "sentence"),
    [
        (HTTPS, [], f"ATPROTO_OAUTH_BASE_URL is {HTTPS}, but the development network is for apps"),
        (
            "http://127.0.0.1:1",
            ["--port", "2"],
            "ATPROTO_OAUTH_BASE_URL is http://127.0.0.1:1, and --port is 2; keep one of them.",
        ),
        ("http://localhost:1", [], "BASE_URL may not name localhost"),
    ],
)
def test_an_environment_with_a_base_url_that_is_not_served_here(
    base_url: str,
    arguments: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ATPROTO_OAUTH_BASE_URL", base_url)

    assert main(["dev", "myapp:app", *arguments]) == 1
    assert capsys.readouterr().err.startswith(sentence)


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, errors = refusal(write(tmp_path), "myapp:app", "--port", port)

    assert code == 1
    assert re.fullmatch(rf"Port {port} cannot be used \(.*\); .*--port \d+\.\n", errors)


def test_without_uvicorn_it_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing(_name: str) -> None:
        return None

    monkeypatch.setattr(dev_cli, "find_spec", nothing)

    assert main(["dev", "app:app"]) == 1
    assert capsys.readouterr().err == (
        "Serving needs uvicorn; install it with: pip install 'atproto-oauth-asgi[dev]'\n"
    )
