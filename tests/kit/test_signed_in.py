from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from atproto_oauth_asgi import ATProtoOAuth, ClientKeys
from atproto_oauth_asgi.keys import generate_client_keys
from atproto_oauth_asgi.testing import KitError, Network, sign_out, signed_in
from atproto_oauth_asgi.testing.offline import end_all
from tests.kit.apps import POST, make, starlette_app

DID = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"


@pytest.fixture
def client(oauth: ATProtoOAuth) -> TestClient:
    return TestClient(starlette_app(oauth))


def test_nothing_is_asked_for_it(client: TestClient) -> None:
    signed_in(client, did=DID)

    assert client.get("/who").json() == {"did": DID}


@pytest.mark.anyio
async def test_it_is_awaited_for_httpx(oauth: ATProtoOAuth) -> None:
    transport = httpx.ASGITransport(starlette_app(oauth))
    async with httpx.AsyncClient(transport=transport) as client:
        await signed_in(client, did=DID)

        assert (await client.get("/who")).json() == {"did": DID}


def test_with_the_client_opened_before_and_the_apps_database_left_alone(tmp_path: Path) -> None:
    oauth = make("http://127.0.0.1:8000", store_url=f"sqlite:///{tmp_path}/app.db")
    with TestClient(starlette_app(oauth)) as client:
        signed_in(client, did=DID)
        inside = client.get("/who").json()
        end_all()
        outside = client.get("/who").json()

    assert (inside, outside) == ({"did": DID}, {"did": None})


def test_handle_and_scopes(client: TestClient) -> None:
    signed_in(client, did=DID, handle="carol.test", scopes=["blob:image/*"])
    session = client.get("/oauth/session").json()

    assert session["handle"] == "carol.test"
    assert session["scopes"] == ["atproto", "blob:image/*"]


def test_the_usual_scopes_and_no_handle(client: TestClient) -> None:
    signed_in(client, did=DID)
    session = client.get("/oauth/session").json()

    assert session["handle"] is None
    assert set(session["scopes"]) == {"atproto", POST}


def test_another_takes_the_place_or_is_added(client: TestClient) -> None:
    signed_in(client, did=DID)
    signed_in(client, did=DID + "2")
    alone = client.get("/oauth/session").json()
    signed_in(client, did=DID, add=True)
    signed_in(client, did=DID, add=True)
    both = client.get("/oauth/session").json()

    assert [account["did"] for account in alone["accounts"]] == [DID + "2"]
    assert [account["did"] for account in both["accounts"]] == [DID, DID + "2"]
    assert both["did"] == DID


def test_a_call_to_the_pds_says_that_there_is_none(client: TestClient) -> None:
    signed_in(client, did=DID)
    with pytest.raises(KitError, match=r"there is no PDS to call; use the atproto_network fixture"):
        client.get("/me")


def test_signing_out_needs_no_network(client: TestClient) -> None:
    signed_in(client, did=DID)
    sign_out(client)

    assert client.get("/who").json() == {"did": None}


def test_nobody_else_can_log_in_meanwhile(client: TestClient) -> None:
    signed_in(client, did=DID)
    answer = client.post("/oauth/login", json={"identifier": "alice.example.com"})

    assert answer.json()["error"] in {"identity_unavailable", "handle_not_found"}


@pytest.mark.parametrize("keys", [None, ClientKeys(generate_client_keys())])
def test_on_a_network_the_tokens_are_live(
    keys: ClientKeys | None, atproto_network: Network
) -> None:
    oauth = make(client_keys=keys)
    atproto_network.attach(oauth)
    client = TestClient(starlette_app(oauth))
    account = atproto_network.account("bob.test")
    signed_in(client, did=account.did)
    first = client.get("/me")
    logins = atproto_network.token_requests("authorization_code")
    sign_out(client)

    assert first.json()["handle"] == "bob.test"
    assert logins == []
    assert atproto_network.sessions() == []


def test_on_a_network_the_account_must_be_there(atproto_network: Network) -> None:
    oauth = make()
    atproto_network.attach(oauth)
    with pytest.raises(KitError, match=rf"has no account {DID}, only did:plc:.*add_account"):
        signed_in(TestClient(starlette_app(oauth)), did=DID)


def test_a_handle_is_no_did(client: TestClient) -> None:
    with pytest.raises(KitError, match=r"'alice.test' is not a DID"):
        signed_in(client, did="alice.test")
