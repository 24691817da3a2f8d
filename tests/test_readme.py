"""Every block of the README runs; a block that nobody claims fails the last test."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
import types
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

import atproto_oauth_asgi
from atproto_oauth_asgi import ATProtoOAuth, ATProtoOAuthError, ATProtoOAuthMiddleware
from atproto_oauth_asgi.environment import SETTINGS
from atproto_oauth_asgi.errors import (
    AddressRefused,
    CrossSiteRefused,
    FetchError,
    LoginError,
    NotAuthenticated,
    RequestError,
    ResolutionError,
    WrongHost,
)
from atproto_oauth_asgi.metadata import METADATA_PATH
from atproto_oauth_asgi.testing import Network
from tests.readme_blocks import (
    BLOCKS,
    CLAIMED,
    FIRST,
    README,
    ROOT,
    URL,
    claim,
    on_network,
    run,
    signed_in,
    visit,
)

pytestmark = pytest.mark.anyio

EXAMPLE = claim(*FIRST)


def test_the_example_is_short_and_comes_after_one_sentence() -> None:
    before = README[: README.index("```python")].strip().split("\n\n")

    assert len(before) == 2
    assert before[1].count(".") == 1
    assert len(EXAMPLE.rstrip().splitlines()) <= 15


def test_the_example_starts_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(EXAMPLE, encoding="utf-8")
    clean = {name: text for name, text in os.environ.items() if "ATPROTO" not in name}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = subprocess.Popen(
            [sys.executable, "-m", *START.split(), "--fd", str(listening.fileno())],
            cwd=tmp_path,
            env=clean,
            pass_fds=[listening.fileno()],
            stderr=subprocess.PIPE,
        )
        try:
            port = listening.getsockname()[1]
            # The first request waits in the socket until the app has started.
            answer = httpx.get(
                f"http://127.0.0.1:{port}/",
                headers={"accept": "text/html", "host": "127.0.0.1:8000"},
                timeout=30,
                trust_env=False,
            )
            page = httpx.get(
                f"http://127.0.0.1:{port}/oauth/login",
                headers={"host": "127.0.0.1:8000"},
                trust_env=False,
            )
        finally:
            process.terminate()
            process.communicate(timeout=20)

    assert answer.status_code == 303
    assert answer.headers["location"].startswith(f"{URL}/oauth/login?next=")
    assert page.status_code == 200
    assert "<form" in page.text


async def test_the_example_greets_who_signed_in() -> None:
    network = Network()
    names = await run(on_network(EXAMPLE), network=network)
    async with names["oauth"], visit(names["app"], network) as here:
        await here.login()
        answer = await here.browser.get("/")

    assert answer.text == "Hello alice.test, your data lives at https://pds.example"


INSTALL, START = claim(FIRST[0], "sh").splitlines()


def test_what_is_installed_is_this_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert INSTALL == f"pip install {project['name']} uvicorn"
    assert START == "uvicorn app:app"


ENVIRONMENT = claim("Production", "ini")
FROM_ENV = claim("Production", "python")
COMMANDS = claim("Production", "sh")


async def test_production_is_set_up_by_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = ENVIRONMENT.replace("/run/secrets", str(tmp_path))
    text = text.replace("/var/lib/birdsong", str(tmp_path))
    variables = dict(line.split("=", 1) for line in text.splitlines())
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    scripts = str(Path(sys.executable).parent)
    shell = shutil.which("sh")
    assert shell is not None
    await anyio.run_process(
        [shell, "-euc", COMMANDS],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}"},
    )
    oauth = (await run(FROM_ENV))["oauth"]
    network = Network()
    async with oauth, visit(ATProtoOAuthMiddleware(Starlette(), oauth=oauth), network) as here:
        metadata = (await here.browser.get(f"https://app.birdsong.dev{METADATA_PATH}")).json()

    assert metadata["client_name"] == "Birdsong"
    assert metadata["token_endpoint_auth_method"] == "private_key_jwt"
    assert (tmp_path / "sessions.db").exists()


CALLS = claim("Calling the PDS", "python")


async def test_calls_reach_the_pds() -> None:
    async with signed_in() as (_, here, last):
        session = last["request"].scope["state"]["atproto_oauth"]
        apps = here.network.policy().apps

        class Client(httpx.AsyncClient):
            """Reaches the network in process, as the session's own client does."""

            def __init__(self, auth: httpx.Auth) -> None:
                super().__init__(auth=auth, transport=httpx.ASGITransport(apps[session.pds]))

        library = types.SimpleNamespace(AsyncClient=Client)
        names = await run(CALLS, session=session, httpx=library)

    assert names["post"]["uri"].startswith(f"at://{session.did}/")
    assert [record["value"]["text"] for record in names["posts"]["records"]] == ["Hello"]
    assert names["picture"]["blob"]["mimeType"] == "image/png"
    assert names["answer"].json()["handle"] == "alice.test"


FASTAPI = claim("FastAPI", "python")


async def test_fastapi() -> None:
    network = Network()
    names = await run(on_network(FASTAPI), network=network)
    async with names["oauth"], visit(names["app"], network) as here:
        anonymous = await here.browser.get("/me")
        await here.login()
        me = await here.browser.get("/me")
        may = await here.browser.get("/may-post")

    assert anonymous.status_code == 401
    assert me.json()["handle"] == "alice.test"
    assert may.json() == f"{network.account('alice.test').did} may"


RAW = claim("Any ASGI app", "python")


async def test_any_asgi_app() -> None:
    network = Network()
    names = await run(on_network(RAW), network=network)
    app = names["app"]
    async with app.oauth, visit(app, network) as here:
        stranger = await here.browser.get("/")
        await here.login()
        known = await here.browser.get("/")

    assert stranger.text == "Hello stranger"
    assert known.text == f"Hello {network.account('alice.test').did}"


SOCKET = claim("WebSockets", "python")


async def test_websockets() -> None:
    endpoint = (await run(SOCKET, WebSocket=WebSocket))["socket"]
    async with signed_in() as (oauth, here, _):
        app = Starlette(routes=[WebSocketRoute("/", endpoint)])
        app.add_middleware(ATProtoOAuthMiddleware, oauth=oauth)
        cookie = "; ".join(f"{name}={value}" for name, value in here.browser.cookies.items())

        with (
            TestClient(app, base_url=URL, headers={"cookie": cookie}) as client,
            client.websocket_connect("/") as socket,
        ):
            socket.send_text("who?")
            answer = socket.receive_json()
        with (
            TestClient(app, base_url=URL) as client,
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect("/"),
        ):
            pytest.fail("the handshake of a stranger was accepted")

    assert answer["handle"] == "alice.test"


ON_LOGIN = claim("When somebody logs in", "python")


async def test_on_login_admits_and_refuses() -> None:
    network = Network()
    users: dict[str, str] = {}
    banned = {network.account("bob.test").did}
    source = on_network(ON_LOGIN)
    oauth = (await run(source, network=network, users=users, banned=banned))["oauth"]
    async with oauth, visit(ATProtoOAuthMiddleware(Starlette(), oauth=oauth), network) as here:
        await here.login()
        begun = await here.browser.post("/oauth/login", json={"identifier": "bob.test"})
        refused = await here.browser.get(network.approve(begun.json()["url"], "bob.test"))

    assert users == {network.account("alice.test").did: "alice.test"}
    assert refused.status_code == 403
    assert "This account is closed." in refused.text


FORM = claim("When somebody logs in", "html")


class _Form(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.form: dict[str, str | None] = {}
        self.fields: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "form":
            self.form = found
        elif name := found.get("name"):
            self.fields[name] = found.get("value") or ""


async def test_the_form_starts_a_login() -> None:
    parser = _Form()
    parser.feed(FORM)
    async with signed_in() as (_, here, _last):
        begun = await here.browser.request(
            str(parser.form["method"]).upper(),
            str(parser.form["action"]),
            data={**parser.fields, "identifier": "bob.test"},
            headers={"origin": URL},
        )
        back = await here.browser.get(here.network.approve(begun.headers["location"], "bob.test"))

    assert back.headers["location"] == f"{URL}/inbox"


ACCOUNTS = claim("Several accounts", "python")


async def test_several_accounts() -> None:
    async with signed_in() as (oauth, here, last):
        await here.login("bob.test", add="1")
        await here.browser.get("/")
        names = await run(ACCOUNTS, oauth=oauth, request=last["request"])
        now = (await here.browser.get("/oauth/session")).json()

    assert names["add_another"] == f"{URL}/oauth/login?next=%2F&add=1"
    assert [account.handle for account in names["accounts"]] == ["bob.test", "alice.test"]
    assert now["handle"] == "alice.test"


JOB = claim("Jobs", "python")


async def test_jobs() -> None:
    async with signed_in() as (oauth, here, _):
        names = await run(JOB, oauth=oauth, did=here.network.account("alice.test").did)

    assert names["session"].handle == "alice.test"


ANSWER = json.loads(claim("Errors", "json"))


async def test_an_error_left_alone_looks_like_this() -> None:
    oauth = ATProtoOAuth("https://app.birdsong.dev", store="memory://")

    async def app(scope: Any, receive: Any, _send: Any) -> None:
        atproto_oauth_asgi.session_from(Request(scope, receive))

    async with oauth, visit(ATProtoOAuthMiddleware(app, oauth=oauth), Network()) as here:
        answer = await here.browser.get("/api")

    assert answer.status_code == NotAuthenticated.status
    assert answer.json() == ANSWER


def _tree(kind: type[ATProtoOAuthError]) -> set[type[ATProtoOAuthError]]:
    below: set[type[ATProtoOAuthError]] = set()
    for each in kind.__subclasses__():
        below |= {each, *_tree(each)}
    return below


def test_the_table_of_errors_is_right_and_whole() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d{3}) \|", README, re.MULTILINE)
    known = {(kind.code, str(kind.status)) for kind in _tree(ATProtoOAuthError)}
    met = {*_tree(LoginError), *_tree(ResolutionError), *_tree(RequestError)}
    met |= {AddressRefused, CrossSiteRefused, WrongHost}
    met -= {FetchError, LoginError, ResolutionError}

    assert set(rows) <= known
    assert {kind.code for kind in met} <= {code for code, _ in rows}


def test_the_table_of_settings_is_right_and_whole() -> None:
    section = README[README.index("## Settings") : README.index("## Security")]
    first_cells = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)

    assert set(re.findall(r"`(\w+)`", " ".join(first_cells))) == {name.upper() for name in SETTINGS}


TESTING = claim("Testing your app", "python")


def test_the_test_for_your_app_passes(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(EXAMPLE, encoding="utf-8")
    (tmp_path / "test_app.py").write_text(TESTING, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error"],
        cwd=tmp_path,
        env={name: text for name, text in os.environ.items() if not name.startswith("PYTEST")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    written = TESTING[TESTING.index("def test_") :].strip().splitlines()

    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert len(written) == 5


DEVELOPMENT = claim("Working on it", "sh")


def test_the_commands_for_developers_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split()
    demo = (ROOT / "examples/demo/__main__.py").read_text(encoding="utf-8")
    for line in DEVELOPMENT.splitlines():
        variable, network, target = re.fullmatch(
            r"(?:(NETWORK)=(\w+) )?make (\w+) +# .+", line
        ).groups()  # type: ignore[union-attr]  # a line of another form is a failure
        assert target in targets
        assert variable is None or f'"{network}": {network}' in demo


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).is_file(), target


def test_every_block_is_claimed() -> None:
    assert set(BLOCKS) == CLAIMED
    assert README.count("\n```") == 2 * len(BLOCKS)
