from __future__ import annotations

import socket
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from atproto_oauth_asgi import ATProtoOAuth, ClientKeys
from atproto_oauth_asgi.keys import generate_client_keys
from atproto_oauth_asgi.testing import Network, login
from tests.kit.apps import make, starlette_app


class ElsewhereResolver:
    """Would ask somebody outside of the network."""

    async def resolve_handle(self, handle: str) -> str | None:
        raise AssertionError(f"{handle} was looked up outside of the network")


@pytest.mark.parametrize(
    ("base_url", "settings"),
    [
        ("https://app.birdsong.dev", {}),
        ("https://app.birdsong.dev/below", {}),
        ("https://app.birdsong.dev", {"client_keys": ClientKeys(generate_client_keys())}),
        ("http://127.0.0.1:8000", {}),
        ("http://[::1]:8000", {}),
        ("https://app.birdsong.dev", {"plc_url": "https://plc.nowhere.dev"}),
        ("https://app.birdsong.dev", {"handle_resolver_url": "https://resolver.nowhere.dev"}),
        ("https://app.birdsong.dev", {"egress_proxy": "http://127.0.0.1:1"}),
        ("https://app.birdsong.dev", {"handle_resolver": ElsewhereResolver()}),
        ("https://app.birdsong.dev", {"login_page": "/sign-in", "prefix": "/auth"}),
    ],
    ids=str,
)
def test_whatever_the_settings_are_the_app_reaches_the_network(
    base_url: str, settings: dict[str, object], atproto_network: Network
) -> None:
    oauth = make(base_url, store_url="postgresql+asyncpg://nobody@127.0.0.1:1/none", **settings)
    atproto_network.attach(oauth)
    client = TestClient(starlette_app(oauth))
    login(client, "alice.test")

    assert client.get("/me").json()["handle"] == "alice.test"
    assert len(atproto_network.sessions("alice.test")) == 1


def test_no_port_is_opened(
    oauth: ATProtoOAuth, atproto_network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    families: list[socket.AddressFamily] = []
    original = socket.socket.bind, socket.socket.connect

    def bind(self: socket.socket, address: object) -> None:
        families.append(self.family)
        original[0](self, address)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    def connect(self: socket.socket, address: object) -> None:
        families.append(self.family)
        original[1](self, address)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(socket.socket, "bind", bind)
    monkeypatch.setattr(socket.socket, "connect", connect)
    atproto_network.attach(oauth)
    client = TestClient(starlette_app(oauth))
    login(client, "alice.test")
    answer = client.get("/me")
    with socket.create_server(("127.0.0.1", 0)):
        pass

    assert answer.status_code == 200
    assert families == [socket.AF_INET]  # the one of this test, which shows that it would be seen


def test_everything_is_put_back_when_a_test_fails(oauth: ATProtoOAuth) -> None:
    before, network = oauth.core, Network()
    client = TestClient(starlette_app(oauth))
    with network.attach(oauth):
        login(client, "alice.test")
    with pytest.raises(RuntimeError, match="the test failed"), network.attach(oauth):
        raise RuntimeError("the test failed")

    assert oauth.core is before
    # The app's own database again, which is away.
    assert client.get("/oauth/session").status_code == 503


def test_sessions_stay_out_of_the_apps_database(tmp_path: Path, atproto_network: Network) -> None:
    database = tmp_path / "app.db"
    oauth = make(store_url=f"sqlite:///{database}")
    atproto_network.attach(oauth)
    with TestClient(starlette_app(oauth)) as client:
        login(client, "alice.test")

    assert not database.exists()


def test_the_apps_store_can_be_kept(tmp_path: Path, atproto_network: Network) -> None:
    oauth = make("http://127.0.0.1:8000", store_url=f"sqlite:///{tmp_path}/app.db")
    atproto_network.attach(oauth, keep_store=True)
    with TestClient(starlette_app(oauth)) as client:
        login(client, "alice.test")
    atproto_network.detach()
    with TestClient(starlette_app(oauth), base_url="http://127.0.0.1:8000") as later:
        later.cookies.update(client.cookies)
        assert later.get("/who").json()["did"] == atproto_network.account("alice.test").did


def test_attached_after_the_app_was_opened(tmp_path: Path, atproto_network: Network) -> None:
    oauth = make("http://127.0.0.1:8000", store_url=f"sqlite:///{tmp_path}/app.db")
    with TestClient(starlette_app(oauth)) as client:
        client.get("/who")
        atproto_network.attach(oauth)
        login(client, "alice.test")
        inside = client.get("/me").json()["handle"]
        atproto_network.detach()
        outside = client.get("/who").json()["did"]

    assert inside == "alice.test"
    assert outside is None


def test_opened_while_attached_and_closed_after(tmp_path: Path) -> None:
    oauth = make("http://127.0.0.1:8000", store_url=f"sqlite:///{tmp_path}/app.db")
    network = Network()
    with network.attach(oauth):
        client = TestClient(starlette_app(oauth))
        client.__enter__()
        login(client, "alice.test")
        footing = oauth._footing  # pyright: ignore[reportPrivateUsage]
    client.__exit__(None, None, None)

    left = footing._runtimes  # pyright: ignore[reportPrivateUsage]
    assert [runtime.owners for runtime in left.values()] == []


def test_a_second_attach_changes_nothing(oauth: ATProtoOAuth, atproto_network: Network) -> None:
    atproto_network.attach(oauth)
    client = TestClient(starlette_app(oauth))
    login(client, "alice.test")
    with atproto_network.attach(oauth):
        assert client.get("/me").status_code == 200

    assert client.get("/me").status_code == 200


def test_another_network_inside(oauth: ATProtoOAuth, atproto_network: Network) -> None:
    other = Network(["carol.test"])
    atproto_network.attach(oauth)
    client = TestClient(starlette_app(oauth))
    login(client, "alice.test")
    with other.attach(oauth):
        login(TestClient(starlette_app(oauth)), "carol.test")
        assert client.get("/who").json()["did"] is None

    assert client.get("/me").json()["handle"] == "alice.test"
    assert len(other.sessions()) == 1


def test_attachments_may_end_in_any_order(oauth: ATProtoOAuth) -> None:
    before, first, second = oauth.core, Network(), Network()
    outer, inner = first.attach(oauth), second.attach(oauth)
    outer.detach()
    still = oauth.core.policy.apps is second.policy().apps
    inner.detach()
    inner.detach()

    assert still
    assert oauth.core is before


def test_each_request_may_have_an_event_loop_of_its_own(
    oauth: ATProtoOAuth, atproto_network: Network
) -> None:
    atproto_network.attach(oauth)
    app = starlette_app(oauth)
    clients = [TestClient(app) for _ in range(3)]
    for client in clients:
        login(client, "alice.test")
    with TestClient(app) as opened:
        login(opened, "alice.test")
        answers = [client.get("/me").json()["handle"] for client in [*clients, opened] * 2]

    assert answers == ["alice.test"] * 8


@pytest.mark.anyio
async def test_jobs_reach_the_network_too(oauth: ATProtoOAuth, atproto_network: Network) -> None:
    atproto_network.attach(oauth)
    transport = httpx.ASGITransport(starlette_app(oauth))
    async with httpx.AsyncClient(transport=transport) as client:
        account = await login(client, "alice.test")
    async with oauth.session_for(account.did) as session:
        me = await session.query("com.atproto.server.getSession")

    assert me["handle"] == "alice.test"
