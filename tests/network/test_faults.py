from __future__ import annotations

import asyncio

import httpx
import pytest

from atproto_oauth_asgi.testing import Network
from tests.network.walker import Walker

pytestmark = pytest.mark.anyio


async def test_a_failure_before_processing_uses_no_token_up(
    walker: Walker, network: Network
) -> None:
    tokens = await walker.login()
    network.faults.fail(503, times=2, retry_after=7)
    first = await walker.refresh(tokens["refresh_token"])
    second = await walker.refresh(tokens["refresh_token"])
    third = await walker.refresh(tokens["refresh_token"])

    assert [answer.status_code for answer in (first, second, third)] == [503, 503, 200]
    assert first.headers["retry-after"] == "7"
    assert "dpop-nonce" in first.headers


async def test_a_lost_answer_has_rotated_the_tokens(walker: Walker, network: Network) -> None:
    tokens = await walker.login()
    network.faults.lose_answer(grant="refresh_token")
    with pytest.raises(httpx.RemoteProtocolError):
        await walker.refresh(tokens["refresh_token"])
    again = await walker.refresh(tokens["refresh_token"])
    lost, replayed = network.token_requests("refresh_token")

    assert again.json()["error_description"] == "Refresh token replayed"
    assert (lost.status, lost.delivered) == (200, False)
    assert (replayed.status, replayed.error) == (400, "invalid_grant")
    assert lost.refresh_token_sha256 == replayed.refresh_token_sha256
    assert lost.session_id == replayed.session_id is not None
    assert network.sessions() == []


async def test_faults_wait_for_their_grant_type(walker: Walker, network: Network) -> None:
    network.faults.fail(grant="refresh_token")
    tokens = await walker.login()

    assert (await walker.refresh(tokens["refresh_token"])).status_code == 500


async def test_a_paused_endpoint_holds_requests_until_released(
    walker: Walker, network: Network
) -> None:
    tokens = await walker.login()
    async with network.pause_token_endpoint("refresh_token") as pause:
        task = asyncio.ensure_future(walker.refresh(tokens["refresh_token"]))
        await pause.arrived()
        held = pause.waiting
        untouched = await walker.get_session(tokens["access_token"])
        pause.release()
        answer = await task

    assert held == 1
    assert untouched.status_code == 200
    assert answer.status_code == 200


async def test_a_paused_answer_has_rotated_already(walker: Walker, network: Network) -> None:
    tokens = await walker.login()
    async with network.pause_token_endpoint("refresh_token", when="after") as pause:
        task = asyncio.ensure_future(walker.refresh(tokens["refresh_token"]))
        await pause.arrived()
        dead = await walker.get_session(tokens["access_token"])
        pause.release()
        answer = await task

    assert dead.status_code == 401
    assert answer.status_code == 200


async def test_requests_are_released_one_by_one(walker: Walker, network: Network) -> None:
    tokens = await walker.login()
    async with network.pause_token_endpoint() as pause:
        tasks = [asyncio.ensure_future(walker.refresh(tokens["refresh_token"])) for _ in range(2)]
        await pause.arrived(2)
        pause.release(1)
        first = await tasks[0]
        held = pause.waiting
        pause.release()
        second = await tasks[1]

    assert held == 1
    assert first.status_code == 200
    assert second.json()["error_description"] == "Refresh token replayed"


async def test_a_client_that_leaves_does_not_stop_the_server(
    walker: Walker, network: Network
) -> None:
    tokens = await walker.login()
    async with network.pause_token_endpoint() as pause:
        task = asyncio.ensure_future(walker.refresh(tokens["refresh_token"]))
        await pause.arrived()
        task.cancel()
        await asyncio.wait([task])
        pause.release()
    async with network.pause_token_endpoint() as pause:
        later = asyncio.ensure_future(walker.refresh(tokens["refresh_token"]))
        await pause.arrived()
        pause.release()
        answer = await later

    assert answer.json()["error_description"] == "Refresh token replayed"


async def test_a_delay_ends(walker: Walker, network: Network) -> None:
    tokens = await walker.login()
    network.faults.delay(0.01)

    assert (await walker.refresh(tokens["refresh_token"])).status_code == 200


async def test_answers_can_be_altered(walker: Walker, network: Network) -> None:
    with network.alter("/oauth/token", lambda answer: answer.with_json(token_type="Bearer")):
        altered = await walker.login()
    with network.alter("/oauth/par", lambda answer: answer.with_header("dpop-nonce", None)):
        without = await walker.par()
    plain = await walker.login()

    assert altered["token_type"] == "Bearer"
    assert "dpop-nonce" not in without.headers
    assert plain["token_type"] == "DPoP"


async def test_an_outage_breaks_connections_and_ends(walker: Walker, network: Network) -> None:
    tokens = await walker.login()
    with network.outage(), pytest.raises(httpx.RemoteProtocolError):
        await walker.refresh(tokens["refresh_token"])

    assert (await walker.refresh(tokens["refresh_token"])).status_code == 200


async def test_any_path_can_be_held(walker: Walker, network: Network) -> None:
    tokens = await walker.login()
    async with network.hold("/xrpc/com.atproto.server.getSession", when="after") as pause:
        call = asyncio.ensure_future(walker.get_session(tokens["access_token"]))
        await pause.arrived()
        network.revoke_sessions()
        pause.release()
        answer = await call

    assert answer.status_code == 200


async def test_the_log_tells_challenges_from_requests(walker: Walker, network: Network) -> None:
    tokens = await walker.login()
    network.log.clear()
    network.restart_hosts()
    for _ in range(2):
        await walker.refresh(tokens["refresh_token"])

    assert len(network.token_requests()) == 1
    assert len(network.token_requests("refresh_token", challenged=True)) == 2
    assert all("ref-" not in repr(record) for record in network.log)


async def test_access_tokens_can_be_expired_and_sessions_revoked(
    walker: Walker, network: Network
) -> None:
    tokens = await walker.login()
    network.expire_access_tokens("alice.test")
    expired = await walker.get_session(tokens["access_token"])
    refreshed = (await walker.refresh(tokens["refresh_token"])).json()
    network.revoke_sessions("alice.test")

    assert (expired.status_code, expired.json()["error"]) == (401, "invalid_token")
    assert (await walker.refresh(refreshed["refresh_token"])).status_code == 400


async def test_an_account_can_move_to_another_host(
    walker: Walker, network: Network, http: httpx.AsyncClient
) -> None:
    other = network.add_host()
    did = network.account("alice.test").did
    network.move_account("alice.test", other)
    document = (await http.get(f"{network.plc.origin}/{did}")).json()

    assert document["service"][0]["serviceEndpoint"] == other.origin


async def test_documents_can_be_made_wrong(network: Network, http: httpx.AsyncClient) -> None:
    account = network.account("alice.test")
    account.document_changes = {"alsoKnownAs": ["at://mallory.test"], "service": None}
    document = (await http.get(f"{network.plc.origin}/{account.did}")).json()
    network.delete_account("bob.test")
    bob = await http.get(f"{network.plc.origin}/{_did('bob.test')}")
    nobody = await http.get(f"{network.plc.origin}/did:plc:aaaaaaaaaaaaaaaaaaaaaaaa")

    assert document["alsoKnownAs"] == ["at://mallory.test"]
    assert "service" not in document
    assert (bob.status_code, nobody.status_code) == (410, 404)


def _did(handle: str) -> str:
    return Network((handle,)).account(handle).did
