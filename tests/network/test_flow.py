from __future__ import annotations

import httpx
import pytest

from atproto_oauth_asgi.testing import Network
from tests.network.walker import REDIRECT_URI, Clock, Walker, parameters

pytestmark = pytest.mark.anyio


async def test_discovery_leads_from_a_handle_to_the_authorization_server(
    network: Network, http: httpx.AsyncClient
) -> None:
    policy = network.policy()
    assert policy.resolve_txt is not None
    (record,) = await policy.resolve_txt("_atproto.alice.test")
    did = record.decode().removeprefix("did=")

    well_known = await http.get("https://alice.test/.well-known/atproto-did")
    document = await http.get(f"{policy.plc_url}/{did}")
    pds = document.json()["service"][0]["serviceEndpoint"]
    resource = await http.get(f"{pds}/.well-known/oauth-protected-resource")
    (issuer,) = resource.json()["authorization_servers"]
    server = await http.get(f"{issuer}/.well-known/oauth-authorization-server")

    assert well_known.text == did
    assert document.headers["content-type"] == "application/did+ld+json"
    assert document.json()["alsoKnownAs"] == ["at://alice.test"]
    assert resource.json()["resource"] == pds
    assert server.json()["issuer"] == issuer


async def test_a_whole_login_by_function_call(walker: Walker, network: Network) -> None:
    first = await walker.post("/oauth/par", {"response_type": "code"})
    callback = network.approve(await walker.authorize_url(), "alice.test")
    answer = await walker.exchange(parameters(callback)["code"])
    tokens = answer.json()
    session = await walker.get_session(tokens["access_token"])

    assert (first.status_code, first.json()["error"]) == (400, "use_dpop_nonce")
    assert callback.startswith(REDIRECT_URI)
    assert list(parameters(callback)) == ["state", "iss", "code"]
    assert parameters(callback)["state"] == walker.state
    assert parameters(callback)["iss"] == network.host.origin
    assert answer.headers["cache-control"] == "no-store"
    assert tokens["token_type"] == "DPoP"
    assert tokens["scope"] == walker.scope
    assert tokens["expires_in"] == 3600
    assert tokens["sub"] == network.account("alice.test").did
    assert len(tokens["refresh_token"]) == 68
    assert session.json() == {"did": tokens["sub"], "handle": "alice.test", "active": True}


async def test_a_refresh_rotates_both_tokens(walker: Walker) -> None:
    first = await walker.login()
    second = (await walker.refresh(first["refresh_token"])).json()

    assert second["refresh_token"] != first["refresh_token"]
    assert (await walker.get_session(first["access_token"])).status_code == 401
    assert (await walker.get_session(second["access_token"])).status_code == 200


async def test_denying_brings_the_state_and_issuer_back(walker: Walker, network: Network) -> None:
    callback = network.deny(await walker.authorize_url())

    assert parameters(callback) == {
        "state": walker.state,
        "iss": network.host.origin,
        "error": "access_denied",
        "error_description": "The user rejected the request",
    }


async def test_an_expired_request_comes_back_with_an_error(
    walker: Walker, network: Network, clock: Clock
) -> None:
    url = await walker.authorize_url()
    clock.advance(301)

    callback = parameters(network.approve(url, "alice.test"))

    assert callback["error"] == "access_denied"
    assert callback["error_description"] == "This request has expired"


async def test_a_code_is_valid_for_five_minutes(walker: Walker, clock: Clock) -> None:
    code = await walker.code()
    clock.advance(301)
    await walker.par()
    answer = await walker.exchange(code)

    assert answer.json()["error_description"] == "This code has expired"


async def test_reopening_the_page_after_consent_kills_the_code(
    walker: Walker, network: Network
) -> None:
    url = await walker.authorize_url()
    first = parameters(network.approve(url, "alice.test"))
    second = parameters(network.approve(url, "alice.test"))
    answer = await walker.exchange(first["code"])

    assert second["state"] == first["state"]
    assert second["error_description"] == "This request was already authorized"
    assert answer.json() == {"error": "invalid_grant", "error_description": "Invalid code"}
    with pytest.raises(ValueError, match="expired"):
        network.approve(url, "alice.test")


async def test_another_client_cannot_use_a_request(walker: Walker, network: Network) -> None:
    url = (await walker.authorize_url()).replace("transition", "other")
    callback = parameters(network.approve(url, "alice.test"))

    assert callback["error_description"] == "This request was initiated for another client"


async def test_access_tokens_expire_by_the_clock(clock: Clock) -> None:
    network = Network(clock=clock, token_life=4.0)
    app = network.host.app
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app)) as own:
        walker = Walker(network, own, clock=clock)
        tokens = await walker.login()
        alive = await walker.get_session(tokens["access_token"])
        clock.advance(4)
        dead = await walker.get_session(tokens["access_token"])

    assert tokens["expires_in"] == 4
    assert alive.status_code == 200
    assert (dead.status_code, dead.json()["error"]) == (401, "invalid_token")


async def test_nonces_rotate_and_old_ones_are_refused(walker: Walker, clock: Clock) -> None:
    tokens = await walker.login()
    nonce = walker.nonce
    clock.advance(60)
    walker.nonce = nonce
    soon = await walker.get_session(tokens["access_token"])
    clock.advance(180)
    walker.nonce = nonce
    late = await walker.get_session(tokens["access_token"])

    assert soon.status_code == 200
    assert late.status_code == 401
    assert late.headers["dpop-nonce"] != nonce
    assert 'error="use_dpop_nonce"' in late.headers["www-authenticate"]


async def test_public_sessions_end_after_two_weeks_whatever_was_refreshed(
    walker: Walker, clock: Clock
) -> None:
    tokens = await walker.login()
    for _ in range(2):
        clock.advance(6.9 * 86_400)
        await walker.par()
        answer = await walker.refresh(tokens["refresh_token"])
        tokens = answer.json()
    clock.advance(86_400)
    await walker.par()

    assert (await walker.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"
