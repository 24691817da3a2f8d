"""The app's hook: what it is given, and that it can break nothing."""

from __future__ import annotations

import logging
from dataclasses import FrozenInstanceError

import pytest

from atproto_oauth_asgi import ATProtoOAuth, Event
from atproto_oauth_asgi.errors import ConfigurationError, StoreUnavailable
from tests.app.faulty_store import FaultyStore
from tests.app.world import BASE_URL, World, world

pytestmark = pytest.mark.anyio


async def visit(here: World) -> None:
    assert (await here.login("alice.test", next="/who")).status_code == 303
    assert await here.who() == here.did()
    assert (await here.logout()).status_code == 303
    await here.settled()


def names(told: list[Event]) -> list[str]:
    return [event.name for event in told]


async def test_each_step_of_a_visit_is_told_with_its_fields() -> None:
    told: list[Event] = []
    async with world(on_event=told.append) as here:
        await visit(here)

        # Logs are at WARNING here, as they come: the hook hears of the rest all the same.
        assert names(told) == ["login.begun", "login.finished", "session.ended", "revocation.done"]
        assert dict(told[0].fields) == {"did": here.did(), "issuer": here.network.host.origin}
        finished = told[1]
        assert finished.level == logging.INFO
        assert set(finished.fields) == {"session", "did", "issuer"}
        assert finished.fields["did"] == here.did()
        assert {event.fields["session"] for event in told if "session" in event.fields} == {
            finished.fields["session"]
        }


async def test_an_event_cannot_be_changed() -> None:
    told: list[Event] = []
    async with world(on_event=told.append) as here:
        await here.begin()
        with pytest.raises(TypeError):
            told[0].fields["did"] = "did:plc:other"  # type: ignore[index]
        with pytest.raises(FrozenInstanceError):
            told[0].name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("error", [ZeroDivisionError(), StoreUnavailable(), KeyError("x")])
async def test_a_hook_that_raises_changes_nothing(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def hook(_event: Event) -> None:
        raise error

    async with world(on_event=hook) as here:
        await visit(here)
    failed = [record for record in caplog.records if record.message == "on_event.failed"]
    assert len(failed) == 4
    assert {vars(record)["event"] for record in failed} >= {"login.begun", "session.ended"}


async def test_a_coroutine_function_is_refused_at_once() -> None:
    async def hook(_event: Event) -> None: ...

    with pytest.raises(ConfigurationError, match="plain function"):
        ATProtoOAuth(BASE_URL, store="memory://", secret_keys=(b"k" * 32,), on_event=hook)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_two_apps_in_one_process_hear_of_their_own_people_only() -> None:
    mine: list[Event] = []
    others: list[Event] = []
    async with world(on_event=mine.append) as here, world(on_event=others.append) as there:
        await visit(here)
        assert names(mine)
        assert not others
        await there.begin()
        assert names(others) == ["login.begun"]


async def test_refused_callbacks_say_why() -> None:
    told: list[Event] = []
    store = FaultyStore()
    async with world(on_event=told.append, store=store) as here:
        callback = await here.approved()
        async with here.another_browser() as other:
            await other.get(callback)
        await here.browser.get("/oauth/callback?state=nobodys")
        await here.browser.get("/oauth/callback?state=a&state=b")
        done = await here.approved()
        await here.browser.get(done)
        store.clock.now += 61_000
        await here.browser.get(done)

    reasons = [event.fields["reason"] for event in told if event.name == "callback.refused"]
    assert reasons == ["other_browser", "unknown_state", "parameters", "used"]


async def test_refused_requests_say_what_to_do() -> None:
    told: list[Event] = []
    loopback = "http://127.0.0.1:8000"
    async with world(on_event=told.append, base_url=loopback, allow_insecure_loopback=True) as here:
        foreign = {"origin": "https://evil.example"}
        other_name = {"host": "localhost:8000", "sec-fetch-site": "same-origin"}
        await here.browser.post("/oauth/logout", headers=foreign)
        await here.browser.post("/oauth/logout", headers=other_name)
        await here.browser.get("/oauth/session", headers={"host": "evil.example:8000"})

    assert [dict(event.fields) for event in told if event.name == "request.refused"] == [
        {
            "error": "cross_site_refused",
            "route": "logout",
            "why": "This request came from another site; send it from BASE_URL or a"
            " TRUSTED_ORIGINS page.",
        },
        {
            "error": "wrong_host",
            "route": "logout",
            "why": f"This form was opened under another address; open {loopback} and try again.",
        },
        {
            "error": "wrong_host",
            "route": "session",
            "why": f"In development this app answers as 127.0.0.1 only; open {loopback}.",
        },
    ]


async def test_requests_of_foreign_pages_are_told() -> None:
    told: list[Event] = []
    async with world(on_event=told.append) as here:
        await here.login()
        foreign = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
        told.clear()
        await here.browser.post("/oauth/logout", headers=foreign)
        await here.browser.post("/who", headers=foreign)

    assert [(event.name, dict(event.fields).get("route")) for event in told] == [
        ("request.refused", "logout"),
        ("session.withheld", None),
    ]


async def test_switching_and_replacing_accounts_is_told() -> None:
    told: list[Event] = []
    async with world(on_event=told.append) as here:
        await here.login("alice.test")
        await here.login("bob.test")

        ended = [event for event in told if event.name == "session.ended"]
        assert [(event.fields["did"], event.fields["reason"]) for event in ended] == [
            (here.did("alice.test"), "replaced")
        ]


async def test_the_record_names_the_line_where_it_happened(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "atproto_oauth_asgi.login"):
        async with world() as here:
            await here.begin()
    (record,) = [one for one in caplog.records if one.message == "login.begun"]
    assert record.filename == "login.py"
    assert record.name == "atproto_oauth_asgi.login"
