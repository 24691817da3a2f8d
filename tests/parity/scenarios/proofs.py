"""DPoP proofs and nonces, at the authorization server and at the PDS."""

from __future__ import annotations

import secrets

from tests.network.walker import Key
from tests.parity.client import Client
from tests.parity.scenario import Rows, scenario
from tests.parity.world import World

NSID = "com.atproto.server.getSession"


async def _client(world: World) -> Client:
    return Client(world, await world.account("alice.test"))


@scenario(
    "pds getSession (first try)",
    "pds getSession",
    "pds createRecord",
    "pds wrong nonce",
    "pds no nonce",
    "pds other DPoP key",
    "pds Bearer scheme w/ DPoP token",
    "pds no proof",
    "pds wrong ath",
    "pds no ath",
    "pds wrong htm",
    "pds wrong htu",
    "pds htu with query",
    "pds iat -1h",
    "pds iat -150s (within 190 s tolerance?)",
    "pds iat +150s",
    "pds iat +1h",
    "pds no iat",
    "pds no jti",
    "pds jti replay 1",
    "pds jti replay 2",
    "pds tampered token",
    "pds no auth",
    "pds garbage proof",
    "pds query in the URL",
    "pds unknown method",
)
async def pds_proofs(world: World, row: Rows) -> None:
    client = await _client(world)
    token = (await client.grant()).access

    async def call(name: str, **claims: object) -> None:
        row.answer(name, await client.xrpc(NSID, token, claims=claims))

    await call("pds getSession (first try)", nonce=None)
    await call("pds getSession")
    row.answer("pds createRecord", await client.create_record(token))
    await call("pds wrong nonce", nonce="x")
    await call("pds no nonce", nonce=None)
    row.answer("pds other DPoP key", await client.xrpc(NSID, token, key=Key()))
    bearer = await client.xrpc(NSID, token, scheme="Bearer")
    row.answer("pds Bearer scheme w/ DPoP token", bearer)
    row.answer("pds no proof", await client.xrpc(NSID, token, dpop=None))
    await call("pds wrong ath", ath="x")
    await call("pds no ath", ath=None)
    await call("pds wrong htm", htm="POST")
    await call("pds wrong htu", htu=f"{world.pds}/other")
    await call("pds htu with query", htu=f"{world.pds}/xrpc/{NSID}?a=b")
    now = int(world.now())
    await call("pds iat -1h", iat=now - 3600)
    await call("pds iat -150s (within 190 s tolerance?)", iat=now - 150)
    await call("pds iat +150s", iat=now + 150)
    await call("pds iat +1h", iat=now + 3600)
    await call("pds no iat", iat=None)
    await call("pds no jti", jti=None)
    once = secrets.token_urlsafe(8)
    await call("pds jti replay 1", jti=once)
    await call("pds jti replay 2", jti=once)
    tampered = await client.xrpc(NSID, token[:-4] + "AAAA")
    row.answer("pds tampered token", tampered)
    row.answer("pds no auth", await world.http.get(f"{world.pds}/xrpc/{NSID}"))
    row.answer("pds garbage proof", await client.xrpc(NSID, token, dpop="garbage"))
    row.answer("pds query in the URL", await client.xrpc(NSID, token, query={"a": "b"}))
    row.answer("pds unknown method", await client.xrpc("com.example.unknown", token))


@scenario(
    "as wrong nonce",
    "as no nonce",
    "as wrong htu",
    "as htu with query",
    "as wrong htm",
    "as stale iat",
    "as ath not allowed",
    "as jti replay",
    "as token without DPoP",
    "as token garbage DPoP",
    "as bad grant_type",
    "as no grant_type",
    "as client_credentials",
    "trap 10: what a nonce challenge looks like at the server and at the PDS",
    "trap 10: a nonce comes with every answer",
    "a nonce of the server is good at the PDS",
)
async def server_proofs(world: World, row: Rows) -> None:
    client = await _client(world)
    grant = await client.grant()
    form = {"grant_type": "refresh_token", "refresh_token": grant.refresh}

    async def send(name: str, **claims: object) -> None:
        row.answer(name, await client.post("/oauth/token", form, claims=claims))

    await send("as wrong nonce", nonce="x")
    await send("as no nonce", nonce=None)
    await send("as wrong htu", htu=f"{world.issuer}/other")
    query = {"htu": f"{world.issuer}/oauth/revoke?a=b"}
    loose = await client.post("/oauth/revoke", {"token": "x"}, claims=query)
    row.answer("as htu with query", loose)
    await send("as wrong htm", htm="GET")
    await send("as stale iat", iat=int(world.now()) - 3600)
    await send("as ath not allowed", ath="x")
    once = secrets.token_urlsafe(8)
    await client.post("/oauth/revoke", {"token": "x"}, claims={"jti": once})
    await send("as jti replay", jti=once)
    row.answer("as token without DPoP", await client.post("/oauth/token", form, dpop=None))
    row.answer("as token garbage DPoP", await client.post("/oauth/token", form, dpop="garbage"))
    row.answer("as bad grant_type", await client.post("/oauth/token", {"grant_type": "password"}))
    row.answer("as no grant_type", await client.post("/oauth/token", {}))
    machine = await client.post("/oauth/token", {"grant_type": "client_credentials"})
    row.answer("as client_credentials", machine)
    at_server = await client.post("/oauth/token", form, claims={"nonce": None})
    at_pds = await client.xrpc(NSID, grant.access, claims={"nonce": None})
    row.effect(
        "trap 10: what a nonce challenge looks like at the server and at the PDS",
        server=[at_server.status_code, sorted(at_server.json())],
        pds=[at_pds.status_code, sorted(at_pds.json())],
        server_header="www-authenticate" in at_server.headers,
        pds_header='error="use_dpop_nonce"' in at_pds.headers["www-authenticate"],
    )
    answers = [await client.par(), await grant.renew(), await client.revoke("x")]
    calls = [await grant.session(), await client.create_record(grant.access)]
    row.effect(
        "trap 10: a nonce comes with every answer",
        nonces=["dpop-nonce" in answer.headers for answer in (*answers, *calls)],
    )
    await client.par()
    fresh = await client.xrpc(NSID, grant.access, claims={"nonce": client.nonce})
    row.answer("a nonce of the server is good at the PDS", fresh)
