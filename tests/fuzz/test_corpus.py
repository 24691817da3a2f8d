"""Replays what fuzzing has found, and searches a little further each time."""

from __future__ import annotations

import httpx
import pytest

from atproto_oauth_asgi.dpop import challenges
from tests.fuzz import corpus
from tests.fuzz.all_targets import TARGETS
from tests.fuzz.engine import Finding, reached, search
from tests.fuzz.target import Target


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_the_corpus_shows_no_defect(name: str) -> None:
    inputs = corpus.read(name)
    assert inputs, "run python -m tests.fuzz first"
    for data in [*inputs, *TARGETS[name].seeds]:
        TARGETS[name].check(data)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_short_search_shows_no_defect(name: str) -> None:
    search(TARGETS[name], corpus.read(name), seconds=0.1, seed=1)


def test_a_defect_is_found() -> None:
    """The search finds its way through conditions that no input it starts with fulfils."""

    def check(data: bytes) -> None:
        headers = httpx.Headers([(b"www-authenticate", data)])
        assert not any(one.parameters for one in challenges(headers)[1:])

    with pytest.raises(Finding):
        search(Target(name="defect", check=check, seeds=(b"a",)), [], seconds=30, seed=1)


def test_a_search_notices_new_code() -> None:
    check = TARGETS["www_authenticate"]
    assert reached(check, b'DPoP error="x"') - reached(check, b"")


def test_the_corpus_is_small() -> None:
    assert corpus.size() < 300_000
