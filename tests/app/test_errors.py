"""Each failure of a login, for real: its code, its status, its sentence, its JSON."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from atproto_oauth_asgi import Login, LoginRefused
from atproto_oauth_asgi.errors import ATProtoOAuthError, error_for
from atproto_oauth_asgi.testing import Network
from tests.app.faulty_store import FaultyStore
from tests.app.world import BASE_URL, SCRIPT, World, world

pytestmark = pytest.mark.anyio


@dataclass
class Stage:
    """What a failure may be arranged with."""

    network: Network
    store: FaultyStore
    stack: ExitStack


def nothing(_: Stage) -> None:
    return


def handle_not_verified(stage: Stage) -> None:
    stage.network.account("alice.test").document_changes["alsoKnownAs"] = ["at://bob.test"]


def no_pds(stage: Stage) -> None:
    stage.network.account("alice.test").document_changes["service"] = []


def deleted(stage: Stage) -> None:
    stage.network.delete_account("alice.test")


def pds_down(stage: Stage) -> None:
    stage.stack.enter_context(stage.network.outage())


def plc_down(stage: Stage) -> None:
    stage.stack.enter_context(stage.network.outage(stage.network.plc.origin))


def not_capable(stage: Stage) -> None:
    stage.stack.enter_context(
        stage.network.alter(
            "/.well-known/oauth-protected-resource", lambda answer: replace(answer, status=404)
        )
    )


def private_address(stage: Stage) -> None:
    # A name that looks public, and is not (spec P1, P3).
    stage.network.account("alice.test").pds = "https://pds.rebound.dev"


def par_refused(stage: Stage) -> None:
    stage.stack.enter_context(
        stage.network.alter(
            "/oauth/par",
            lambda answer: (
                replace(answer.with_json(error="invalid_request"), status=400)
                if answer.status == 201
                else answer
            ),
        )
    )


def scope_unknown_there(stage: Stage) -> None:
    stage.stack.enter_context(
        stage.network.alter(
            "/oauth/par",
            lambda answer: (
                replace(answer.with_json(error="invalid_scope"), status=400)
                if answer.status == 201
                else answer
            ),
        )
    )


def store_down(stage: Stage) -> None:
    stage.store.failing = frozenset({"put"})


BEGINNING: list[tuple[str, str, int, str, Callable[[Stage], None]]] = [
    ("handle_not_found", "nobody.test", 400, "That handle was not found", nothing),
    ("handle_not_verified", "alice.test", 400, "is not confirmed", handle_not_verified),
    ("pds_unreachable", "alice.test", 502, "server could not be reached", pds_down),
    ("not_oauth_capable", "alice.test", 502, "does not support this kind of sign-in", not_capable),
    ("address_refused", "alice.test", 400, "not one this site may connect to", private_address),
    ("store_unavailable", "alice.test", 503, "Sign-in is not available", store_down),
    ("scope_refused", "alice.test", 400, "did not grant the permissions", scope_unknown_there),
    ("invalid_identifier", "alice@mail.test", 400, "looks like an e-mail address", nothing),
    ("unsupported_did", "did:key:zQ3sh", 400, "kind of account is not supported", nothing),
    ("did_not_found", "did:plc:" + "a" * 24, 400, "does not exist any more", nothing),
    ("did_not_found", "{did}", 400, "does not exist any more", deleted),
    ("invalid_did_document", "alice.test", 400, "has no usable server", no_pds),
    ("identity_unavailable", "alice.test", 503, "could not be looked up right now", plc_down),
    ("authorization_failed", "alice.test", 502, "refused the sign-in", par_refused),
]


@pytest.mark.parametrize(
    ("code", "identifier", "status", "sentence", "arrange"),
    BEGINNING,
    ids=[f"{row[0]}-{row[1][:12]}" for row in BEGINNING],
)
async def test_a_login_that_cannot_begin_says_why(
    code: str, identifier: str, status: int, sentence: str, arrange: Callable[[Stage], None]
) -> None:
    async def resolve(name: str) -> tuple[str, ...]:
        return ("10.0.0.7",) if name == "pds.rebound.dev" else ()

    network, store = Network(), FaultyStore()
    identifier = identifier.format(did=network.account("alice.test").did)
    policy = network.policy(resolve_host=resolve)
    with ExitStack() as stack:
        async with (
            world(network, store=store, net_policy=policy) as here,
            world(network, store=store, net_policy=policy, login_page="/sign-in") as own,
        ):
            arrange(Stage(network, store, stack))
            page = await here.begin(identifier)
            script = await here.browser.post(
                "/oauth/login", json={"identifier": identifier}, headers=SCRIPT
            )
            redirected = await own.begin(identifier)

    assert (page.status_code, script.status_code) == (status, status)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert sentence in page.text
    assert set(script.json()) == {"error", "message"}
    assert script.json()["error"] == code
    assert sentence in script.json()["message"]
    query = parse_qs(urlsplit(redirected.headers["location"]).query)
    assert query["error"] == [code]
    # What is no identifier may be a password: it goes into no address.
    assert query.get("identifier") == (None if code == "invalid_identifier" else [identifier])


async def denied(here: World) -> str:
    return here.network.deny((await here.begin()).headers["location"])


async def without_atproto(here: World) -> str:
    location = (await here.begin()).headers["location"]
    return here.network.approve(location, "alice.test", scope="transition:generic")


async def other_account(here: World) -> str:
    return here.network.approve((await here.begin()).headers["location"], "bob.test")


async def expired(here: World) -> str:
    callback = await here.approved()
    store = here.extra["store"]
    assert isinstance(store, FaultyStore)
    store.clock.now += 31 * 60_000
    return callback


async def refused_by_the_app(here: World) -> str:
    here.extra["refuse"] = "Only birds may come in."
    return await here.approved()


async def store_away(here: World) -> str:
    callback = await here.approved()
    store = here.extra["store"]
    assert isinstance(store, FaultyStore)
    store.failing = frozenset({"create_session"})
    return callback


async def foreign_issuer(here: World) -> str:
    return (await here.approved()).replace("iss=https%3A%2F%2Fpds", "iss=https%3A%2F%2Fevil")


async def unknown_state(here: World) -> str:
    return str(httpx.URL(await here.approved()).copy_set_param("state", "x"))


async def used_code(here: World) -> str:
    return str(httpx.URL(await here.approved()).copy_set_param("code", "cod-" + "0" * 64))


async def silent(here: World) -> str:
    return str(httpx.URL(await denied(here)).copy_set_param("error", "login_required"))


ENDING: list[tuple[str, int, str, Callable[[World], Awaitable[str]]]] = [
    ("cancelled", 400, "Signing in was cancelled.", denied),
    ("expired", 400, "took too long and has expired", expired),
    ("scope_refused", 400, "did not grant the permissions", without_atproto),
    ("wrong_account", 400, "with a different account", other_account),
    ("login_refused", 403, "Only birds may come in.", refused_by_the_app),
    ("store_unavailable", 503, "Sign-in is not available", store_away),
    ("issuer_mismatch", 400, "came from an unexpected server", foreign_issuer),
    ("invalid_callback", 400, "is not valid here", unknown_state),
    ("authorization_failed", 502, "refused the sign-in", used_code),
    ("interaction_required", 400, "Please sign in again.", silent),
]


@pytest.mark.parametrize(
    ("code", "status", "sentence", "arrange"), ENDING, ids=[row[0] for row in ENDING]
)
async def test_a_login_that_cannot_end_well_says_why(
    code: str, status: int, sentence: str, arrange: Callable[[World], Awaitable[str]]
) -> None:
    extra: dict[str, object] = {}

    async def on_login(_: Login) -> None:
        if "refuse" in extra:
            raise LoginRefused(str(extra["refuse"]))

    for login_page in (None, "/sign-in"):
        extra.clear()
        extra["store"] = store = FaultyStore()
        async with world(store=store, on_login=on_login, login_page=login_page) as here:
            here.extra = extra
            callback = await arrange(here)
            answer = await here.browser.get(callback)

            assert here.cookie is None
            await here.settled()
            assert not here.network.sessions()
        if login_page is None:
            assert answer.status_code == status
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
            assert sentence in answer.text
        else:
            assert answer.status_code == 303
            location = urlsplit(answer.headers["location"])
            assert f"{location.scheme}://{location.netloc}{location.path}" == f"{BASE_URL}/sign-in"
            assert parse_qs(location.query)["error"] == [code]
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"


def every_error() -> list[type[ATProtoOAuthError]]:
    found: list[type[ATProtoOAuthError]] = []
    waiting: list[type[ATProtoOAuthError]] = [ATProtoOAuthError]
    while waiting:
        kind = waiting.pop()
        found.append(kind)
        waiting += [one for one in kind.__subclasses__() if one not in found]
    return [one for one in dict.fromkeys(found) if one.__module__.startswith("atproto_oauth_asgi.")]


def test_every_error_has_a_code_of_its_own_and_a_sentence_for_a_person() -> None:
    kinds = [kind for kind in every_error() if kind.__module__ == "atproto_oauth_asgi.errors"]
    codes = [vars(kind).get("code") for kind in kinds if "code" in vars(kind)]

    assert len(codes) == len(set(codes))
    for kind in kinds:
        assert kind.sentence.endswith((".", "?"))
        assert 400 <= kind.status < 600
        assert not kind.retryable or kind.status in {429, 502, 503}, kind


@pytest.mark.parametrize("code", sorted({row[0] for row in BEGINNING} | {row[0] for row in ENDING}))
def test_a_code_in_an_address_finds_its_sentence_again(code: str) -> None:
    assert error_for(code).code == code


def test_an_unknown_code_finds_a_general_one() -> None:
    assert error_for("<script>").code == "login_failed"
    assert error_for("configuration").code == "login_failed"
