"""How a confidential client proves itself, and the keys it does it with."""

from __future__ import annotations

import secrets

import httpx

from tests.network.walker import JSON, Key
from tests.parity.client import Client, confidential
from tests.parity.scenario import Rows, scenario
from tests.parity.site import ClientFolder
from tests.parity.world import World


async def _client(world: World, *published: Key) -> tuple[Client, ClientFolder]:
    folder = world.site.folder(*published)
    alice = await world.account("alice.test")
    return confidential(world, alice, folder, published[0]), folder


async def _push(client: Client, **assertion: object) -> httpx.Response:
    return await client.post("/oauth/par", client.request_form(), assertion=assertion)


@scenario(
    "conf par ok",
    "conf token ok",
    "conf getSession",
    "conf refresh ok",
    "conf: no assertion",
    "conf: dpop key == client key",
    "conf: revoke",
    "conf: session after revoke",
)
async def confidential_login(world: World, row: Rows) -> None:
    client, _ = await _client(world, Key("k1"))
    row.answer("conf par ok", await client.par())
    tokens = row.answer("conf token ok", await client.exchange(await client.code())).json()
    row.answer("conf getSession", await client.get_session(tokens["access_token"]))
    tokens = row.answer("conf refresh ok", await client.refresh(tokens["refresh_token"])).json()
    row.answer("conf: revoke", await client.revoke(tokens["refresh_token"]))
    row.answer("conf: session after revoke", await client.get_session(tokens["access_token"]))
    client.key, own = client.client_key or client.key, client.key
    row.answer("conf: dpop key == client key", await client.par())
    client.key, client.client_key = own, None
    row.answer("conf: no assertion", await client.par())


@scenario(
    "assertion aud=token endpoint",
    "assertion wrong aud",
    "assertion wrong sub",
    "assertion wrong iss",
    "assertion iat -5min",
    "assertion iat +5min",
    "assertion expired",
    "assertion exp +1h",
    "assertion without exp",
    "assertion without iat",
    "assertion without jti",
    "assertion without aud",
    "assertion aud list",
    "assertion jti 1",
    "assertion jti reused",
    "assertion unknown key",
    "assertion unknown kid",
    "assertion without kid",
    "assertion of another type",
    "assertion without its type",
    "assertion garbage",
)
async def assertions(world: World, row: Rows) -> None:
    client, _ = await _client(world, Key("k1"))
    await client.par()
    now = int(world.now())
    wrong: dict[str, JSON] = {
        "assertion aud=token endpoint": {"aud": f"{world.issuer}/oauth/token"},
        "assertion wrong aud": {"aud": "https://other.example"},
        "assertion wrong sub": {"sub": "x"},
        "assertion wrong iss": {"iss": "x"},
        "assertion iat -5min": {"iat": now - 300},
        "assertion iat +5min": {"iat": now + 300, "exp": now + 400},
        "assertion expired": {"exp": now - 5},
        "assertion exp +1h": {"exp": now + 3600},
        "assertion without exp": {"exp": None},
        "assertion without iat": {"iat": None},
        "assertion without jti": {"jti": None},
        "assertion without aud": {"aud": None},
        "assertion aud list": {"aud": [world.issuer, "https://other.example"]},
    }
    for name, claims in wrong.items():
        row.answer(name, await _push(client, **claims))
    once = secrets.token_urlsafe(8)
    row.answer("assertion jti 1", await _push(client, jti=once))
    row.answer("assertion jti reused", await _push(client, jti=once))
    form = client.request_form()
    forged = await client.post("/oauth/par", form, client_key=Key("k1"))
    row.answer("assertion unknown key", forged)
    unknown = await client.post("/oauth/par", form, client_key=Key("k9"))
    row.answer("assertion unknown kid", unknown)
    other = await client.post("/oauth/par", {**form, "client_assertion_type": "x"})
    row.answer("assertion of another type", other)
    untyped = await client.post("/oauth/par", {**form, "client_assertion_type": None})
    row.answer("assertion without its type", untyped)
    garbage = await client.post("/oauth/par", {**form, "client_assertion": "x"})
    row.answer("assertion garbage", garbage)
    assert client.client_key is not None
    client.client_key.kid = None
    row.answer("assertion without kid", await client.par())


@scenario(
    "rotation: k1 session refreshed with k1 while k2+k1 published",
    "rotation: k1 session refreshed with k2 (k1 still published)",
    "rotation: same session with k1 again (deleted?)",
    "rotation: new login with k2",
    "rotation: k1 session refreshed with k1 after k1 was REMOVED",
    "rotation: k1 session's access token still works on the PDS?",
    "rotation: k1 session refreshed with k2 after k1 was removed",
    "rotation: ... access token after that",
    "rotation: PAR with k1, code exchange with k2",
    "rotation: revoke k1 session with k2",
    "rotation: refresh after that revoke",
    "revoke with removed key",
    "refresh after revoke with removed key",
    "trap 4: a removed key leaves the session, which its key can use again",
    "rotation: the code after an exchange with k2",
    "rotation: k1 published under another kid",
    variant="uncached",
)
async def key_rotation(world: World, row: Rows) -> None:
    k1, k2 = Key("k1"), Key("k2")
    client, folder = await _client(world, k1)
    first = await client.grant()
    folder.publish(k2, k1)
    name = "rotation: k1 session refreshed with k1 while k2+k1 published"
    row.answer(name, await first.renew())
    name = "rotation: k1 session refreshed with k2 (k1 still published)"
    row.answer(name, await first.renew(client_key=k2))
    row.answer("rotation: same session with k1 again (deleted?)", await first.renew())

    client.client_key = k2
    row.answer("rotation: new login with k2", await client.exchange(await client.code()))

    client.client_key = k1
    old = await client.grant()
    folder.publish(k2)
    name = "rotation: k1 session refreshed with k1 after k1 was REMOVED"
    row.answer(name, await old.renew())
    row.answer("rotation: k1 session's access token still works on the PDS?", await old.session())
    folder.publish(k2, k1)
    back = (await old.renew()).status_code
    row.effect("trap 4: a removed key leaves the session, which its key can use again", back=back)
    folder.publish(k2)
    name = "rotation: k1 session refreshed with k2 after k1 was removed"
    row.answer(name, await old.renew(client_key=k2))
    row.answer("rotation: ... access token after that", await old.session())

    folder.publish(k2, k1)
    code = await client.code()
    name = "rotation: PAR with k1, code exchange with k2"
    row.answer(name, await client.exchange(code, client_key=k2))
    row.answer("rotation: the code after an exchange with k2", await client.exchange(code))

    grant = await client.grant()
    revoked = await client.revoke(grant.refresh, client_key=k2)
    row.answer("rotation: revoke k1 session with k2", revoked)
    row.answer("rotation: refresh after that revoke", await grant.renew())
    folder.publish(k2)
    row.answer("revoke with removed key", await client.revoke(grant.refresh))
    folder.publish(k2, k1)
    row.answer("refresh after revoke with removed key", await grant.renew())
    k1.kid = "k1-renamed"
    folder.publish(k1)
    row.answer("rotation: k1 published under another kid", await grant.renew())


@scenario("conf: without the refresh grant there is no refresh token")
async def no_refresh_grant(world: World, row: Rows) -> None:
    client, folder = await _client(world, Key("k1"))
    folder.change(grant_types=["authorization_code"])
    name = "conf: without the refresh grant there is no refresh token"
    row.effect(name, members=sorted((await client.grant()).tokens))


@scenario(
    "cached JWKS: new key k2 just published, used at once",
    "cached JWKS: k1 removed from JWKS but still accepted from cache",
    "cached metadata: a change is not seen",
)
async def cached_documents(world: World, row: Rows) -> None:
    k1, k2 = Key("k1"), Key("k2")
    client, folder = await _client(world, k1)
    await client.par()
    folder.publish(k2)
    form = client.request_form()
    early = await client.post("/oauth/par", form, client_key=k2)
    row.answer("cached JWKS: new key k2 just published, used at once", early)
    name = "cached JWKS: k1 removed from JWKS but still accepted from cache"
    row.answer(name, await client.par())
    folder.metadata = None
    row.answer("cached metadata: a change is not seen", await client.par())


@scenario(
    "jwks 404",
    "metadata 404",
    "refresh while metadata 404",
    "refresh after metadata is back",
    "trap 3: a missing document leaves the session",
    variant="uncached",
)
async def missing_documents(world: World, row: Rows) -> None:
    client, folder = await _client(world, Key("k1"))
    grant = await client.grant()
    jwks, metadata = folder.jwks, folder.metadata
    folder.jwks = None
    row.answer("jwks 404", await client.par())
    folder.jwks, folder.metadata = jwks, None
    row.answer("metadata 404", await client.par())
    row.answer("refresh while metadata 404", await grant.renew())
    access = (await grant.session()).status_code
    folder.metadata = metadata
    row.answer("refresh after metadata is back", await grant.renew())
    row.effect("trap 3: a missing document leaves the session", access=access)


@scenario(
    "life: a confidential session idle for 60 days",
    "life: a confidential session idle for 120 days",
    "life: a confidential session refreshed monthly for 25 months",
)
async def long_lives(world: World, row: Rows) -> None:
    client, _ = await _client(world, Key("k1"))
    day = 86_400.0
    for days in (60, 120):
        grant = await client.grant()
        await world.age(days * day)
        row.answer(f"life: a confidential session idle for {days} days", await grant.renew())
    grant = await client.grant()
    statuses: list[int] = []
    for _ in range(25):
        await world.age(30 * day)
        statuses.append((await grant.renew()).status_code)
    row.effect("life: a confidential session refreshed monthly for 25 months", statuses=statuses)
