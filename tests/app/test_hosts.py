from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from atproto_oauth_asgi.testing import Network
from tests.app.world import BASE_URL, PAGE, world

pytestmark = pytest.mark.anyio

LOOPBACK = "http://127.0.0.1:8000"


@pytest.mark.spec("D4")
async def test_a_login_page_under_another_name_moves_to_the_right_one_once() -> None:
    async with world(base_url=LOOPBACK) as here:
        moved = await here.browser.get(
            "/oauth/login?next=/who", headers={"host": "localhost:8000", **PAGE}
        )
        location = moved.headers["location"]
        again = await here.browser.get(location, headers={"host": "localhost:8000", **PAGE})
        arrived = await here.browser.get(location, headers=PAGE)

        assert moved.status_code == 307
        assert location.startswith(f"{LOOPBACK}/oauth/login?next=%2Fwho")
        assert again.status_code == 421
        assert LOOPBACK in again.text
        assert "proxy" in again.text
        assert arrived.status_code == 200
        for answer in (moved, again, arrived):
            assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("host", ["www.birdsong.dev", "app.birdsong.dev:8443", "10.0.0.1"])
async def test_it_does_so_in_production_too(host: str) -> None:
    async with world() as here:
        moved = await here.browser.get("/oauth/login", headers={"host": host, **PAGE})
        again = await here.browser.get(moved.headers["location"], headers={"host": host, **PAGE})

        assert urlsplit(moved.headers["location"]).netloc == "app.birdsong.dev"
        assert again.status_code == 421


async def test_the_apps_own_login_page_is_moved_to_as_well() -> None:
    async with world(login_page="/sign-in") as here:
        moved = await here.browser.get("/oauth/login", headers={"host": "www.birdsong.dev"})
        own = await here.browser.get(moved.headers["location"])

        assert own.headers["location"].startswith(f"{BASE_URL}/sign-in")


@pytest.mark.spec("D4")
@pytest.mark.parametrize("path", ["/oauth/login", "/oauth/logout"])
async def test_in_loopback_a_form_under_another_name_is_refused_with_the_right_one(
    path: str,
) -> None:
    async with world(base_url=LOOPBACK) as here:
        answer = await here.browser.post(
            path,
            data={"identifier": "alice.test"},
            headers={
                "host": "localhost:8000",
                "origin": "http://localhost:8000",
                "sec-fetch-site": "same-origin",
                **PAGE,
            },
        )

        assert answer.status_code == 421
        assert "set-cookie" not in answer.headers
        assert f'href="{LOOPBACK}' in answer.text


@pytest.mark.parametrize(
    ("base_url", "host"),
    [
        (BASE_URL, "App.Birdsong.dev"),
        (BASE_URL, "app.birdsong.dev:443"),
        ("http://127.0.0.1", "127.0.0.1:80"),
    ],
)
async def test_a_host_in_another_spelling_is_the_same(base_url: str, host: str) -> None:
    async with world(base_url=base_url) as here:
        answer = await here.browser.get("/oauth/login", headers={"host": host})

        assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/oauth/login", "/oauth/session"])
async def test_a_request_without_a_host_is_one_under_another_name(path: str) -> None:
    async with world() as here:
        request = here.browser.build_request("GET", path, headers=PAGE)
        del request.headers["host"]
        answer = await here.browser.send(request)

        assert answer.status_code == (307 if path == "/oauth/login" else 200)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost:8000", "[::1]:8000", "[::1]", "localhost"]
)
async def test_in_development_each_name_of_this_machine_is_answered(host: str) -> None:
    network = Network()
    async with world(
        network, base_url=LOOPBACK, allow_insecure_loopback=True, net_policy=network.policy()
    ) as here:
        answer = await here.browser.get("/oauth/session", headers={"host": host})

        assert answer.status_code == 200


@pytest.mark.parametrize("host", ["evil.example:8000", "127.0.0.1.evil.example", "rebound.test"])
@pytest.mark.parametrize("path", ["/oauth/login", "/oauth/session", "/oauth/callback?state=x"])
async def test_in_development_a_rebound_name_is_refused(host: str, path: str) -> None:
    network = Network()
    async with world(
        network, base_url=LOOPBACK, allow_insecure_loopback=True, net_policy=network.policy()
    ) as here:
        answer = await here.browser.get(path, headers={"host": host})

        assert answer.status_code == 421


@pytest.mark.spec("D1", "D2", "D3")
async def test_the_loopback_client_logs_in_without_any_registration() -> None:
    async with world(base_url=LOOPBACK, scope="atproto transition:generic") as here:
        begun = await here.begin()
        pushed = here.pushed(begun.headers["location"]).parameters
        back = await here.browser.get(here.network.approve(begun.headers["location"], "alice.test"))

        assert pushed["client_id"].startswith("http://localhost?")
        assert pushed["redirect_uri"] == f"{LOOPBACK}/oauth/callback"
        assert back.status_code == 303
        assert (await here.browser.get("/me")).json()["handle"] == "alice.test"
