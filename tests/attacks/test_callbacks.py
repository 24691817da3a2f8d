"""Callbacks that an attacker made, mixed up, copied or bent."""

from __future__ import annotations

import secrets
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest

from atproto_oauth_asgi.attempt import challenge_of
from atproto_oauth_asgi.dpop import DPoPKey
from atproto_oauth_asgi.errors import InvalidCallback, IssuerMismatch
from atproto_oauth_asgi.testing import Network
from tests.app.faulty_store import FaultyStore
from tests.app.world import PAGE, World, world

pytestmark = pytest.mark.anyio

EVIL = "https://pds2.example"


def query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def callback(here: World, **parameters: str) -> str:
    return f"{here.origin}/oauth/callback?{urlencode(parameters)}"


async def pushed_by_an_attacker(here: World, host: str, state: str) -> str:
    """Push a request in the app's name, as anybody can for a public client; return its address."""
    key = DPoPKey.generate()
    form = {
        "client_id": here.oauth.core.client.client_id,
        "response_type": "code",
        "redirect_uri": here.oauth.core.metadata.redirect_uri,
        "scope": "atproto",
        "state": state,
        "code_challenge": challenge_of("v" * 64),
        "code_challenge_method": "S256",
    }
    (honest,) = [one for one in here.network.hosts if one.origin == host]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(honest.app)) as client:
        url = f"{host}/oauth/par"
        proof = key.proof("POST", url, nonce=None)
        first = await client.post(url, data=form, headers={"dpop": proof})
        proof = key.proof("POST", url, nonce=first.headers["dpop-nonce"])
        answer = await client.post(url, data=form, headers={"dpop": proof})
    assert answer.status_code == 201, answer.text
    given = {"client_id": form["client_id"], "request_uri": answer.json()["request_uri"]}
    return f"{host}/oauth/authorize?{urlencode(given)}"


async def two_servers() -> Network:
    network = Network()
    network.add_account("mallory.test", host=network.add_host(EVIL))
    return network


@pytest.mark.spec("G5", "P10")
async def test_mix_up_the_honest_servers_code_is_never_sent_to_the_other_one() -> None:
    network = await two_servers()
    async with world(network) as here:
        # The victim begins at the attacker's server, which sends them on to the honest one with a
        # request that it pushed there itself, with our `state`.
        begun = await here.begin("mallory.test")
        state = here.pushed(begun.headers["location"]).parameters["state"]
        elsewhere = await pushed_by_an_attacker(here, network.host.origin, state)
        back = network.approve(elsewhere, "alice.test")
        assert query(back)["state"] == state
        network.log.clear()

        answer = await here.browser.get(back)

        assert answer.status_code == 400
        assert IssuerMismatch.sentence in answer.text
        assert network.log.of("token") == []
        assert await here.who() is None


@pytest.mark.spec("G5", "P10")
async def test_mix_up_with_the_issuer_forged_sends_a_code_that_is_worth_nothing_there() -> None:
    network = await two_servers()
    async with world(network) as here:
        begun = await here.begin("mallory.test")
        state = here.pushed(begun.headers["location"]).parameters["state"]
        elsewhere = await pushed_by_an_attacker(here, network.host.origin, state)
        honest = query(network.approve(elsewhere, "alice.test"))

        # Who can change the answer on its way can read it too; then PKCE and DPoP are what is left.
        answer = await here.browser.get(callback(here, state=state, code=honest["code"], iss=EVIL))

        assert answer.status_code in {400, 502}
        assert await here.who() is None
        assert network.sessions("alice.test") == []


@pytest.mark.spec("G4", "G7")
@pytest.mark.parametrize("whose", ["the attacker's code", "the victim's code"])
async def test_a_code_in_anothers_callback_buys_nothing(whose: str) -> None:
    async with world() as here, here.another_browser() as attacker:
        victims = query(await here.approved("alice.test"))
        headers = {"origin": here.origin, "accept": "text/html"}
        begun = await attacker.post(
            "/oauth/login", data={"identifier": "bob.test"}, headers=headers
        )
        theirs = query(here.network.approve(begun.headers["location"], "bob.test"))

        if whose == "the attacker's code":
            mixed = {**victims, "code": theirs["code"]}
            answer = await here.browser.get(callback(here, **mixed))
        else:
            mixed = {**theirs, "code": victims["code"]}
            answer = await attacker.get(callback(here, **mixed))

        # The server binds a code to the verifier and the key of its own request.
        assert answer.status_code in {400, 502}
        assert here.network.sessions() == []
        assert await here.who() is None


@pytest.mark.spec("G2")
@pytest.mark.parametrize("error_first", [True, False])
async def test_a_code_beside_an_error_is_not_used(error_first: bool) -> None:
    async with world() as here:
        given = query(await here.approved())
        error = {"error": "access_denied"}
        parameters = {**error, **given} if error_first else {**given, **error}
        here.network.log.clear()

        answer = await here.browser.get(callback(here, **parameters))

        assert "Signing in was cancelled." in answer.text
        assert here.network.log.of("token") == []
        assert await here.who() is None


@pytest.mark.spec("G2")
@pytest.mark.parametrize(
    "query_string",
    [
        "{q}&st%61te=other",
        "{q}&state",
        "{q}&code=",
        "{q}&iss=",
        "state[]=a&{q}&state=",
        "{q}&response=eyJhbGciOiJub25lIn0.e30.",
    ],
)
async def test_parameters_that_are_given_twice_in_disguise(query_string: str) -> None:
    async with world() as here:
        back = await here.approved()
        polluted = query_string.format(q=urlsplit(back).query)

        answer = await here.browser.get(f"/oauth/callback?{polluted}")

        assert answer.status_code == 400
        assert InvalidCallback.sentence in answer.text
        # Nothing was used up by it.
        assert (await here.browser.get(back)).status_code == 303


@pytest.mark.parametrize("name", ["state", "code", "iss", "error", "error_description", "other"])
@pytest.mark.parametrize(
    "value", ["%00", "%ff%fe", "%0d%0aset-cookie:x=y", "A" * 60_000, "%F0%9F%92%A5", "%ED%A0%80"]
)
async def test_no_value_breaks_the_callback(name: str, value: str) -> None:
    async with world() as here:
        given = {**query(await here.approved()), name: "X"}
        bent = urlencode(given).replace(f"{name}=X", f"{name}={value}")

        answer = await here.browser.get(f"/oauth/callback?{bent}")

        assert answer.status_code in {303, 400, 502}
        assert "set-cookie" not in answer.headers or name == "other" or name.startswith("error_d")
        assert "x=y" not in answer.headers.get("set-cookie", "")


@pytest.mark.spec("G1")
@pytest.mark.parametrize(
    "trick",
    [
        {"x-http-method-override": "GET"},
        {"x-http-method": "GET"},
        {"x-method-override": "GET"},
    ],
)
async def test_form_post_and_method_overrides_use_nothing_up(trick: dict[str, str]) -> None:
    async with world() as here:
        back = await here.approved()
        fields = query(back)
        for data in (fields, {**fields, "_method": "GET"}):
            # What a server's auto-submitting page would send (OAuth form_post), which we do not
            # ask for: Lax cookies do not come along with it either.
            answer = await here.browser.post(
                "/oauth/callback", data=data, headers={"origin": "null", **trick}
            )
            assert answer.status_code == 405
        head = await here.browser.request("HEAD", back, headers=trick)
        assert head.status_code == 405

        assert (await here.browser.get(back)).status_code == 303


@pytest.mark.parametrize(
    "url", ["/oauth/logout?_method=POST", "/oauth/login?_method=POST&identifier=alice.test"]
)
async def test_reading_is_never_writing(url: str) -> None:
    async with world() as here:
        await here.login()
        here.network.log.clear()
        answer = await here.browser.get(
            url, headers={**PAGE, "x-http-method-override": "POST", "sec-fetch-site": "cross-site"}
        )
        assert answer.status_code in {200, 405}
        assert here.network.log.of("par") == []
        assert await here.who() == here.did()


async def test_a_fragment_is_no_callback() -> None:
    async with world() as here:
        back = await here.approved()
        bare = await here.browser.get(f"/oauth/callback#{urlsplit(back).query}")

        assert bare.status_code == 400
        assert "<script" not in bare.text
        assert (await here.browser.get(back)).status_code == 303


@pytest.mark.spec("G3")
async def test_a_stolen_callback_is_dead_after_its_owner_used_it() -> None:
    store = FaultyStore()
    async with world(store=store) as here, here.another_browser() as thief:
        back = await here.approved()
        assert (await here.browser.get(back)).status_code == 303
        # Even with the login cookie (from a backup of the browser, say), after its minute.
        login = here.browser.cookies[here.oauth.cookies.login]
        thief.cookies.set(here.oauth.cookies.login, login, domain="app.birdsong.dev")
        store.clock.now += 60_001

        answer = await thief.get(back)

        assert answer.status_code == 400
        assert "set-cookie" not in answer.headers
        assert len(here.network.token_requests("authorization_code")) == 1


@pytest.mark.spec("G4")
async def test_guessing_states_uses_up_nobodys_attempt() -> None:
    async with world() as here, here.another_browser() as attacker:
        back = await here.approved()
        state = query(back)["state"]
        for near in (state[:-1], state + "A", state.swapcase(), state[::-1]):
            await attacker.get(callback(here, state=near, code="c", iss="https://pds.example"))
        for _ in range(20):
            await attacker.get(callback(here, state=secrets.token_urlsafe(32)))

        assert (await here.browser.get(back)).status_code == 303
