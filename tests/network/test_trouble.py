"""Trouble on demand, kind by kind, as a raw client and as an app meet it."""

from __future__ import annotations

import asyncio
import json
import logging

import httpx
import pytest

from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.testing.faults import When
from atproto_oauth_asgi.testing.malformed import KINDS, Malformation
from tests.app.world import world
from tests.network.walker import Clock, Walker

pytestmark = pytest.mark.anyio

TOKEN = "/oauth/token"
SESSION = "/xrpc/com.atproto.server.getSession"


async def test_lost_answers_have_rotated_the_tokens(walker: Walker, network: Network) -> None:
    tokens = await walker.login()
    with network.lost_answers(), pytest.raises(httpx.RemoteProtocolError):
        await walker.refresh(tokens["refresh_token"])
    again = await walker.refresh(tokens["refresh_token"])

    assert again.json()["error_description"] == "Refresh token replayed"
    assert (await walker.login())["token_type"] == "DPoP"


async def test_failing_servers_process_nothing(walker: Walker, network: Network) -> None:
    tokens = await walker.login()
    with network.failing(TOKEN, 503, times=2, retry_after=7):
        answers = [await walker.refresh(tokens["refresh_token"]) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert answers[0].headers["retry-after"] == "7"


async def test_other_paths_are_left_alone(walker: Walker, network: Network) -> None:
    tokens = await walker.login()
    with network.failing(SESSION):
        failed = await walker.get_session(tokens["access_token"])
        refreshed = await walker.refresh(tokens["refresh_token"])

    assert (failed.status_code, refreshed.status_code) == (500, 200)


async def test_slow_servers_answer_in_the_end(walker: Walker, network: Network) -> None:
    tokens = await walker.login()
    began = asyncio.get_running_loop().time()
    with network.slow(0.05, SESSION):
        answer = await walker.get_session(tokens["access_token"])

    assert answer.status_code == 200
    assert asyncio.get_running_loop().time() - began >= 0.05


async def test_a_hanging_server_never_processes(walker: Walker, network: Network) -> None:
    tokens = await walker.login()
    with network.hanging(TOKEN) as pause:
        task = asyncio.ensure_future(walker.refresh(tokens["refresh_token"]))
        await pause.arrived()
        assert pause.waiting == 1
        assert not task.done()
    with pytest.raises(httpx.RemoteProtocolError):
        await task

    assert (await walker.refresh(tokens["refresh_token"])).status_code == 200


@pytest.mark.parametrize(("when", "again"), [("before", 200), ("after", 400)])
async def test_dropped_connections(
    when: When, again: int, walker: Walker, network: Network
) -> None:
    tokens = await walker.login()
    with network.dropped(TOKEN, when=when), pytest.raises(httpx.RemoteProtocolError):
        await walker.refresh(tokens["refresh_token"])

    assert (await walker.refresh(tokens["refresh_token"])).status_code == again


@pytest.mark.parametrize(("seconds", "status"), [(3600, 401), (-3600, 401), (100, 200)])
async def test_a_wrong_clock_refuses_proofs(
    seconds: float, status: int, walker: Walker, network: Network
) -> None:
    tokens = await walker.login()
    with network.clock_skew(seconds):
        await walker.get_session(tokens["access_token"])
        wrong = await walker.get_session(tokens["access_token"])
    await walker.get_session(tokens["access_token"])
    right = await walker.get_session(tokens["access_token"])

    assert wrong.status_code == status
    assert right.status_code == 200


async def test_an_app_makes_up_for_a_wrong_clock() -> None:
    async with world() as here:
        with here.network.clock_skew(250):
            assert (await here.login()).status_code == 303
            assert (await here.browser.get("/me")).status_code == 200


async def test_in_a_nonce_storm_no_nonce_is_good_twice(walker: Walker, network: Network) -> None:
    tokens = await walker.login()
    used = walker.nonce
    with network.nonce_storm():
        first = await walker.get_session(tokens["access_token"])
        second = await walker.get_session(tokens["access_token"])
        walker.nonce = used
        third = await walker.get_session(tokens["access_token"])

    assert [answer.status_code for answer in (first, second, third)] == [401, 200, 401]


async def test_an_app_lives_through_a_nonce_storm() -> None:
    async with world() as here:
        with here.network.nonce_storm():
            assert (await here.login()).status_code == 303
            first = (await here.browser.get("/me")).status_code
            # Another login takes the nonce that was given to this one.
            assert (await here.begin("bob.test")).status_code == 303
            second = (await here.browser.get("/me")).status_code
        challenged = [one for one in here.network.log if one.error == "use_dpop_nonce"]

    assert (first, second) == (200, 200)
    assert len(challenged) >= 2


async def test_something_happens_between_two_steps(walker: Walker, network: Network) -> None:
    with network.after_next("/oauth/token", lambda: network.take_down("alice.test")):
        tokens = await walker.login()
        gone = await walker.get_session(tokens["access_token"])

    assert gone.status_code == 401


async def test_a_document_that_changes_between_par_and_callback_ends_the_login() -> None:
    network = Network()
    other = network.add_host()
    async with world(network=network) as here:
        with network.after_next(TOKEN, lambda: network.move_account("alice.test", other)):
            refused = await here.login()
        await here.settled()

        assert refused.status_code != 303
        assert await here.who() is None
        assert network.sessions() == []


def _body(kind: Malformation, answer: httpx.Response) -> bool:
    """Tell whether an answer is malformed in the way that its name says."""
    match kind:
        case "html":
            return answer.headers["content-type"].startswith("text/html")
        case "content_type":
            return answer.headers["content-type"] != "application/json"
        case "huge":
            return len(answer.content) > 4_000_000
        case "array":
            return isinstance(answer.json(), list)
        case "null":
            return answer.json() is None
        case "duplicate_keys":
            pairs: list[tuple[str, object]] = json.loads(answer.content, object_pairs_hook=list)
            return len(pairs) > len(dict(pairs))
        case "wrong_types":
            return answer.json().keys() >= {"access_token", "sub"} and not all(
                isinstance(answer.json()[name], str) for name in ("access_token", "sub", "scope")
            )
        case _:
            try:
                json.loads(answer.content)
            except (ValueError, RecursionError):
                return True
            return False


@pytest.mark.parametrize("kind", KINDS)
async def test_malformed_answers(kind: Malformation, walker: Walker, network: Network) -> None:
    tokens = await walker.login()
    form: dict[str, str | None] = {
        "grant_type": "refresh_token",
        "refresh_token": str(tokens["refresh_token"]),
    }
    with network.malformed(TOKEN, kind, seed=7):
        answer = await walker.post(TOKEN, form)

    assert answer.status_code == 200
    assert _body(kind, answer)
    assert (await walker.login())["token_type"] == "DPoP"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "path",
    [
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-authorization-server",
        "/oauth/par",
        TOKEN,
    ],
)
async def test_an_app_meets_malformed_answers_with_an_error_page(
    kind: Malformation, path: str
) -> None:
    async with world() as here:
        with here.network.malformed(path, kind, seed=7):
            begun = await here.begin()
            if begun.status_code == 303:
                back = here.network.approve(begun.headers["location"], "alice.test")
                begun = await here.browser.get(back)
        harmless = begun.status_code == 303
        assert harmless or 400 <= begun.status_code < 600
        assert (await here.who() is not None) == harmless
        assert (await here.login()).status_code == 303


async def test_the_same_seed_gives_the_same_trouble() -> None:
    async def statuses(seed: int) -> list[object]:
        network = Network()
        seen: list[object] = []
        transport = httpx.ASGITransport(app=network.policy().apps[network.host.origin])
        async with httpx.AsyncClient(transport=transport, base_url=network.host.origin) as http:
            with network.random_trouble(0.5, seed=seed):
                for _ in range(40):
                    try:
                        answer = await http.get("/oauth/jwks")
                    except httpx.RemoteProtocolError:
                        seen.append("dropped")
                    else:
                        seen.append((answer.status_code, answer.content[:40]))
        return seen

    first = await statuses(1)

    assert first == await statuses(1)
    assert first != await statuses(2)
    assert len(set(map(str, first))) > 4


async def test_the_seed_is_said(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), network.random_trouble():
        pass

    assert "seed=" in caplog.text


async def test_a_removed_key_refuses_and_comes_back(clock: Clock) -> None:
    from tests.network.walker import Key
    from tests.parity.client import confidential
    from tests.parity.embedded import embedded_world

    key = Key("k1")
    async with embedded_world("usual") as there:
        folder = there.site.folder(key)
        client = confidential(there, await there.account("alice.test"), folder, key)
        grant = await client.grant()
        with there.network.removed_key("k1"):
            refused = await client.refresh(grant.refresh)
        back = await client.refresh(grant.refresh)

    assert refused.json()["error"] == "invalid_client"
    assert back.status_code == 200
