"""The code exchange, refreshes and revocation of a public client."""

from __future__ import annotations

import secrets

import anyio

from tests.network.walker import Key, parameters
from tests.parity.client import Client
from tests.parity.scenario import Rows, scenario
from tests.parity.world import World


async def _client(world: World) -> Client:
    return Client(world, await world.account("alice.test"))


@scenario(
    "token ok",
    "refresh ok",
    "pds OLD access token after refresh",
    "pds new access token",
    "refresh with OLD refresh token",
    "refresh with the newest token after replay (session gone?)",
    "pds newest access token after replay",
    "trap 1: a replay right after the refresh ends the session",
)
async def rotation(world: World, row: Rows) -> None:
    client = await _client(world)
    first = row.answer("token ok", await client.exchange(await client.code())).json()
    second = row.answer("refresh ok", await client.refresh(first["refresh_token"])).json()
    old = await client.get_session(first["access_token"])
    row.answer("pds OLD access token after refresh", old)
    new = await client.get_session(second["access_token"])
    row.answer("pds new access token", new)
    row.answer("refresh with OLD refresh token", await client.refresh(first["refresh_token"]))
    newest = await client.refresh(second["refresh_token"])
    row.answer("refresh with the newest token after replay (session gone?)", newest)
    access = await client.get_session(second["access_token"])
    row.answer("pds newest access token after replay", access)
    grant = await client.grant()
    spent = grant.refresh
    await grant.renew()
    replayed = await client.refresh(spent)
    row.effect(
        "trap 1: a replay right after the refresh ends the session",
        replay=replayed.json()["error_description"],
        lives=await grant.lives(),
    )


@scenario(
    "code reused",
    "refresh after code reuse (session revoked?)",
    "trap 6: a code used twice revokes the session",
)
async def code_reuse(world: World, row: Rows) -> None:
    # The device is signed out as well, which must not meet the next scenario.
    client = Client(world, await world.create_account("alice"))
    code = await client.code()
    tokens = (await client.exchange(code)).json()
    row.answer("code reused", await client.exchange(code))
    refreshed = await client.refresh(tokens["refresh_token"])
    row.answer("refresh after code reuse (session revoked?)", refreshed)
    access = await client.get_session(tokens["access_token"])
    row.effect(
        "trap 6: a code used twice revokes the session",
        access=access.status_code,
        refresh=refreshed.status_code,
    )


@scenario("trap 6: of two exchanges at once one is refused")
async def two_exchanges(world: World, row: Rows) -> None:
    client = await _client(world)
    code = await client.code()
    statuses: list[int] = []

    async def exchange() -> None:
        statuses.append((await client.exchange(code)).status_code)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(exchange)
        tasks.start_soon(exchange)
    row.effect("trap 6: of two exchanges at once one is refused", statuses=sorted(statuses))


@scenario(
    "wrong code_verifier",
    "right verifier after wrong one",
    "wrong redirect_uri",
    "short verifier",
    "token with other DPoP key than PAR",
    "unknown code",
    "garbage code",
    "trap 6: a wrong redirect_uri burns the code",
    "trap 6: a wrong DPoP key burns the code",
    "trap 6: a malformed verifier leaves the code",
    "code without verifier",
    "code of another client",
    "code without redirect_uri",
)
async def exchanges(world: World, row: Rows) -> None:
    client = await _client(world)
    code = await client.code()
    wrong = await client.exchange(code, code_verifier=secrets.token_urlsafe(48))
    row.answer("wrong code_verifier", wrong)
    row.answer("right verifier after wrong one", await client.exchange(code))

    code = await client.code()
    wrong = await client.exchange(code, redirect_uri="http://127.0.0.1/other")
    row.answer("wrong redirect_uri", wrong)
    after = (await client.exchange(code)).status_code
    row.effect("trap 6: a wrong redirect_uri burns the code", after=after)

    code = await client.code()
    row.answer("short verifier", await client.exchange(code, code_verifier="short"))
    after = (await client.exchange(code)).status_code
    row.effect("trap 6: a malformed verifier leaves the code", after=after)

    code = await client.code()
    wrong = await client.exchange(code, key=Key())
    row.answer("token with other DPoP key than PAR", wrong)
    after = (await client.exchange(code)).status_code
    row.effect("trap 6: a wrong DPoP key burns the code", after=after)

    row.answer("unknown code", await client.exchange("cod-" + "0" * 64))
    row.answer("garbage code", await client.exchange("x"))

    form = {**client.exchange_form(await client.code()), "code_verifier": None}
    row.answer("code without verifier", await client.post("/oauth/token", form))
    form = {**client.exchange_form(await client.code()), "redirect_uri": None}
    row.answer("code without redirect_uri", await client.post("/oauth/token", form))

    form = client.exchange_form(await client.code())
    row.answer(
        "code of another client",
        await client.post("/oauth/token", {**form, "client_id": "http://localhost"}),
    )


@scenario(
    "unknown refresh token",
    "garbage refresh token",
    "refresh with other DPoP key",
    "refresh right key after wrong key (session deleted?)",
    "trap 3: a refresh with another DPoP key ends the session",
    "refresh by another client",
    "trap 3: a refresh by another client ends the session",
    "trap 3: a refused proof or nonce leaves the session",
)
async def refused_refreshes(world: World, row: Rows) -> None:
    client = await _client(world)
    row.answer("unknown refresh token", await client.refresh("ref-" + "0" * 64))
    row.answer("garbage refresh token", await client.refresh("x"))

    grant = await client.grant()
    other = await client.refresh(grant.refresh, key=Key())
    row.answer("refresh with other DPoP key", other)
    access = await grant.session()
    right = await client.refresh(grant.refresh)
    row.answer("refresh right key after wrong key (session deleted?)", right)
    row.effect(
        "trap 3: a refresh with another DPoP key ends the session", access=access.status_code
    )

    grant = await client.grant()
    form = {"grant_type": "refresh_token", "refresh_token": grant.refresh}
    stranger = {**form, "client_id": "http://localhost"}
    row.answer("refresh by another client", await client.post("/oauth/token", stranger))
    row.effect("trap 3: a refresh by another client ends the session", lives=await grant.lives())

    grant = await client.grant()
    form["refresh_token"] = grant.refresh
    statuses = [
        (await client.post("/oauth/token", form, claims={"nonce": "x"})).status_code,
        (await client.post("/oauth/token", form, claims={"htu": "https://x.example"})).status_code,
        (await client.post("/oauth/token", form, dpop=None)).status_code,
    ]
    row.effect(
        "trap 3: a refused proof or nonce leaves the session",
        statuses=statuses,
        lives=await grant.lives(),
    )


@scenario(
    "revoke refresh_token",
    "revoke again",
    "refresh after revoke",
    "pds after revoke",
    "revoke access_token",
    "refresh after revoke(access_token)",
    "revoke garbage",
    "revoke without DPoP",
    "revoke without client_id",
    "trap 5: revocation without DPoP says yes and does nothing",
    "trap 5: revocation by another client says yes and does nothing",
    "trap 5: revocation with another DPoP key says yes and does nothing",
    "revoke without token",
)
async def revocation(world: World, row: Rows) -> None:
    client = await _client(world)
    grant = await client.grant()
    row.answer("revoke refresh_token", await client.revoke(grant.refresh))
    row.answer("revoke again", await client.revoke(grant.refresh))
    row.answer("refresh after revoke", await client.refresh(grant.refresh))
    row.answer("pds after revoke", await grant.session())

    grant = await client.grant()
    row.answer("revoke access_token", await client.revoke(grant.access))
    row.answer("refresh after revoke(access_token)", await client.refresh(grant.refresh))

    row.answer("revoke garbage", await client.revoke("garbage"))
    grant = await client.grant()
    row.answer("revoke without DPoP", await client.revoke(grant.refresh, dpop=None))
    row.effect(
        "trap 5: revocation without DPoP says yes and does nothing", lives=await grant.lives()
    )
    anonymous = await client.post("/oauth/revoke", {"token": "x", "client_id": None})
    row.answer("revoke without client_id", anonymous)

    grant = await client.grant()
    form = {"token": grant.refresh, "client_id": "http://localhost"}
    status = (await client.post("/oauth/revoke", form)).status_code
    row.effect(
        "trap 5: revocation by another client says yes and does nothing",
        status=status,
        lives=await grant.lives(),
    )
    status = (await client.post("/oauth/revoke", {"token": grant.refresh}, key=Key())).status_code
    row.effect(
        "trap 5: revocation with another DPoP key says yes and does nothing",
        status=status,
        lives=await grant.lives(),
    )
    row.answer("revoke without token", await client.post("/oauth/revoke", {}))


@scenario("trap 2: of two refreshes at once at most one is granted")
async def two_refreshes(world: World, row: Rows) -> None:
    client = await _client(world)
    grant = await client.grant()
    statuses: list[int] = []

    async def refresh() -> None:
        statuses.append((await client.refresh(grant.refresh)).status_code)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(refresh)
        tasks.start_soon(refresh)
    # Which of the two, and whether the session lives, differs from run to run there.
    granted = statuses.count(200)
    row.effect("trap 2: of two refreshes at once at most one is granted", granted=granted)


@scenario("a code challenge is good for one login")
async def reused_challenge(world: World, row: Rows) -> None:
    client = await _client(world)
    url = await client.authorize_url()
    await client.exchange(parameters(await world.approve(url, client.person))["code"])
    verifier, challenge = client.verifier, client.request_form()["code_challenge"]
    url = await client.authorize_url(code_challenge=challenge)
    code = parameters(await world.approve(url, client.person))["code"]
    answer = await client.exchange(code, code_verifier=verifier)
    row.answer("a code challenge is good for one login", answer)


@scenario(
    "trap 17: a code of A at B",
    "trap 17: a refresh token of A at B",
    "trap 17: a token of A at the PDS B",
    "trap 17: A's session after that",
)
async def two_servers(world: World, row: Rows) -> None:
    client = await _client(world)
    grant = await client.grant()
    code = await client.code()
    other = await world.second()
    client.origin, own = other.issuer, client.origin
    row.answer("trap 17: a code of A at B", await client.exchange(code))
    row.answer("trap 17: a refresh token of A at B", await client.refresh(grant.refresh))
    row.answer("trap 17: a token of A at the PDS B", await grant.session())
    client.origin = own
    row.effect("trap 17: A's session after that", lives=await grant.lives())


@scenario(
    "life: a code after 90 s",
    "life: a code after 305 s",
    "life: a public session idle for 13 days",
    "life: a public session idle for 15 days",
    "life: a public session refreshed daily for 15 days",
)
async def lives(world: World, row: Rows) -> None:
    client = await _client(world)
    code = await client.code()
    await world.age(90)
    row.answer("life: a code after 90 s", await client.exchange(code))
    code = await client.code()
    await world.age(305)
    row.answer("life: a code after 305 s", await client.exchange(code))
    day = 86_400.0
    for days in (13, 15):
        grant = await client.grant()
        await world.age(days * day)
        name = f"life: a public session idle for {days} days"
        row.answer(name, await grant.renew())
    grant = await client.grant()
    statuses: list[int] = []
    for _ in range(15):
        await world.age(day + 1)
        statuses.append((await grant.renew()).status_code)
    row.effect("life: a public session refreshed daily for 15 days", statuses=statuses)


@scenario(
    "life: an access token past its life at the PDS",
    "life: a refresh after the access token is over",
    "life: expires_in of a token of 2 s",
    "life: a nonce after 2.8 intervals",
    variant="short",
)
async def short_lives(world: World, row: Rows) -> None:
    client = await _client(world)
    grant = await client.grant()
    seconds = grant.tokens["expires_in"]
    row.effect("life: expires_in of a token of 2 s", seconds=seconds in {1, 2})
    stale = client.nonce
    await world.wait(3.2)
    row.answer("life: an access token past its life at the PDS", await grant.session())
    row.answer("life: a refresh after the access token is over", await grant.renew())
    late = await client.post("/oauth/par", client.request_form(), claims={"nonce": stale})
    row.answer("life: a nonce after 2.8 intervals", late)


@scenario("the sub of a token response is the person's DID", "trap 14: less than was asked for")
async def narrowed(world: World, row: Rows) -> None:
    client = await _client(world)
    url = await client.authorize_url()
    callback = await world.approve(url, client.person, scope="atproto")
    answer = await client.exchange(parameters(callback)["code"])
    row.answer("trap 14: less than was asked for", answer)
    tokens = answer.json()
    row.effect(
        "the sub of a token response is the person's DID",
        sub=tokens["sub"] == client.person.did,
        scope=tokens["scope"],
    )
