"""The app's own tests, written with the kit and nothing else of the library."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from atproto_oauth_asgi.testing import (
    LoginFailed,
    Network,
    deny,
    login,
    sign_out,
    signed_in,
)

COLLECTION = "dev.birdsong.listening.play"
PUBLISH = f"repo:{COLLECTION}?action=create&action=update"
SONG = {"artist": "Joni Mitchell", "track": "Carey"}


def published(network: Network, handle: str = "alice.test") -> list[str]:
    repository = network.host.pds.repository(network.account(handle).did)
    records = repository.list(COLLECTION, limit=100, cursor=None, reverse=False)
    return [str(record.value["track"]) for _, record in records]


def note(client: TestClient, **song: str) -> int:
    answer = client.post("/api/plays", json={**SONG, **song})
    assert answer.status_code == 201, answer.text
    number: int = answer.json()["id"]
    return number


def test_strangers_are_asked_to_sign_in(client: TestClient) -> None:
    answer = client.get("/api/me")

    assert answer.status_code == 401
    assert answer.json()["login_url"] == "http://127.0.0.1:8000/oauth/login"


def test_somebody_signs_in_and_notes_a_play(client: TestClient) -> None:
    login(client, "alice.test")
    note(client)

    assert client.get("/api/me").json()["handle"] == "alice.test"
    assert client.get("/api/plays").json() == [{**SONG, "uri": None}]


def test_a_new_handle_is_the_same_person(client: TestClient, atproto_network: Network) -> None:
    account = login(client, "alice.test")
    note(client)
    account.handle = "alice-moved.test"
    login(client, account.did)

    assert client.get("/api/me").json()["handle"] == "alice-moved.test"
    assert len(client.get("/api/plays").json()) == 1


def test_nobody_sees_anothers_plays(client: TestClient) -> None:
    login(client, "alice.test")
    number = note(client)
    login(client, "bob.test", scope=f"atproto {PUBLISH}")

    assert client.get("/api/plays").json() == []
    assert client.post(f"/api/plays/{number}/publish").json() == {"uri": None}


def test_cancelling_signs_nobody_in(client: TestClient) -> None:
    assert deny(client, "alice.test").status_code == 400
    assert client.get("/api/me").status_code == 401


def test_a_closed_account_is_turned_away(client: TestClient, atproto_network: Network) -> None:
    from examples.listening import database

    login(client, "alice.test")

    async def close() -> None:
        async with database.sessions() as session:
            user = await session.get_one(database.User, atproto_network.account("alice.test").did)
            user.closed = True
            await session.commit()

    assert client.portal is not None
    client.portal.call(close)
    with pytest.raises(LoginFailed) as refused:
        login(client, "alice.test")

    assert refused.value.code == "login_refused"
    assert "This account has been closed here." in refused.value.response.text


# --- Publishing, and the permission for it ---


def test_publishing_needs_more_than_a_login(client: TestClient, atproto_network: Network) -> None:
    login(client, "alice.test")
    number = note(client)
    refused = client.post(f"/api/plays/{number}/publish")
    login(client, "alice.test", scope=f"atproto {PUBLISH}")
    done = client.post(f"/api/plays/{number}/publish")

    assert refused.status_code == 403
    assert refused.json()["scope"] == PUBLISH
    assert "action%3Dupdate" in refused.json()["login_url"]
    assert done.json()["uri"].endswith(f"/{COLLECTION}/play-{number}")
    assert published(atproto_network) == ["Carey"]


def test_a_permission_that_was_unticked(client: TestClient, atproto_network: Network) -> None:
    login(client, "alice.test", scope=f"atproto {PUBLISH}", granted="atproto")
    note(client)

    assert client.get("/api/me").json()["publishes"] is False
    assert published(atproto_network) == []


def test_who_may_publish_publishes_at_once(client: TestClient, atproto_network: Network) -> None:
    login(client, "alice.test", scope=f"atproto {PUBLISH}")
    note(client)

    assert published(atproto_network) == ["Carey"]
    assert client.get("/api/plays").json()[0]["uri"] is not None


def test_what_a_pds_did_not_take_is_published_later(
    client: TestClient, atproto_network: Network
) -> None:
    from examples.listening.app import oauth
    from examples.listening.publishing import publish_waiting

    login(client, "alice.test", scope=f"atproto {PUBLISH}")
    with atproto_network.outage():
        note(client)
        before = client.get("/api/plays").json()
    assert client.portal is not None
    done = client.portal.call(publish_waiting, oauth)

    assert before[0]["uri"] is None
    assert done == 1
    assert published(atproto_network) == ["Carey"]


def test_the_job_leaves_those_who_signed_out(client: TestClient, atproto_network: Network) -> None:
    from examples.listening.app import oauth
    from examples.listening.publishing import publish_waiting

    login(client, "alice.test")
    note(client)
    sign_out(client)
    assert client.portal is not None

    assert client.portal.call(publish_waiting, oauth) == 0


# --- Several accounts, sockets, and tests that need no network ---


def test_two_accounts_in_one_browser(client: TestClient, atproto_network: Network) -> None:
    alice = login(client, "alice.test")
    login(client, "bob.test", add=True)
    both = client.get("/api/me").json()
    client.post(f"/api/me/{alice.did}")

    assert [account["handle"] for account in both["accounts"]] == ["bob.test", "alice.test"]
    assert client.get("/api/me").json()["handle"] == "alice.test"


def test_plays_come_in_live(client: TestClient) -> None:
    login(client, "alice.test")
    with client.websocket_connect("ws://127.0.0.1:8000/live") as socket:
        hello = socket.receive_json()
        note(client)
        play: dict[str, Any] = socket.receive_json()

    assert hello == {"hello": "alice.test"}
    assert play["track"] == "Carey"


def test_strangers_hear_nothing(client: TestClient) -> None:
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("ws://127.0.0.1:8000/live"),
    ):
        pytest.fail("the handshake of a stranger was accepted")


def test_what_is_checked_before_anything_else(client: TestClient, atproto_network: Network) -> None:
    signed_in(client, did=atproto_network.account("alice.test").did)
    answer = client.post("/api/plays", json={"artist": "", "track": "Carey"})

    assert answer.status_code == 422


def test_sessions_are_kept_beside_the_apps_tables(migrated: None, atproto_network: Network) -> None:
    from examples.listening.app import app, oauth

    with atproto_network.attach(oauth, keep_store=True):
        with TestClient(app) as client:
            login(client, "alice.test")
        with TestClient(app, base_url="http://127.0.0.1:8000", cookies=client.cookies) as later:
            assert later.get("/api/me").json()["handle"] == "alice.test"
