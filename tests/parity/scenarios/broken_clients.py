"""Clients with one defect each, none of which gets on. Other scenarios show the answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import httpx

from tests.network.walker import Key
from tests.parity.client import Client, Grant, confidential
from tests.parity.scenario import Rows, scenario
from tests.parity.world import World

NSID = "com.atproto.server.getSession"
_Use = Callable[[Client, Grant], Awaitable[httpx.Response]]


def _refresh_form(grant: Grant) -> dict[str, str | None]:
    return {"grant_type": "refresh_token", "refresh_token": grant.refresh}


async def _refresh_without_proof(client: Client, grant: Grant) -> httpx.Response:
    return await client.post("/oauth/token", _refresh_form(grant), dpop=None)


async def _refresh_with_a_new_key(client: Client, grant: Grant) -> httpx.Response:
    return await client.refresh(grant.refresh, key=Key())


async def _refresh_with_the_pds_as_htu(client: Client, grant: Grant) -> httpx.Response:
    claims = {"htu": client.url(f"/xrpc/{NSID}")}
    return await client.post("/oauth/token", _refresh_form(grant), claims=claims)


async def _refresh_with_the_access_token(client: Client, grant: Grant) -> httpx.Response:
    return await client.refresh(grant.access)


async def _refresh_twice(client: Client, grant: Grant) -> httpx.Response:
    await client.refresh(grant.refresh)
    return await client.refresh(grant.refresh)


async def _refresh_ignoring_nonces(client: Client, grant: Grant) -> httpx.Response:
    return await client.post("/oauth/token", _refresh_form(grant), claims={"nonce": None})


async def _call_without_ath(client: Client, grant: Grant) -> httpx.Response:
    return await client.xrpc(NSID, grant.access, claims={"ath": None})


async def _call_with_the_old_token(client: Client, grant: Grant) -> httpx.Response:
    spent = grant.access
    await grant.renew()
    return await client.xrpc(NSID, spent)


async def _call_with_one_proof_for_all(client: Client, grant: Grant) -> httpx.Response:
    url = client.url(f"/xrpc/{NSID}")
    proof = client.proof("GET", url, token=grant.access)
    await client.xrpc(NSID, grant.access, dpop=proof)
    return await client.xrpc(NSID, grant.access, dpop=proof)


async def _call_as_bearer(client: Client, grant: Grant) -> httpx.Response:
    return await client.xrpc(NSID, grant.access, scheme="Bearer")


async def _call_with_a_proof_for_post(client: Client, grant: Grant) -> httpx.Response:
    return await client.xrpc(NSID, grant.access, claims={"htm": "POST"})


async def _call_with_a_slow_clock(client: Client, grant: Grant) -> httpx.Response:
    return await client.xrpc(NSID, grant.access, claims={"iat": int(client.clock()) - 600})


async def _exchange_without_verifier(client: Client, _grant: Grant) -> httpx.Response:
    form = {**client.exchange_form(await client.code()), "code_verifier": None}
    return await client.post("/oauth/token", form)


async def _exchange_with_the_verifier_of_another_login(
    client: Client, _grant: Grant
) -> httpx.Response:
    code = await client.code()
    await client.par()
    return await client.exchange(code)


async def _exchange_without_proof(client: Client, _grant: Grant) -> httpx.Response:
    form = client.exchange_form(await client.code())
    return await client.post("/oauth/token", form, dpop=None)


async def _exchange_with_a_new_key(client: Client, _grant: Grant) -> httpx.Response:
    return await client.exchange(await client.code(), key=Key())


async def _push_without_pkce(client: Client, _grant: Grant) -> httpx.Response:
    return await client.par(code_challenge=None, code_challenge_method=None)


async def _push_an_undeclared_scope(client: Client, _grant: Grant) -> httpx.Response:
    return await client.par(scope="atproto transition:email")


async def _push_with_the_key_in_the_proof(client: Client, _grant: Grant) -> httpx.Response:
    key = client.key
    claims = {"jti": "x" * 16, "htm": "POST", "htu": client.url("/oauth/par")}
    payload = {**claims, "iat": int(client.clock()), "nonce": client.nonce}
    header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": key.private}
    form = client.request_form()
    return await client.post("/oauth/par", form, dpop=key.sign(header, payload))


async def _push_a_proof_of_another_type(client: Client, _grant: Grant) -> httpx.Response:
    claims = {"jti": "y" * 16, "htm": "POST", "htu": client.url("/oauth/par")}
    payload = {**claims, "iat": int(client.clock()), "nonce": client.nonce}
    proof = client.key.sign({"typ": "JWT", "alg": "ES256", "jwk": client.key.jwk}, payload)
    return await client.post("/oauth/par", client.request_form(), dpop=proof)


_BROKEN: dict[str, _Use] = {
    "refreshes without a proof": _refresh_without_proof,
    "refreshes with a new key": _refresh_with_a_new_key,
    "refreshes with the PDS as htu": _refresh_with_the_pds_as_htu,
    "refreshes with the access token": _refresh_with_the_access_token,
    "refreshes twice with one token": _refresh_twice,
    "ignores nonces": _refresh_ignoring_nonces,
    "calls without ath": _call_without_ath,
    "calls with the token before the last": _call_with_the_old_token,
    "calls with one proof for all": _call_with_one_proof_for_all,
    "calls with the Bearer scheme": _call_as_bearer,
    "calls with a proof for POST": _call_with_a_proof_for_post,
    "has a clock that is 10 minutes slow": _call_with_a_slow_clock,
    "exchanges without a verifier": _exchange_without_verifier,
    "exchanges with the verifier of another login": _exchange_with_the_verifier_of_another_login,
    "exchanges without a proof": _exchange_without_proof,
    "exchanges with a new key": _exchange_with_a_new_key,
    "pushes without PKCE": _push_without_pkce,
    "pushes an undeclared scope": _push_an_undeclared_scope,
    "puts its private key into the proof": _push_with_the_key_in_the_proof,
    "types its proof as JWT": _push_a_proof_of_another_type,
}


@scenario(*(f"broken client: {name}" for name in _BROKEN))
async def broken_clients(world: World, row: Rows) -> None:
    for name, use in _BROKEN.items():
        client = Client(world, await world.account("alice.test"))
        answer = await use(client, await client.grant())
        assert answer.is_client_error, f"{name} gets on: {answer.text}"
        row.answer(f"broken client: {name}", answer)


def _twice_the_assertion(client: Client) -> dict[str, str | None]:
    return {**client.request_form(), **client.credentials()}


async def _one_assertion_for_all(client: Client, _k2: Key) -> httpx.Response:
    form = _twice_the_assertion(client)
    await client.post("/oauth/par", form)
    return await client.post("/oauth/par", form)


async def _another_kid(client: Client, k2: Key) -> httpx.Response:
    assert client.client_key is not None
    client.client_key.kid = k2.kid
    return await client.par()


async def _refreshes_with_the_newest_key(client: Client, k2: Key) -> httpx.Response:
    grant = await client.grant()
    return await grant.renew(client_key=k2)


async def _exchanges_with_the_newest_key(client: Client, k2: Key) -> httpx.Response:
    return await client.exchange(await client.code(), client_key=k2)


async def _forgets_to_authenticate(client: Client, _k2: Key) -> httpx.Response:
    grant = await client.grant()
    client.client_key = None
    return await grant.renew()


async def _asserts_to_the_endpoint(client: Client, _k2: Key) -> httpx.Response:
    claims = {"aud": client.url("/oauth/token")}
    return await client.post("/oauth/par", client.request_form(), assertion=claims)


_BROKEN_CONFIDENTIAL: dict[str, Callable[[Client, Key], Awaitable[httpx.Response]]] = {
    "uses an assertion twice": _one_assertion_for_all,
    "names another key than it signs with": _another_kid,
    "refreshes with its newest key": _refreshes_with_the_newest_key,
    "exchanges with its newest key": _exchanges_with_the_newest_key,
    "forgets to authenticate": _forgets_to_authenticate,
    "asserts to the token endpoint": _asserts_to_the_endpoint,
}


@scenario(*(f"broken client: {name}" for name in _BROKEN_CONFIDENTIAL))
async def broken_confidential_clients(world: World, row: Rows) -> None:
    for name, use in _BROKEN_CONFIDENTIAL.items():
        k1, k2 = Key("k1"), Key("k2")
        folder = world.site.folder(k1, k2)
        client = confidential(world, await world.account("alice.test"), folder, k1)
        await client.par()
        answer = await use(client, k2)
        assert answer.is_client_error, f"{name} gets on: {answer.text}"
        row.answer(f"broken client: {name}", answer)
