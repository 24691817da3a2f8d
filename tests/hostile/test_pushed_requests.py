"""An authorization server that lies about a pushed request gets nobody's browser."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
import pytest

from tests.app.faulty_store import FaultyStore
from tests.app.world import SCRIPT, World, world
from tests.hostile.lies import (
    BODIES,
    NONCES,
    Change,
    endless_challenge,
    honest_challenge,
    member,
    nonce,
    raw,
    redirect,
    unlimited,
)

pytestmark = [pytest.mark.anyio, pytest.mark.spec("E9", "E11", "P6")]

REQUEST_URIS: list[object] = [
    None, "", 7, True, ["urn:x"], {"a": 1}, "urn:x y", "urn:x\r\nX: y", "urn:\xe9", "\x00",
    "urn:" + "x" * 2000,
]  # fmt: skip
LIVES: list[object] = [None, 0, -1, 1.5, "60", True, False, [], {}]


async def begin(here: World) -> httpx.Response:
    return await here.browser.post(
        "/oauth/login",
        data={"identifier": "alice.test"},
        headers={"origin": here.origin, **SCRIPT},
    )


async def all_refused(
    lies: Mapping[str, Change], *, requests: int = 2, code: str = "authorization_failed"
) -> None:
    """Begin a login at a server that lies, in each of some ways."""
    store = FaultyStore()
    async with world(store=store, limit_logins=unlimited) as here:
        for name, lie in lies.items():
            before = len(here.network.log.of("par"))
            with here.network.alter("/oauth/par", lie):
                begun = await begin(here)

            assert begun.status_code == 502, name
            assert begun.json()["error"] == code, name
            assert set(begun.json()) == {"error", "message"}, name
            assert "location" not in begun.headers, name
            assert not store.attempts, name
            assert len(here.network.log.of("par")) - before <= requests, name
        # An honest answer is believed all the same.
        assert (await begin(here)).status_code == 200
        assert len(store.attempts) == 1


async def test_a_request_uri_that_is_none() -> None:
    await all_refused(
        {repr(value): honest_challenge(member("request_uri", value)) for value in REQUEST_URIS}
    )


async def test_a_life_that_is_none() -> None:
    await all_refused(
        {repr(value): honest_challenge(member("expires_in", value)) for value in LIVES}
    )


@pytest.mark.parametrize("status", [200, 201])
async def test_a_success_that_is_none(status: int) -> None:
    await all_refused(
        {name: honest_challenge(raw(body, status=status)) for name, body in BODIES.items()}
    )


async def test_another_status_than_success() -> None:
    page = b"<h1>No</h1>"

    def lies(*statuses: int) -> Mapping[str, Change]:
        return {
            f"{status}": honest_challenge(raw(page, status=status, content_type="text/html"))
            for status in statuses
        }

    await all_refused(lies(202, 204, 400, 401, 403, 404, 413, 418))
    # Its own trouble passes.
    await all_refused(lies(429, 500, 503), code="pds_unreachable")


@pytest.mark.spec("P5")
async def test_a_redirect_is_not_followed() -> None:
    await all_refused(
        {
            f"{status}": honest_challenge(redirect(status, "https://pds.example/oauth/par"))
            for status in (301, 302, 303, 307, 308)
        }
    )


@pytest.mark.spec("I13", "I14")
async def test_a_success_without_a_nonce() -> None:
    await all_refused({name: honest_challenge(nonce(*values)) for name, values in NONCES.items()})


@pytest.mark.spec("I11", "E8")
async def test_a_challenge_with_a_new_nonce_each_time_is_answered_once() -> None:
    lie = endless_challenge()
    await all_refused({"endless": lie})
    assert next(lie.count) == 3


@pytest.mark.spec("I11", "I14")
async def test_a_challenge_without_a_nonce_is_not_answered() -> None:
    challenge = raw(b'{"error":"use_dpop_nonce"}', status=400)

    def without(values: tuple[str, ...]) -> Change:
        return lambda answer: nonce(*values)(challenge(answer))

    await all_refused({name: without(values) for name, values in NONCES.items()}, requests=1)


@pytest.mark.spec("F1")
async def test_a_request_uri_cannot_add_parameters() -> None:
    async with world() as here:
        evil = "urn:x&client_id=evil&scope=all#x?a=%26"
        with here.network.alter("/oauth/par", honest_challenge(member("request_uri", evil))):
            begun = await here.begin()

        url = httpx.URL(begun.headers["location"])
        assert url.fragment == ""
        assert dict(url.params) == {
            "client_id": here.oauth.core.client.client_id,
            "request_uri": evil,
        }


@pytest.mark.spec("E11", "G6", "P8")
async def test_what_the_server_says_is_not_repeated_to_the_person() -> None:
    for body in (
        b'{"error":"<script>alert(1)</script>","error_description":"<img src=x onerror=a()>"}',
        b'{"error":["invalid_request"],"error_description":{"a":1}}',
        b'{"error":"invalid_scope","error_description":"Call +1 555 to unlock your account"}',
    ):
        async with world() as here:
            with here.network.alter("/oauth/par", honest_challenge(raw(body, status=400))):
                page = await here.begin()

            assert page.status_code in {400, 502}
            for words in ("alert(1)", "onerror", "555"):
                assert words not in page.text
