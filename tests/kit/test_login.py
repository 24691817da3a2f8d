from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastapi.testclient
import httpx
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from atproto_oauth_asgi import ATProtoOAuth, Login, LoginRefused
from atproto_oauth_asgi.testing import KitError, LoginFailed, Network, deny, login, sign_out
from tests.kit.apps import (
    POST,
    fastapi_app,
    make,
    on_login,
    starlette_app,
    without_middleware,
    wrapped_app,
)


@pytest.fixture
def client(oauth: ATProtoOAuth, atproto_network: Network) -> TestClient:
    atproto_network.attach(oauth)
    return TestClient(starlette_app(oauth))


def scopes(client: TestClient) -> set[str]:
    return set(client.get("/oauth/session").json()["scopes"])


def mounted(oauth: ATProtoOAuth) -> Starlette:
    return Starlette(routes=[Mount("/below", app=starlette_app(oauth))])


@pytest.mark.parametrize("make_app", [starlette_app, fastapi_app, wrapped_app])
@pytest.mark.parametrize("opened", [False, True])
def test_starlettes_and_fastapis_client(
    opened: bool, make_app: Callable[[ATProtoOAuth], ASGIApp], atproto_network: Network
) -> None:
    oauth = make()
    atproto_network.attach(oauth)
    client = fastapi.testclient.TestClient(make_app(oauth))
    if opened:
        with client:
            account = login(client, "alice.test")
            me = client.get("/me").json()
    else:
        account = login(client, "alice.test")
        me = client.get("/me").json()

    assert (me["handle"], me["did"]) == ("alice.test", account.did)
    assert str(client.base_url) == "https://app.birdsong.dev"
    assert [cookie.name.startswith("__Host-") for cookie in client.cookies.jar] == [True, True]


@pytest.mark.anyio
@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_httpx_is_awaited(
    library: Any, oauth: ATProtoOAuth, atproto_network: Network
) -> None:
    atproto_network.attach(oauth)
    transport = library.ASGITransport(starlette_app(oauth))
    browser: httpx.AsyncClient = library.AsyncClient(transport=transport)
    async with browser as client:
        account = await login(client, "alice.test")
        me = (await client.get("/me")).json()
        cancelled = await deny(client, "alice.test")
        await sign_out(client)
        nobody = (await client.get("/who")).json()

    assert me["did"] == account.did
    assert cancelled.status_code == 400
    assert nobody == {"did": None}


def test_an_app_under_a_path(atproto_network: Network) -> None:
    oauth = make("https://app.birdsong.dev/below")
    atproto_network.attach(oauth)
    client = TestClient(mounted(oauth))
    login(client, "alice.test")

    assert client.get("/below/me").json()["handle"] == "alice.test"


def test_websockets_know_who_is_signed_in(client: TestClient, atproto_network: Network) -> None:
    account = login(client, "alice.test")
    with client.websocket_connect("wss://app.birdsong.dev/socket") as socket:
        assert socket.receive_text() == account.did


def test_the_scope_that_is_asked_for(client: TestClient) -> None:
    login(client, "alice.test")
    usual = scopes(client)
    login(client, "alice.test", scope="atproto blob:image/*")

    assert usual == {"atproto", POST}
    assert scopes(client) == {"atproto", "blob:image/*"}


def test_the_scope_that_is_granted(client: TestClient) -> None:
    login(client, "alice.test", granted="atproto")

    assert scopes(client) == {"atproto"}


def test_an_account_is_added(client: TestClient) -> None:
    login(client, "alice.test")
    login(client, "bob.test", add=True)
    session = client.get("/oauth/session").json()

    assert session["handle"] == "bob.test"
    assert {account["handle"] for account in session["accounts"]} == {"alice.test", "bob.test"}


def test_who_signs_in_at_an_address_of_a_server(
    client: TestClient, atproto_network: Network
) -> None:
    login(client, atproto_network.host.origin, account="bob.test")

    assert client.get("/me").json()["handle"] == "bob.test"


def test_another_account_than_was_typed(client: TestClient) -> None:
    with pytest.raises(LoginFailed, match="wrong_account") as failed:
        login(client, "alice.test", account="bob.test")

    assert failed.value.code == "wrong_account"
    assert client.get("/who").json() == {"did": None}


def test_a_refusal_of_the_app(atproto_network: Network) -> None:
    oauth = make(on_login=on_login)
    atproto_network.attach(oauth)
    client = TestClient(starlette_app(oauth))
    with pytest.raises(LoginFailed, match=r"login_refused: Bob may not come in\.") as failed:
        login(client, "bob.test")

    assert failed.value.response.status_code == 403
    assert "Bob may not come in." in failed.value.response.text


def test_a_refusal_of_somebody_who_is_signed_in_already(atproto_network: Network) -> None:
    refusing = False

    async def doorman(_login: Login) -> None:
        if refusing:
            raise LoginRefused("Not again.")

    oauth = make(on_login=doorman)
    atproto_network.attach(oauth)
    client = TestClient(starlette_app(oauth))
    login(client, "alice.test")
    refusing = True
    with pytest.raises(LoginFailed, match="login_refused"):
        login(client, "alice.test")

    assert client.get("/who").json()["did"] is not None


def test_a_login_that_cannot_be_begun(client: TestClient, atproto_network: Network) -> None:
    with atproto_network.outage(), pytest.raises(LoginFailed, match="pds_unreachable") as failed:
        login(client, "alice.test")

    assert failed.value.response.status_code == 502


def test_cancel(client: TestClient) -> None:
    answer = deny(client, "alice.test")

    assert answer.status_code == 400
    assert "cancel" in answer.text.lower()
    assert client.get("/who").json() == {"did": None}


def test_cancel_on_a_page_of_the_apps_own(atproto_network: Network) -> None:
    oauth = make(login_page="/sign-in")
    atproto_network.attach(oauth)
    client = TestClient(starlette_app(oauth))
    answer = deny(client, "alice.test")

    assert answer.status_code == 303
    assert "error=cancelled" in answer.headers["location"]


def test_sign_out_ends_it_at_the_server_too(client: TestClient, atproto_network: Network) -> None:
    login(client, "alice.test")
    sign_out(client)

    assert client.get("/who").json() == {"did": None}
    assert atproto_network.sessions() == []


def test_cookies_survive_where_the_default_address_would_drop_them(client: TestClient) -> None:
    assert str(client.base_url) == "http://testserver"
    client.get("/who")
    login(client, "alice.test")

    assert client.get("/who").json()["did"] is not None


# --- What is missing is said, and what to do about it ---


def test_without_a_network(oauth: ATProtoOAuth) -> None:
    with pytest.raises(KitError, match=r"attached to no network.*atproto_network\.attach\(oauth\)"):
        login(TestClient(starlette_app(oauth)), "alice.test")


def test_without_middleware(oauth: ATProtoOAuth, atproto_network: Network) -> None:
    atproto_network.attach(oauth)
    client = TestClient(without_middleware())
    with pytest.raises(KitError, match="No ATProtoOAuthMiddleware was found"):
        login(client, "alice.test")
    with pytest.raises(KitError, match=r"answered 404 to POST .*/login.* said: Not Found"):
        login(client, "alice.test", oauth=oauth)


def test_with_an_unknown_account(client: TestClient) -> None:
    with pytest.raises(KitError, match=r"add_account\('carol.test'\)"):
        login(client, "carol.test")
    with pytest.raises(KitError, match=r"add_account\('carol.test'\)"):
        deny(client, "carol.test")


def test_with_an_address_and_no_account(client: TestClient, atproto_network: Network) -> None:
    with pytest.raises(KitError, match=r'account="alice.test"'):
        login(client, atproto_network.host.origin)


def test_with_two_that_log_in(atproto_network: Network) -> None:
    first, second = make(), make("https://other.birdsong.dev")
    atproto_network.attach(first)
    atproto_network.attach(second)
    both = Starlette(
        routes=[Mount("/a", app=starlette_app(first)), Mount("/b", app=starlette_app(second))]
    )
    with pytest.raises(KitError, match="more than one ATProtoOAuth"):
        login(TestClient(both), "alice.test")


def test_with_a_client_that_goes_elsewhere(oauth: ATProtoOAuth, atproto_network: Network) -> None:
    atproto_network.attach(oauth)
    with (
        httpx.Client(base_url="http://127.0.0.1:1", trust_env=False) as client,
        pytest.raises(KitError, match=r"over a socket, but BASE_URL is https://app\.birdsong\.dev"),
    ):
        login(client, "alice.test", oauth=oauth)


def test_with_a_scope_that_is_not_configured(client: TestClient) -> None:
    with pytest.raises(LoginFailed, match=r"scope_refused: 'repo:x\.y\.z' is in neither SCOPE nor"):
        login(client, "alice.test", scope="atproto repo:x.y.z")


def test_with_atproto_not_granted(client: TestClient) -> None:
    with pytest.raises(LoginFailed) as failed:
        login(client, "alice.test", granted=POST)

    assert failed.value.code == "scope_refused"
