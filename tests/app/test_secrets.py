"""Nothing that is secret leaves: not into logs, reprs, errors, addresses, pages or the database."""

from __future__ import annotations

import base64
import json
import logging
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import anyio
import httpx
import pytest

from atproto_oauth_asgi.attempt import Attempt
from atproto_oauth_asgi.errors import ATProtoOAuthError, LoginRefused
from atproto_oauth_asgi.plugins import migrate_empty, open_store
from atproto_oauth_asgi.store import OneTime, Store
from atproto_oauth_asgi.testing import Network
from tests.app.faulty_store import FaultyStore
from tests.app.world import PAGE, World, live_of, world

pytestmark = [pytest.mark.anyio, pytest.mark.spec("P8")]


class Everything(logging.Handler):
    """Keeps all that a record can say."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        self.texts.append(repr(vars(record)))
        if record.exc_info is not None and record.exc_info[1] is not None:
            self.texts += traceback.format_exception(record.exc_info[1])


@contextmanager
def everything_logged() -> Generator[Everything]:
    root, handler = logging.getLogger(), Everything()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield handler
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


class Secrets:
    """Collects what must not be seen."""

    def __init__(self) -> None:
        self.named: dict[str, str] = {}

    def add(self, name: str, value: str | None) -> None:
        assert value is not None
        assert len(value) >= 20, name
        self.named[name] = value

    def add_attempt(self, here: World, things: list[OneTime]) -> None:
        thing = things[-1]
        attempt = Attempt.from_bytes(
            here.oauth.core.vault.open_attempt(thing.key_hash, thing.sealed)
        )
        self.add("verifier", attempt.verifier)
        self.add_key("login", base64.b64decode(attempt.dpop_key))

    def add_key(self, name: str, der: bytes) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_der_private_key

        key = load_der_private_key(der, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        number = key.private_numbers().private_value
        self.add(f"{name} key, der", base64.b64encode(der).decode())
        self.add(f"{name} key, hex", f"{number:064x}")
        self.add(f"{name} key, decimal", str(number))
        raw = number.to_bytes(32, "big")
        self.add(f"{name} key, d", base64.urlsafe_b64encode(raw).rstrip(b"=").decode())

    async def add_session(self, here: World, name: str) -> None:
        async with here.oauth.session_for(here.did()) as session:
            live = live_of(session)
            self.add(f"{name} access token", live.tokens.access_token)
            self.add(f"{name} refresh token", live.tokens.refresh_token)
            self.add_key(name, live.key.to_der())

    def found_in(self, texts: list[str], *, but: tuple[str, ...] = ()) -> list[str]:
        whole = "\n".join(texts)
        return [name for name, value in self.named.items() if value in whole and name not in but]


def recording(store: Store, things: list[OneTime]) -> Store:
    """Let a store note what it is given to keep."""
    put = store.put

    async def noted(thing: OneTime, /) -> None:
        things.append(thing)
        await put(thing)

    store.put = noted  # type: ignore[method-assign]  # pyright: ignore[reportAttributeAccessIssue]
    return store


def contents(folder: Path) -> str:
    return b"".join(path.read_bytes() for path in folder.iterdir()).decode("latin-1")


async def test_a_whole_visit_with_debug_logging_shows_no_secret(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'sessions.db'}"
    await migrate_empty(url)
    secrets, things, texts = Secrets(), list[OneTime](), list[str]()
    answers: list[httpx.Response] = []
    with everything_logged() as logged:
        # On sockets: httpcore's and asyncio's own logging takes part.
        async with (
            Network(token_life=1.0).serve() as network,
            world(
                network,
                store=recording(open_store(url), things),
                net_policy=network.policy(),
                allow_insecure_loopback=True,
                base_url="http://127.0.0.1:8000",
                scope="atproto transition:generic",
            ) as here,
        ):
            begun = await here.begin("alice.test", next="/who")
            secrets.add_attempt(here, things)
            secrets.add("login cookie", here.browser.cookies.get(here.oauth.cookies.login))
            callback = network.approve(begun.headers["location"], "alice.test")
            state_and_code = httpx.URL(callback).params
            secrets.add("state", state_and_code["state"])
            secrets.add("code", state_and_code["code"])
            answers += [begun, await here.browser.get(callback)]
            secrets.add("first cookie", here.cookie)
            await secrets.add_session(here, "first")
            answers += [await here.browser.get("/me"), await here.browser.get(callback)]
            secrets.add("second cookie", here.cookie)
            # Until the token is over, so that the next call refreshes it.
            await anyio.sleep(1.05)
            answers.append(await here.browser.get("/me"))
            async with here.oauth.session_for(here.did()) as session:
                live = live_of(session)
            await secrets.add_session(here, "second")
            answers += [
                await here.browser.get("/oauth/session"),
                await here.browser.get("/oauth/login", headers=PAGE),
                await here.browser.get("/private", headers=PAGE),
            ]
            for held in (session, live, live.tokens, live.key, live.nonces, here.oauth):
                texts += [repr(held), str(held)]
            texts += [repr(things), repr(here.oauth.settings), repr(here.oauth.core)]
            answers.append(await here.logout())
            await here.settled()
    for answer in answers:
        texts += [answer.text, str(answer.headers.get("location", ""))]
        kept = [pair for pair in answer.headers.multi_items() if pair[0] != "set-cookie"]
        texts.append(repr(kept))

    assert secrets.named["first access token"] != secrets.named["second access token"]
    assert len(secrets.named) > 12
    assert len(logged.texts) > 100
    assert secrets.found_in(texts) == []
    # The browser of this test, httpx too, logs the addresses that it opens: the callback's.
    records = [text for text in logged.texts if "/oauth/callback?" not in text]
    assert secrets.found_in(records) == []
    assert secrets.found_in([contents(tmp_path)]) == []


@pytest.mark.parametrize(
    "failing",
    ["consume", "create_session", "record_outcome", "put", "list_sessions", "load"],
)
async def test_errors_and_their_causes_show_no_secret(failing: str) -> None:
    async def refuse(_: object) -> None:
        if failing == "put":
            raise LoginRefused

    store, secrets, things = FaultyStore(), Secrets(), list[OneTime]()
    recording(store, things)
    with everything_logged() as logged:
        async with world(store=store, on_login=refuse) as here:
            callback = await here.approved("alice.test")
            secrets.add_attempt(here, things)
            secrets.add("state", httpx.URL(callback).params["state"])
            secrets.add("code", httpx.URL(callback).params["code"])
            secrets.add("login cookie", here.browser.cookies.get(here.oauth.cookies.login))
            store.failing = frozenset({failing})
            answer = await here.browser.get(callback, headers=PAGE)
            await here.settled()
    records = [text for text in logged.texts if "/oauth/callback?" not in text]

    assert secrets.found_in(records) == []
    assert secrets.found_in([answer.text]) == []


async def test_what_a_server_answers_is_never_repeated_in_an_error() -> None:
    async with world() as here:
        callback = await here.approved()
        seen: list[str] = []

        def wrong(answer: object) -> object:
            from atproto_oauth_asgi.testing.web import Answer

            assert isinstance(answer, Answer)
            if answer.status != 200:
                return answer
            seen.append(str(answer.json()["access_token"]))
            seen.append(str(answer.json()["refresh_token"]))
            return answer.with_json(token_type="Bearer", error_description=seen[0])

        with (
            everything_logged() as logged,
            here.network.alter("/oauth/token", wrong),  # type: ignore[arg-type]
        ):
            page = await here.browser.get(callback)
            await here.settled()

        assert len(seen) == 2
        assert not any(token in text for token in seen for text in [*logged.texts, page.text])


async def test_a_password_in_the_wrong_field_is_not_logged() -> None:
    async with world() as here:
        with everything_logged() as logged:
            await here.begin("hunter2-is-my-password")

        texts = [text for text in logged.texts if "multipart" not in text]
        assert not any("hunter2" in text for text in texts)


def test_errors_are_made_of_words_and_no_evidence() -> None:
    for kind in ATProtoOAuthError.__subclasses__():
        assert json.dumps(kind.sentence)
