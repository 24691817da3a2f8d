"""The canaries sing: a leak of each kind, in each place, is noticed."""

from __future__ import annotations

import base64
import json
import logging
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from joserfc.jwk import ECKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from atproto_oauth_asgi import ClientKeys
from atproto_oauth_asgi.attempt import new_state, new_verifier
from atproto_oauth_asgi.cookies import new_secret
from atproto_oauth_asgi.dpop import DPoPKey
from atproto_oauth_asgi.errors import ATProtoOAuthError, FetchError
from atproto_oauth_asgi.instrumentation import Event, Events
from atproto_oauth_asgi.net import Net, NetPolicy
from atproto_oauth_asgi.plugins import migrate_empty, open_store
from atproto_oauth_asgi.sealing import KeyRing
from atproto_oauth_asgi.store import OneTime
from tests.app.world import World, live_of, world
from tests.canaries import KINDS, PLACES, Canaries, own_canaries, unseen

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[1]


def private_d(key: DPoPKey) -> str:
    number = key._private.private_numbers().private_value  # pyright: ignore[reportPrivateUsage]
    return base64.urlsafe_b64encode(number.to_bytes(32, "big")).rstrip(b"=").decode()


async def make(kind: str, here: World) -> str:
    """Let a function of ours, or of the network, make a secret of a kind."""
    match kind:
        case "cookie":
            return new_secret()
        case "state":
            return new_state()
        case "PKCE verifier":
            return new_verifier()
        case "DPoP key":
            return private_d(DPoPKey.generate())
        case "client key" | "client assertion":
            key = ECKey.generate_key("P-256", {"kid": "one", "alg": "ES256"})
            document = key.as_dict(private=True)
            keys = ClientKeys(json.dumps({"keys": [document]}))
            if kind == "client key":
                return str(document["d"])
            return keys.assertion("one", "https://a.example/c", "https://b.example")
        case "sealing key":
            raw = bytes(range(90, 122))
            KeyRing([raw])
            return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
        case "code":
            back = await here.approved()
            return back.partition("code=")[2].partition("&")[0]
        case _:
            await here.login()
            async with here.oauth.session_for(here.did()) as session:
                tokens = live_of(session).tokens
            if kind == "access token":
                return tokens.access_token
            return tokens.refresh_token or ""


async def leak_log(secret: str, _tmp: Path) -> None:
    logging.getLogger("somebody.else").warning("sending %s", {"authorization": f"DPoP {secret}"})


async def leak_event(secret: str, _tmp: Path) -> None:
    Events().info("login.begun", did=f"x{secret}y")


async def leak_exception(secret: str, _tmp: Path) -> None:
    FetchError(f"The server did not like {secret}.")


async def leak_repr(secret: str, _tmp: Path) -> None:
    Event(name="login.begun", level=20, fields={"token": secret})


async def through_the_middleware(secret: str, header: str | None) -> None:
    async def page(_request: Request) -> Response:
        headers = {header: f"/next?x={secret}"} if header else None
        return PlainTextResponse("-" if header else f"<b>{secret}</b>", headers=headers)

    async with world(app=Starlette(routes=[Route("/leak", page)])) as here:
        await here.browser.get("/leak")


async def leak_page(secret: str, _tmp: Path) -> None:
    await through_the_middleware(secret, None)


async def leak_address(secret: str, _tmp: Path) -> None:
    await through_the_middleware(secret, "location")


async def leak_address_out(secret: str, _tmp: Path) -> None:
    net = Net(NetPolicy())
    try:
        with pytest.raises(ATProtoOAuthError):
            await net.get_json(f"https://127.0.0.1/?token={secret}", deadline=1.0)
    finally:
        await net.aclose()


def one_time(secret: str) -> OneTime:
    return OneTime(
        key_hash=b"h" * 32,
        kind="login",
        browser_hash=b"b" * 32,
        sealed=b"not sealed at all " + secret.encode(),
        lifetime_ms=1000,
    )


async def leak_statement(secret: str, tmp: Path) -> None:
    url = f"sqlite:///{tmp / 'leak.db'}"
    await migrate_empty(url)
    store = open_store(url)
    await store.open()
    await store.put(one_time(secret))
    await store.aclose()


async def leak_row(secret: str, _tmp: Path) -> None:
    await open_store("memory://").put(one_time(secret))


async def leak_file(secret: str, tmp: Path) -> None:
    from tests.canaries import current

    path = tmp / "dump.db"
    path.write_bytes(b"\x00\x01SQLite" + secret.encode() + b"\x00")
    current().look_at_file(path)
    # The end of the session must not find it again.
    path.unlink()


LEAKS: dict[str, Callable[[str, Path], Awaitable[None]]] = {
    "log": leak_log,
    "event": leak_event,
    "exception": leak_exception,
    "repr": leak_repr,
    "page": leak_page,
    "address": leak_address,
    "statement": leak_statement,
    "row": leak_row,
    "file": leak_file,
}


@pytest.mark.spec("P8")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_planted_leak_is_noticed_in_each_place(kind: str, tmp_path: Path) -> None:
    assert set(LEAKS) == set(PLACES)
    with own_canaries() as canaries:
        async with world() as here:
            secret = await make(kind, here)
            await here.settled()
        assert canaries.leaks == []
        for place, leak in LEAKS.items():
            canaries.leaks.clear()
            await leak(secret, tmp_path)
            assert (kind, place) in {(what, where) for what, where, _ in canaries.leaks}, place
        canaries.leaks.clear()
        await leak_address_out(secret, tmp_path)
        assert (kind, "address") in {(what, where) for what, where, _ in canaries.leaks}
    (tmp_path / "leak.db").unlink()


async def test_a_key_is_found_however_it_is_spelt() -> None:
    canaries = Canaries()
    raw = bytes(range(40, 72))
    canaries.add_key("DPoP key", raw)
    for data in (
        raw,
        b"\x30\x77\x02\x01\x01\x04\x20" + raw + b"\xa0",
        raw.hex().encode(),
        str(int.from_bytes(raw, "big")).encode(),
        base64.urlsafe_b64encode(raw),
    ):
        canaries.leaks.clear()
        canaries.look_at_bytes("row", b"before " + data + b" after")
        assert canaries.leaks, data


async def test_what_nobody_made_or_looked_at_is_said() -> None:
    canaries = Canaries()
    assert len(unseen(canaries)) == len(KINDS) + len(PLACES)
    canaries.add("code", "cod-" + "a" * 64)
    canaries.look("log", "nothing")
    assert len(unseen(canaries)) == len(KINDS) + len(PLACES) - 2
    assert canaries.leaks == []


async def test_a_secret_is_never_recorded_after_new_secret_was_called_by_name() -> None:
    # Functions that other modules imported by name are overheard there.
    with own_canaries() as canaries:
        new_secret()
        async with world() as here:
            await here.login()
        assert canaries.made["cookie"] >= 2


WORKER = """
import logging, sys
from tests.canaries import join
join()
from atproto_oauth_asgi.attempt import new_state
from atproto_oauth_asgi.cookies import new_secret
made = new_secret()
if sys.argv[1] == "logs":
    logging.getLogger("app").error("the cookie is %s", made)
elif sys.argv[1] == "prints":
    print(made, flush=True)
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("what", "leaks"),
    [("nothing", []), ("logs", [("cookie", "log")]), ("prints", [("cookie", "file")])],
)
def test_what_a_worker_lets_out_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, leaks: list[tuple[str, str]]
) -> None:
    notes, output = tmp_path / "notes", tmp_path / "worker.txt"
    notes.mkdir()
    monkeypatch.setenv("CANARIES", str(notes))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    with output.open("wb") as file, own_canaries() as canaries:
        subprocess.run([sys.executable, "-c", WORKER, what], check=False, stdout=file, cwd=ROOT)
        canaries.hear(notes)
        canaries.hear(notes)
        canaries.look_at_file(output)

    assert canaries.made_by_workers == {"cookie": 1}
    assert [(kind, place) for kind, place, _ in canaries.leaks] == leaks
