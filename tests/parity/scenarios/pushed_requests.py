"""PAR: what is accepted and what is refused."""

from __future__ import annotations

from tests.parity.client import Client
from tests.parity.scenario import Rows, scenario
from tests.parity.world import World

_FIELDS: dict[str, dict[str, str | None]] = {
    "par no state": {"state": None},
    "par bad scope (not declared)": {"scope": "atproto transition:email"},
    "par no atproto": {"scope": "transition:generic"},
    "par plain": {"code_challenge_method": "plain"},
    "par no pkce": {"code_challenge": None, "code_challenge_method": None},
    "par other redirect_uri": {"redirect_uri": "http://127.0.0.1:1/other"},
    "par localhost redirect_uri": {"redirect_uri": "http://localhost:1/callback"},
    "par response_type token": {"response_type": "token"},
    "par bad prompt": {"prompt": "login consent"},
    "par bad login_hint": {"login_hint": "not a handle"},
    "par unknown login_hint": {"login_hint": "nobody.test"},
    "par did login_hint": {"login_hint": "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"},
    "par nonce param": {"nonce": "n"},
    "par prompt none (public)": {"prompt": "none"},
    "par resource param": {"resource": "https://pds.example"},
    "par bad response_mode": {"response_mode": "web_message"},
    "par unknown param": {"colour": "green"},
    "par without response_type": {"response_type": None},
    "par without redirect_uri": {"redirect_uri": None},
    "par without scope": {"scope": None},
    "par challenge of 42 characters": {"code_challenge": "a" * 42},
    "par challenge without method": {"code_challenge_method": None},
    "par dpop_jkt of another key": {"dpop_jkt": "a" * 43},
    "par port of the loopback redirect_uri": {"redirect_uri": "http://127.0.0.1:8123/callback"},
    "par request_uri in par": {"request_uri": "urn:ietf:params:oauth:request_uri:req-" + "0" * 32},
    "par scope with two spaces": {"scope": "atproto  transition:generic"},
}


@scenario("par ok (first try)", "par ok", *_FIELDS, "par without DPoP", "par GET")
async def pushed_requests(world: World, row: Rows) -> None:
    client = Client(world, await world.account("alice.test"))
    client.verifier = "v" * 64
    claims = {"nonce": None}
    row.answer(
        "par ok (first try)", await client.post("/oauth/par", client.request_form(), claims=claims)
    )
    row.answer("par ok", await client.par())
    for name, fields in _FIELDS.items():
        row.answer(name, await client.par(**fields))
    row.answer("par without DPoP", await client.par(dpop=None))
    row.answer("par GET", await world.http.get(client.url("/oauth/par")))


_LOOPBACK_IDS = {
    "loopback client with a path": "http://localhost/client-metadata.json",
    "loopback client with a port": "http://localhost:8000",
    "loopback client without the atproto scope": "http://localhost?scope=transition%3Ageneric",
    "loopback client with a localhost redirect": (
        "http://localhost?redirect_uri=http%3A%2F%2Flocalhost%2Fcallback"
    ),
    "loopback client with another loopback address": (
        "http://localhost?redirect_uri=http%3A%2F%2F127.0.0.2%2Fcallback"
    ),
    "loopback client with an unknown parameter": "http://localhost?colour=green",
    "loopback client with two scopes": "http://localhost?scope=atproto&scope=atproto",
    "loopback client with a fragment": "http://localhost?scope=atproto#x",
}


@scenario(*_LOOPBACK_IDS)
async def loopback_client_ids(world: World, row: Rows) -> None:
    for name, client_id in _LOOPBACK_IDS.items():
        client = Client(world, await world.account("alice.test"), client_id=client_id)
        row.answer(name, await client.par())


@scenario("par JSON body", "par invalid JSON", "par other content type", "par repeated parameter")
async def bodies(world: World, row: Rows) -> None:
    client = Client(world, await world.account("alice.test"))
    await client.par()
    url = client.url("/oauth/par")
    form = {**client.request_form(), "client_id": client.client_id}

    async def send(name: str, content: bytes | str, kind: str) -> None:
        headers = {"dpop": client.proof("POST", url), "content-type": kind}
        row.answer(name, await world.http.post(url, content=content, headers=headers))

    sent = await world.http.post(url, json=form, headers={"dpop": client.proof("POST", url)})
    row.answer("par JSON body", sent)
    await send("par invalid JSON", b"{", "application/json")
    await send("par other content type", b"a=b", "text/plain")
    headers = {"dpop": client.proof("POST", url)}
    repeated = {**form, "scope": ["atproto", "atproto"]}
    row.answer("par repeated parameter", await world.http.post(url, data=repeated, headers=headers))
