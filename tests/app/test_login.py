from __future__ import annotations

from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest

from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.testing.web import Answer
from tests.app.world import BASE_URL, PAGE, SCRIPT, world

pytestmark = pytest.mark.anyio

SCOPE = "atproto repo:app.bsky.feed.post"
OPTIONAL = "blob:image/*"


async def test_a_person_logs_in_and_the_app_acts_for_them() -> None:
    async with world() as here:
        back = await here.login()
        answer = await here.browser.get("/me")

        assert back.status_code == 303
        assert back.headers["location"] == "https://app.birdsong.dev"
        assert answer.json()["handle"] == "alice.test"


@pytest.mark.spec("A20")
@pytest.mark.parametrize("start", ["handle", "did", "pds"])
async def test_a_login_starts_from_a_handle_a_did_or_a_servers_address(start: str) -> None:
    async with world() as here:
        identifier = {
            "handle": "alice.test",
            "did": here.did(),
            "pds": here.network.host.origin,
        }[start]
        back = await here.login(identifier, "alice.test")

        assert back.status_code == 303
        assert await here.who() == here.did()


@pytest.mark.spec("A20", "I19")
async def test_a_login_starts_from_the_address_of_an_authorization_server_that_is_no_pds() -> None:
    network = Network()
    server, pds = network.host, network.add_host("https://pds2.example")
    carol = network.add_account("carol.test", host=pds)
    server.accounts.add(carol)

    resource = network.alter(
        "/.well-known/oauth-protected-resource",
        lambda answer: (
            answer.with_json(authorization_servers=[server.origin])
            if answer.json()["resource"] == pds.origin
            else replace(answer, status=404)
        ),
    )
    metadata = network.alter(
        "/.well-known/oauth-authorization-server",
        lambda answer: answer.with_json(protected_resources=None),
    )
    with resource, metadata:
        async with world(network) as here:
            by_server = await here.login(server.origin, "carol.test")
            by_handle = await here.login("carol.test")
            async with here.oauth.session_for(carol.did) as session:
                assert (session.issuer, session.pds) == (server.origin, pds.origin)

            assert (by_server.status_code, by_handle.status_code) == (303, 303)
            assert await here.who() == carol.did


@pytest.mark.spec("A2")
@pytest.mark.parametrize(
    "typed",
    [
        "@alice.test",
        "  Alice.Test ",
        "alice.test\u200b",
        "\u202aalice.test\u202c",
        "at://alice.test",
        "at://alice.test/app.bsky.feed.post/3k",
        "https://bsky.app/profile/alice.test",
        "\uff41lice\uff0etest",
    ],
)
async def test_what_people_really_type_is_understood(typed: str) -> None:
    async with world() as here:
        assert (await here.login(typed, "alice.test")).status_code == 303


@pytest.mark.parametrize(
    "typed", ["", " ", "alice", "alice@mail.test", "did:plc:", "https://a.test/x", "x" * 5000]
)
async def test_what_cannot_be_an_account_is_said_and_nobody_is_asked(typed: str) -> None:
    async with world() as here:
        answer = await here.begin(typed)

        assert answer.status_code == 400
        assert 'role="alert"' in answer.text
        assert not len(here.network.log)


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


async def test_in_development_a_server_may_be_typed_with_http() -> None:
    async with world(base_url="http://127.0.0.1:8000", allow_insecure_loopback=True) as here:
        begun = await here.browser.post(
            "/oauth/login", json={"identifier": "http://127.0.0.1:1"}, headers=SCRIPT
        )

        assert begun.json()["error"] != "invalid_identifier"


@pytest.mark.spec("E6", "A20")
async def test_a_login_from_a_servers_address_gives_no_hint() -> None:
    async with world() as here:
        begun = await here.begin(here.network.host.origin)

        assert "login_hint" not in here.pushed(begun.headers["location"]).parameters


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


@pytest.mark.parametrize("scope", [SCOPE, f"atproto {OPTIONAL}", f"{SCOPE} {OPTIONAL}", "atproto"])
async def test_a_login_asks_for_any_of_the_declared_scopes(scope: str) -> None:
    async with world(scope=SCOPE, optional_scope=OPTIONAL) as here:
        begun = await here.begin(scope=scope)

        assert here.pushed(begun.headers["location"]).parameters["scope"] == scope


@pytest.mark.spec("E2", "M2", "M1")
@pytest.mark.parametrize(
    "scope",
    [
        "atproto transition:generic",
        OPTIONAL,
        "repo:app.bsky.feed.post",
        "atproto atproto",
        "atproto rpc:*?aud=*",
    ],
)
async def test_a_scope_that_is_not_declared_is_refused_before_anybody_is_asked(scope: str) -> None:
    async with world(scope=SCOPE, optional_scope=OPTIONAL) as here:
        page = await here.begin(scope=scope)
        script = await here.browser.post(
            "/oauth/login", json={"identifier": "alice.test", "scope": scope}, headers=SCRIPT
        )

        assert page.status_code == script.status_code == 400
        assert script.json()["error"] == "scope_refused"
        assert not here.network.log.of("par")


@pytest.mark.spec("E3", "E6")
async def test_prompt_is_passed_on_and_checked() -> None:
    async with world() as here:
        begun = await here.begin(prompt="login")
        create = await here.begin(prompt="create")
        before = len(here.network.log)
        refused = await here.begin(prompt="maybe")
        silent = await here.begin(prompt="none")

        assert here.pushed(begun.headers["location"]).parameters["prompt"] == "login"
        assert "login_hint" not in here.pushed(create.headers["location"]).parameters
        assert (refused.status_code, silent.status_code) == (400, 400)
        assert len(here.network.log) == before


@pytest.mark.spec("F2")
async def test_a_script_is_given_the_address_to_open() -> None:
    async with world() as here:
        answer = await here.browser.post(
            "/oauth/login", json={"identifier": "alice.test", "next": "/who"}, headers=SCRIPT
        )
        back = await here.browser.get(here.network.approve(answer.json()["url"], "alice.test"))

        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        assert back.headers["location"] == f"{BASE_URL}/who"


async def test_htmx_is_told_to_leave_the_page() -> None:
    async with world() as here:
        answer = await here.browser.post(
            "/oauth/login",
            data={"identifier": "alice.test"},
            headers={"hx-request": "true", "sec-fetch-site": "same-origin"},
        )
        back = await here.browser.get(
            here.network.approve(answer.headers["hx-redirect"], "alice.test")
        )

        assert answer.status_code == 204
        assert back.status_code == 303


async def test_an_interstitial_page_goes_on_where_a_policy_forbids_the_redirect() -> None:
    async with world() as here:
        answer = await here.begin(interstitial="1")

        assert answer.status_code == 200
        assert 'http-equiv="refresh"' in answer.text
        assert 'href="https://pds.example/oauth/authorize?client_id=' in answer.text
        assert here.oauth.cookies.login in answer.headers["set-cookie"]


@pytest.mark.spec("F4")
@pytest.mark.parametrize("query", ["", "?identifier=alice.test", "?identifier=https://10.0.0.1"])
async def test_opening_the_login_page_asks_nobody_and_sets_nothing(query: str) -> None:
    async with world() as here:
        answer = await here.browser.get(f"/oauth/login{query}", headers=PAGE)

        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers
        assert not len(here.network.log)


async def test_a_link_with_an_identifier_asks_for_one_click() -> None:
    async with world() as here:
        answer = await here.browser.get(
            "/oauth/login?identifier=alice.test&next=/who&scope=atproto&add=1&prompt=login"
        )

        assert "Continue as <b>alice.test</b>?" in answer.text
        for name, value in {
            "identifier": "alice.test",
            "next": "/who",
            "scope": "atproto",
            "add": "1",
            "prompt": "login",
        }.items():
            assert f'<input type="hidden" name="{name}" value="{value}">' in answer.text


@pytest.mark.spec("G6")
async def test_nothing_from_the_address_gets_into_the_page_unescaped() -> None:
    async with world() as here:
        evil = "%22%3E%3Cscript%3Ealert(1)%3C/script%3E"
        answer = await here.browser.get(
            f"/oauth/login?identifier={evil}&next={evil}&error={evil}&scope={evil}"
        )

        assert "<script" not in answer.text
        assert "Signing in did not work" in answer.text


async def test_the_page_after_a_failure_holds_what_was_typed_and_the_rest() -> None:
    async with world() as here:
        answer = await here.begin("nobody.test", next="/who", add="1")

        assert answer.status_code == 400
        assert "That handle was not found" in answer.text
        assert 'value="nobody.test"' in answer.text
        assert '<input type="hidden" name="next" value="/who">' in answer.text
        assert '<input type="hidden" name="add" value="1">' in answer.text


async def test_the_apps_own_login_page_gets_every_visit_and_every_failure() -> None:
    async with world(login_page="/sign-in?lang=en") as here:
        visit = await here.browser.get("/oauth/login?next=/who&identifier=alice.test")
        failed = await here.begin("nobody.test", next="/who")
        script = await here.browser.post(
            "/oauth/login", json={"identifier": "nobody.test"}, headers=SCRIPT
        )
        begun = await here.begin()
        back = await here.browser.get(here.network.deny(begun.headers["location"]))

        page = f"{BASE_URL}/sign-in?lang=en"
        assert visit.headers["location"] == f"{page}&next=%2Fwho&identifier=alice.test"
        assert failed.status_code == 303
        assert failed.headers["location"] == (
            f"{page}&next=%2Fwho&error=handle_not_found&identifier=nobody.test"
        )
        assert (script.status_code, script.json()["error"]) == (400, "handle_not_found")
        location = parse_qs(urlsplit(back.headers["location"]).query)
        assert location["error"] == ["cancelled"]
        assert location["identifier"] == ["alice.test"]
        assert back.headers["referrer-policy"] == "no-referrer"


async def test_a_form_that_is_too_large_or_no_form_is_refused() -> None:
    async with world() as here:
        headers = {"origin": here.origin}
        large = await here.browser.post(
            "/oauth/login", data={"identifier": "x" * 70_000}, headers=headers
        )
        broken = await here.browser.post(
            "/oauth/login",
            content=b"\xff\xfe",
            headers={**headers, "content-type": "application/x-www-form-urlencoded"},
        )
        lists = await here.browser.post("/oauth/login", json=["alice.test"], headers=headers)
        nested = await here.browser.post(
            "/oauth/login",
            content=b"[" * 60_000,
            headers={**headers, "content-type": "application/json"},
        )

        assert {large.status_code, broken.status_code, lists.status_code, nested.status_code} == {
            400
        }


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
