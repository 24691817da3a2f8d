"""The authorization request that is pushed to the server, and where the browser goes with it."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest

from atproto_oauth_asgi.testing.web import Answer
from tests.app.world import BASE_URL, SCRIPT, world

pytestmark = pytest.mark.anyio

SCOPE = "atproto repo:app.bsky.feed.post"


@pytest.mark.spec("E1", "E2", "E4", "E5", "E6", "E7", "I5", "I8")
async def test_the_request_is_pushed_with_all_that_the_profile_wants_and_nothing_else() -> None:
    async with world(scope=SCOPE) as here:
        first, second = [await here.begin("@Alice.test") for _ in range(2)]
        one, two = [here.pushed(begun.headers["location"]) for begun in (first, second)]

        assert dict(one.parameters) | {"state": "", "code_challenge": ""} == {
            "client_id": f"{BASE_URL}/oauth-client-metadata.json",
            "response_type": "code",
            "response_mode": "query",
            "redirect_uri": f"{BASE_URL}/oauth/callback",
            "scope": SCOPE,
            "login_hint": "alice.test",
            "code_challenge_method": "S256",
            "state": "",
            "code_challenge": "",
        }
        # 256 bits (atproto OAuth: PAR asks for at least 128).
        assert len(one.parameters["state"]) == 43
        assert one.parameters["state"] != two.parameters["state"]
        assert one.parameters["code_challenge"] != two.parameters["code_challenge"]
        assert one.jkt is not None
        assert one.jkt != two.jkt


@pytest.mark.spec("E9")
@pytest.mark.parametrize("status", [200, 201])
async def test_a_pushed_request_of_the_shortest_life_is_used(status: int) -> None:
    def shortest(answer: Answer) -> Answer:
        if answer.status != 201:
            return answer
        return replace(answer, status=status).with_json(expires_in=1)

    async with world() as here:
        with here.network.alter("/oauth/par", shortest):
            assert (await here.begin()).status_code == 303


@pytest.mark.spec("F1", "F2")
async def test_the_browser_is_sent_on_with_the_pushed_request_only() -> None:
    async with world() as here:
        begun = await here.begin()
        url = urlsplit(begun.headers["location"])

        assert begun.status_code == 303
        assert begun.headers["cache-control"] == "no-store"
        assert f"{url.scheme}://{url.netloc}{url.path}" == "https://pds.example/oauth/authorize"
        assert sorted(parse_qs(url.query)) == ["client_id", "request_uri"]


@pytest.mark.spec("F1")
@pytest.mark.parametrize("kept", ["tenant=a%26b", "x=%FF", "a=1&b=2&a=3", ""])
async def test_a_query_of_the_authorization_endpoint_is_kept(kept: str) -> None:
    endpoint = f"https://pds.example/oauth/authorize?{kept}"
    async with world() as here:
        with here.network.alter(
            "/.well-known/oauth-authorization-server",
            lambda answer: answer.with_json(authorization_endpoint=endpoint),
        ):
            begun = await here.begin()

        url = begun.headers["location"]
        assert url.startswith(f"{endpoint}&client_id=" if kept else f"{endpoint}client_id=")
        names = {name.partition("=")[0] for name in kept.split("&")} - {""}
        assert set(parse_qs(urlsplit(url).query)) == {"client_id", "request_uri"} | names


@pytest.mark.spec("E9")
async def test_how_a_number_is_written_makes_no_difference() -> None:
    async with world() as here:
        with here.network.alter(
            "/oauth/par",
            lambda answer: answer.with_json(expires_in=300.0) if answer.status == 201 else answer,
        ):
            assert (await here.begin()).status_code == 303


@pytest.mark.spec("E8", "I10", "I11")
async def test_the_servers_nonce_challenge_is_answered_once() -> None:
    async with world() as here:
        await here.begin()
        # What one login learnt saves the next one a round trip, and the code's way too.
        await here.login()

        assert [one.status for one in here.network.log.of("par")] == [400, 201, 201]
        assert [one.status for one in here.network.log.of("token")] == [200]


@pytest.mark.spec("I11")
async def test_a_server_that_asks_for_nonces_for_ever_is_given_up() -> None:
    async with world() as here:
        asked = here.network.alter(
            "/oauth/par",
            lambda answer: (
                answer.with_header("dpop-nonce", "the-same-again")
                if answer.status == 400
                else answer
            ),
        )
        with asked:
            answer = await here.begin()

        assert answer.status_code == 502
        assert len(here.network.log.of("par")) == 2


@pytest.mark.spec("I13")
async def test_a_server_that_gives_no_nonce_is_refused() -> None:
    async with world() as here:
        await here.begin()
        with here.network.alter(
            "/oauth/par", lambda answer: answer.with_header("dpop-nonce", None)
        ):
            answer = await here.begin()

        assert answer.status_code == 502


@pytest.mark.spec("E9")
@pytest.mark.parametrize(
    "changed",
    [
        {"request_uri": None},
        {"request_uri": ""},
        {"request_uri": 1},
        {"expires_in": None},
        {"expires_in": -1},
        {"expires_in": True},
        {"expires_in": "300"},
    ],
)
async def test_a_wrong_answer_to_the_pushed_request_is_refused(
    changed: dict[str, object],
) -> None:
    async with world() as here:
        with here.network.alter(
            "/oauth/par",
            lambda answer: answer.with_json(**changed) if answer.status == 201 else answer,
        ):
            answer = await here.begin()

        assert answer.status_code == 502
        assert "refused the sign-in" in answer.text


@pytest.mark.spec("E11", "M9", "D5")
@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        ("invalid_scope", "scope_refused", 400),
        ("invalid_client_metadata", "authorization_failed", 502),
        ("invalid_client", "authorization_failed", 502),
        ("unauthorized_client", "authorization_failed", 502),
        ("<script>", "authorization_failed", 502),
        (None, "authorization_failed", 502),
    ],
)
async def test_a_refused_request_is_typed_and_the_servers_words_are_for_the_log(
    error: str | None, code: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    words = "Loopback clients are <b>not</b> allowed: include:com.example.none not found"
    async with world(base_url="http://127.0.0.1:8000") as here:
        with here.network.alter(
            "/oauth/par",
            lambda answer: (
                replace(answer, status=400).with_json(error=error, error_description=words)
                if answer.status == 201
                else answer
            ),
        ):
            page = await here.begin()
            script = await here.browser.post(
                "/oauth/login", json={"identifier": "alice.test"}, headers=SCRIPT
            )

        assert (page.status_code, script.status_code) == (status, status)
        assert script.json()["error"] == code
        assert "Loopback" not in page.text + script.text
        assert "<script>" not in page.text
    said = [one for one in caplog.records if one.getMessage() == "login.refused_by_server"]
    assert len(said) == 2
    assert all("Loopback clients are" in str(one.__dict__) for one in said)


@pytest.mark.spec("E11")
@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_server_in_trouble_is_tried_again_in_a_moment(status: int) -> None:
    async with world() as here:
        with here.network.alter("/oauth/par", lambda _: Answer(status=status)):
            begun = await here.begin()

        assert begun.status_code == 502
        assert begun.headers["retry-after"] == "5"
        assert "could not be reached. Please try again in a moment." in begun.text
