"""Entryways, several PDSes and the ways to name an account, seen by the library and by hand."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.testing.accounts import HandleProof
from tests.app.world import world
from tests.network.walker import Clock, Walker

pytestmark = pytest.mark.anyio


async def test_an_app_logs_in_through_an_entryway() -> None:
    network = Network(entryway=True)
    entryway = network.entryway
    assert entryway is not None
    async with world(network=network) as here:
        begun = await here.begin("alice.test")
        location = begun.headers["location"]
        back = await here.browser.get(network.approve(location, "alice.test"))
        answer = await here.browser.get("/me")

        assert location.startswith(f"{entryway.origin}/oauth/authorize?")
        assert back.status_code == 303
        assert answer.json()["handle"] == "alice.test"
        assert {record.server for record in network.log.of("token")} == {entryway.origin}
        assert {record.server for record in network.log.of("xrpc")} == {network.host.origin}


@pytest.fixture
def entryway(clock: Clock) -> Network:
    return Network(clock=clock, entryway=True)


async def _get(network: Network, url: str) -> httpx.Response:
    origin = "/".join(url.split("/")[:3])
    transport = httpx.ASGITransport(app=network.policy().apps[origin])
    async with httpx.AsyncClient(transport=transport) as http:
        return await http.get(url)


async def test_documents_of_an_entryway_and_its_pdses(entryway: Network) -> None:
    host, second = entryway.entryway, entryway.add_host(entryway=entryway.entryway)
    alone = entryway.add_host("https://pds3.example")
    assert host is not None
    well_known = "/.well-known/oauth-"
    resources = {
        each: (await _get(entryway, f"{each.origin}{well_known}protected-resource")).json()
        for each in (entryway.host, second, alone)
    }
    server = (await _get(entryway, f"{host.origin}{well_known}authorization-server")).json()
    none = await _get(entryway, f"{second.origin}{well_known}authorization-server")
    no_resource = await _get(entryway, f"{host.origin}{well_known}protected-resource")

    assert resources[second]["authorization_servers"] == [host.origin]
    assert resources[alone]["authorization_servers"] == [alone.origin]
    assert server["issuer"] == host.origin
    assert server["protected_resources"] == [entryway.host.origin, second.origin]
    assert (none.status_code, no_resource.status_code) == (404, 404)


@pytest.fixture
async def visitor(entryway: Network, clock: Clock) -> AsyncGenerator[Walker]:
    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        host = dict(scope["headers"])[b"host"].decode()
        await entryway.policy().apps[f"https://{host}"](scope, receive, send)

    assert entryway.entryway is not None
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=route)) as http:
        yield Walker(entryway, http, clock=clock, origin=entryway.entryway.origin)


async def test_a_token_is_good_only_at_the_pds_of_its_account(
    visitor: Walker, entryway: Network
) -> None:
    other = entryway.add_host(entryway=entryway.entryway)
    tokens = await visitor.login()
    issuer = visitor.origin
    seen: list[tuple[int, str]] = []
    for origin in (entryway.host.origin, other.origin):
        visitor.origin, visitor.nonce = origin, None
        await visitor.get_session(tokens["access_token"])
        answer = await visitor.get_session(tokens["access_token"])
        seen.append((answer.status_code, answer.json().get("message", "")))
    # After a move behind the entryway the same session goes on at the new PDS.
    entryway.move_account("alice.test", other)
    moved = await visitor.get_session(tokens["access_token"])
    visitor.origin, visitor.nonce = issuer, None
    await visitor.refresh(tokens["refresh_token"])
    refreshed = await visitor.refresh(tokens["refresh_token"])

    assert seen == [(200, ""), (401, "Invalid token")]
    assert moved.status_code == 200
    assert refreshed.status_code == 200
    assert entryway.account("alice.test").document()["service"] == [
        {
            "id": "#atproto_pds",
            "type": "AtprotoPersonalDataServer",
            "serviceEndpoint": other.origin,
        }
    ]


async def test_nonces_of_the_entryway_are_none_of_the_pds(
    visitor: Walker, entryway: Network
) -> None:
    tokens = await visitor.login()
    visitor.origin = entryway.host.origin
    first = await visitor.get_session(tokens["access_token"])
    second = await visitor.get_session(tokens["access_token"])

    assert (first.status_code, first.json()["error"]) == (401, "use_dpop_nonce")
    assert second.status_code == 200


@pytest.mark.parametrize("proof", ["both", "dns", "well-known"])
async def test_a_handle_resolves_in_the_way_that_was_chosen(proof: HandleProof) -> None:
    network = Network(accounts=())
    account = network.add_account("carol.test", handle_proof=proof)
    policy = network.policy()
    assert policy.resolve_txt is not None
    txt = await policy.resolve_txt("_atproto.carol.test")
    page = await _get(network, "https://carol.test/.well-known/atproto-did")

    assert bool(txt) == (proof in {"both", "dns"})
    assert (page.status_code == 200) == (proof in {"both", "well-known"})
    async with world(network=network) as here:
        assert (await here.login("carol.test")).status_code == 303
        assert await here.who() == account.did


async def test_a_handle_that_resolves_nowhere_begins_no_login() -> None:
    network = Network(accounts=())
    network.add_account("carol.test", handle_proof="none")
    async with world(network=network) as here:
        assert (await here.begin("carol.test")).status_code == 400


async def test_a_person_with_a_did_web_logs_in() -> None:
    network = Network(accounts=())
    network.add_account("carol.test", did="did:web:carol.test")
    async with world(network=network) as here:
        assert (await here.login("carol.test")).status_code == 303
        assert await here.who() == "did:web:carol.test"


async def test_a_handle_that_the_document_does_not_name_is_refused() -> None:
    network = Network()
    async with world(network=network) as here:
        with network.changed_document("alice.test", alsoKnownAs=["at://mallory.test"]):
            refused = await here.begin("alice.test")
        assert refused.status_code == 400
        assert (await here.login("alice.test")).status_code == 303


async def test_an_app_refuses_an_account_that_moved_to_another_issuer() -> None:
    network = Network()
    other = network.add_host()
    async with world(network=network) as here:
        await here.login("alice.test")
        network.expire_access_tokens()
        with network.moved("alice.test", other):
            moved = await here.browser.get("/me")
        refreshes = network.token_requests("refresh_token")

    assert moved.status_code != 200
    assert refreshes == []
