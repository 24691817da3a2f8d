"""What a refusal's `Date` may change, and what a hostile one may not (I16)."""

from __future__ import annotations

import logging
import time
from email.utils import formatdate

import httpx
import pytest

from atproto_oauth_asgi.clock_skew import MOST, Clocks
from atproto_oauth_asgi.dpop import Nonces
from atproto_oauth_asgi.instrumentation import Event, Events

pytestmark = pytest.mark.spec("I16")

ORIGIN = "https://pds.example.com"


def date(offset: float) -> httpx.Headers:
    return httpx.Headers({"date": formatdate(time.time() + offset, usegmt=True)})


@pytest.mark.parametrize("seconds", [-280, -60, -5, 5, 60, 280])
def test_a_clock_is_corrected_for_its_own_origin_only(seconds: int) -> None:
    clocks = Clocks(Events())
    assert clocks.learn(ORIGIN, date(seconds))
    assert abs(clocks.offset(ORIGIN) - seconds) <= 1
    assert clocks.offset("https://other.example.com") == 0
    # The same again is no news: nothing is tried again because of it.
    assert not clocks.learn(ORIGIN, date(seconds))


@pytest.mark.parametrize(
    "value",
    [
        formatdate(0, usegmt=True),
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Mon, 01 Jan 0001 00:00:00 GMT",
        "Mon, 01 Jan 99999999999999 00:00:00 GMT",
        "Sat, 99 Foo 2026 99:99:99 GMT",
        "Mon, 01 Jan 2026 00:00:00 +9999999999",
        "9" * 10_000,
        "",
        "now",
        "\x00",
    ],
)
def test_a_hostile_date_changes_nothing(value: str) -> None:
    clocks = Clocks(Events())
    assert not clocks.learn(ORIGIN, httpx.Headers({"date": value}))
    assert clocks.offset(ORIGIN) == 0


@pytest.mark.parametrize("seconds", [MOST + 30, -MOST - 30, -10 * 365 * 86400])
def test_no_server_is_believed_more_than_five_minutes(seconds: int) -> None:
    clocks = Clocks(Events())
    assert MOST == 300
    assert not clocks.learn(ORIGIN, date(seconds))
    assert clocks.offset(ORIGIN) == 0


def test_two_dates_or_none_are_no_date() -> None:
    clocks = Clocks(Events())
    now = formatdate(time.time() + 60, usegmt=True)
    assert not clocks.learn(ORIGIN, httpx.Headers([("date", now), ("date", now)]))
    assert not clocks.learn(ORIGIN, httpx.Headers())
    assert clocks.offset(ORIGIN) == 0


def test_a_clock_that_was_set_right_is_learnt_again() -> None:
    clocks = Clocks(Events())
    clocks.learn(ORIGIN, date(120))
    assert clocks.learn(ORIGIN, date(0))
    assert abs(clocks.offset(ORIGIN)) <= 1


def test_it_is_said_each_time(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Event] = []
    clocks = Clocks(Events(told.append))
    with caplog.at_level(logging.WARNING):
        clocks.learn(ORIGIN, date(1000))
    assert [event.name for event in told] == ["dpop.clock_skew"] == caplog.messages
    assert told[0].fields["origin"] == ORIGIN
    assert told[0].fields["seconds"] == pytest.approx(1000, abs=1)


def test_memory_has_a_bound() -> None:
    clocks = Clocks(Events())
    for number in range(Clocks.LIMIT * 2):
        clocks.learn(f"https://{number}.example.com", date(60))
    assert sum(clocks.offset(f"https://{n}.example.com") != 0 for n in range(2 * clocks.LIMIT)) == (
        Clocks.LIMIT
    )


def test_sessions_share_what_is_known_of_clocks() -> None:
    root = Nonces()
    assert root.clocks.learn(ORIGIN, date(60))
    assert Nonces(Nonces(root)).clocks is root.clocks


@pytest.mark.parametrize(("seconds", "told"), [(0, []), (30, [30]), (4000, [4000])])
def test_only_a_clock_that_differs_is_told(seconds: int, told: list[int]) -> None:
    heard: list[Event] = []
    clocks = Clocks(Events(heard.append))
    clocks.learn(ORIGIN, date(seconds))

    assert [event.name for event in heard] == ["dpop.clock_skew"] * len(told)
    for event, expected in zip(heard, told, strict=True):
        assert abs(int(str(event.fields["seconds"])) - expected) <= 1
