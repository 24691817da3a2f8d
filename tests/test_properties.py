"""Properties of the parsers that read what strangers write."""

from __future__ import annotations

import gc
import json
import string
import time
from collections.abc import Callable
from contextlib import suppress
from math import inf

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from atproto_oauth_asgi.dpop import Nonces, challenges
from atproto_oauth_asgi.errors import (
    AuthorizationFailed,
    BadAnswer,
    InvalidIdentifier,
    ScopeRefused,
    UnsupportedDID,
    WrongAccount,
)
from atproto_oauth_asgi.identifiers import (
    DidInput,
    HandleInput,
    ServerInput,
    parse_did,
    parse_handle,
    parse_identifier,
)
from atproto_oauth_asgi.net_answer import Answer
from atproto_oauth_asgi.origins import parse_address, parse_origin
from atproto_oauth_asgi.tokens import TokenResponse

_ALNUM = string.ascii_letters + string.digits
LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
TLDS = st.sampled_from(["com", "dev", "social", "xn--p1ai", "x1"])
HANDLES = st.tuples(LABELS, TLDS).map(".".join) | st.tuples(LABELS, LABELS, TLDS).map(".".join)
PLC = st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=24, max_size=24).map("did:plc:{}".format)
DIDS = PLC | HANDLES.map("did:web:{}".format)


# Identifiers as people type them


FRAMES = [
    "{}",
    " {} ",
    "\t{}\n",
    "@{}",
    "at://{}",
    "AT://{}/app.bsky.feed.post/x",
    "https://bsky.app/profile/{}",
    "bsky.app/profile/{}/",
]


@st.composite
def typed(draw: st.DrawFn, plain: st.SearchStrategy[str]) -> tuple[str, str]:
    """Return a name, and one of the ways in which it is typed or pasted."""
    name = draw(plain)
    text = name
    if not name.startswith("did:"):
        text = "".join(c.upper() if draw(st.booleans()) else c for c in name)
        if draw(st.booleans()):
            # A keyboard that writes full-width letters.
            text = "".join(chr(ord(c) + 0xFEE0) if draw(st.booleans()) else c for c in text)
    hidden = st.sampled_from(["", "\u200b", "\ufeff", "\u2066", "\u00ad", "\u202a"])
    text = "".join(draw(hidden) + character for character in text)
    frame = draw(st.sampled_from(FRAMES))
    return name, frame.format(text) if "@" not in frame or text == name else text


@pytest.mark.spec("A2", "A20")
@given(typed(HANDLES | DIDS))
def test_a_name_is_understood_in_whatever_way_it_is_typed(case: tuple[str, str]) -> None:
    name, text = case
    found = parse_identifier(text)
    assert found in (HandleInput(handle=name), DidInput(did=name))  # type: ignore[arg-type]


@pytest.mark.spec("A1", "A2", "A13")
@given(st.text(max_size=60) | HANDLES | DIDS.map(lambda did: did + "#x"))
@example("https://xn--a.com")
def test_what_is_understood_is_understood_again(text: str) -> None:
    try:
        found = parse_identifier(text)
    except (InvalidIdentifier, UnsupportedDID):
        return
    match found:
        case HandleInput(handle=again):
            assert parse_handle(again) == again
        case DidInput(did=again):
            assert parse_did(again) == again
        case ServerInput(origin=again):
            assert parse_origin(again) == again
    assert parse_identifier(again) == found


@pytest.mark.spec("A1")
@given(HANDLES, st.sampled_from(" @/:?#%\\_\n\t\0\u00e9\u202e\u3002"), st.integers(0, 60))
def test_no_handle_has_another_character_in_it(handle: str, odd: str, at: int) -> None:
    with pytest.raises(InvalidIdentifier):
        parse_handle(handle[:at] + odd + handle[at:])


@pytest.mark.spec("A13", "A14", "A15")
@given(st.text(max_size=40).map("did:{}".format) | st.text(max_size=40))
def test_a_did_is_returned_as_it_is_or_refused(text: str) -> None:
    try:
        assert parse_did(text) == text
    except (InvalidIdentifier, UnsupportedDID):
        return
    assert text.startswith(("did:plc:", "did:web:"))


# Addresses


@pytest.mark.spec("B3", "A17")
@given(
    HANDLES,
    st.none() | st.integers(1, 65_535),
    st.sampled_from(["", "/", "/a/b", "/?x=y", "?x", "/%20"]),
)
def test_an_address_comes_apart_and_together_again(host: str, port: int | None, rest: str) -> None:
    text = f"https://{host}" + (f":{port}" if port else "") + rest
    found = parse_address(text)

    assert found is not None
    assert (found.host, found.port, found.rest) == (host, port or 443, rest)
    assert found.origin + found.rest == text.replace(f":{443}", "", port == 443)
    assert parse_address(found.origin + found.rest) == found


@pytest.mark.spec("B3", "A17", "P2")
@given(st.text(st.characters(codec="utf-8"), max_size=30), st.sampled_from(["https://", "//", ""]))
@example("a.b:443@c.d", "https://")
@example("a.b\\@c.d", "https://")
@example("a。b", "https://")
def test_every_reader_of_an_address_finds_the_same_host(rest: str, start: str) -> None:
    found = parse_address(start + rest)
    if found is not None:
        url = httpx.URL(start + rest)
        assert (url.raw_host.decode(), url.port or 443) == (found.host, found.port)


# Headers

TOKEN = st.text(_ALNUM + "!#$%&'*+-.^_`|~", min_size=1, max_size=12)
QUOTED = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
BLOB = st.from_regex(r"[A-Za-z0-9._~+/-]{1,12}={0,2}", fullmatch=True)
PARAMETERS = st.dictionaries(TOKEN.map(str.lower), TOKEN | QUOTED, min_size=1, max_size=4)


@st.composite
def challenge(draw: st.DrawFn) -> tuple[str, str, dict[str, str]]:
    """Return a challenge by the grammar of RFC 9110 §11.3, and what it says."""
    scheme = draw(TOKEN)
    kind = draw(st.sampled_from(["bare", "blob", "parameters"]))
    if kind == "bare":
        return scheme, scheme.lower(), {}
    if kind == "blob":
        return f"{scheme} {draw(BLOB)}", scheme.lower(), {}
    said = draw(PARAMETERS)
    space = st.sampled_from(["", " ", "\t"])
    pairs = [
        name
        + draw(space)
        + "="
        + draw(space)
        + (
            value
            if value and all(c in _ALNUM for c in value) and draw(st.booleans())
            else '"' + "".join("\\" + c if c in '"\\' else c for c in value) + '"'
        )
        for name, value in said.items()
    ]
    comma = draw(st.sampled_from([",", ", ", " ,\t", ",,"]))
    return f"{scheme} {comma.join(pairs)}", scheme.lower(), said


@pytest.mark.spec("I17")
@given(st.lists(challenge(), max_size=5), st.lists(st.booleans(), min_size=5, max_size=5))
def test_challenges_are_read_as_they_are_written(
    written: list[tuple[str, str, dict[str, str]]], breaks: list[bool]
) -> None:
    headers: list[list[str]] = [[]]
    for (text, _, _), new in zip(written, breaks, strict=False):
        if new:
            headers.append([])
        headers[-1].append(text)
    found = challenges(httpx.Headers([("WWW-Authenticate", ", ".join(texts)) for texts in headers]))

    assert [(one.scheme, one.parameters) for one in found] == [
        (scheme, said) for _, scheme, said in written
    ]


@pytest.mark.spec("I14")
@given(st.binary(max_size=30) | st.binary(min_size=1000, max_size=1100))
def test_a_nonce_is_kept_as_it_came_or_not_at_all(value: bytes) -> None:
    nonces = Nonces()
    nonces.learn("https://a.dev", httpx.Headers([("DPoP-Nonce", "old")]))
    learnt = nonces.learn("https://a.dev", httpx.Headers([(b"DPoP-Nonce", value)]))

    assert learnt is None or learnt.encode() == value
    assert nonces.get("https://a.dev") == (learnt or "old")
    allowed = set(range(0x21, 0x7F)) - {0x22, 0x5C}
    assert (learnt is not None) == (0 < len(value) <= 1024 and set(value) <= allowed)


# Documents

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def answer(body: bytes) -> object:
    return Answer(status=200, headers=httpx.Headers(), body=body).json()


@pytest.mark.spec("P6", "H2")
@given(JSON, st.booleans())
def test_json_is_read_as_it_was_written(value: object, ascii_only: bool) -> None:
    assert answer(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@pytest.mark.spec("P6", "P8")
@given(st.binary(max_size=100))
@example(b"\xef\xbb\xbf{}")
@example("{}".encode("utf-16"))
@example("{}".encode("utf-32"))
@example(b'{"a": 1e999}')
@example(b'{"a": -1e999}')
@example(b'{"a": ' + b"9" * 5000 + b"}")
@example(b'{"a": NaN}')
@example(b'{"a": "\\ud800"}')
@example(b'{"a": "\xed\xa0\x80"}')
@example(b"[" * 100_000)
@example(b"[" * 100_000 + b"]" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'{"a": 1} {}')
@example(b"{'a': 1}")
@example(b'{"a": 01}')
@example(b'{"a": "\x00"}')
def test_what_is_no_json_is_a_bad_answer_that_shows_nothing(body: bytes) -> None:
    try:
        value = answer(body)
    except BadAnswer as exc:
        refused = exc
    else:
        assert json.loads(json.dumps(value)) == value
        return
    assert refused.__suppress_context__
    assert refused.__cause__ is None


def test_of_a_name_that_is_there_twice_the_last_counts_for_every_reader() -> None:
    assert answer(b'{"iss": "a", "iss": "b"}') == {"iss": "b"}


@pytest.mark.spec("H2", "H3", "H4", "H5", "H8")
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "access_token": JSON | st.just("at"),
            "token_type": JSON | st.just("DPoP"),
            "refresh_token": JSON | st.just("rt"),
            "scope": JSON | st.just("atproto"),
            "sub": JSON | DIDS,
            "expires_in": JSON | st.integers() | st.floats(),
        },
    )
)
@example(
    {"access_token": "a", "token_type": "DPoP", "scope": "atproto", "sub": "did:web:a.dev"}
    | {"expires_in": 10**400}
)
def test_a_token_response_is_good_in_every_member_or_refused(document: dict[str, object]) -> None:
    try:
        found = TokenResponse.parse(document, sub=None)
    except (BadAnswer, AuthorizationFailed, ScopeRefused, WrongAccount):
        return
    assert found.access_token == document["access_token"]
    assert found.refresh_token == document.get("refresh_token")
    assert str(document["token_type"]).lower() == "dpop"
    assert 1_000 <= found.life_ms <= 86_400_000


# Time: eight times as long takes about eight times as long; a reader that goes back again and again
# would take sixty-four times.


def _seconds(read: Callable[[], object]) -> float:
    best = inf
    for _ in range(3):
        gc.disable()
        started = time.process_time()
        read()
        best = min(best, time.process_time() - started)
        gc.enable()
    return best


@pytest.mark.spec("I17", "P6")
@pytest.mark.parametrize(
    "text",
    [
        "a ", 'a="', "a=", '"', ", ", "a=b ", "a=b,", "DPoP ", 'a="\\"', "a =", "=", "a" * 8,
        "a\t", "a/b== ", "a/", "\\", 'a="b" ',
    ],
    ids=repr,
)  # fmt: skip
def test_challenges_are_read_in_time_in_proportion_to_their_length(text: str) -> None:
    short, long = (
        httpx.Headers([("WWW-Authenticate", text * (n // len(text)))]) for n in (8_000, 64_000)
    )
    assert _seconds(lambda: challenges(long)) < 24 * _seconds(lambda: challenges(short)) + 0.01


@pytest.mark.spec("P6")
@pytest.mark.parametrize(
    "piece",
    [b"[", b'{"a":', b"[],", b'"\\u0041', b"9", b'"\\', b" ", b"\xc3\xa9", b'{"a":1},', b"1e5,"],
    ids=repr,
)
def test_json_is_read_in_time_in_proportion_to_its_length(piece: bytes) -> None:
    def read(size: int) -> None:
        pieces = piece * (size // len(piece))
        for body in (pieces, b"[" + pieces.rstrip(b",") + b"]"):
            with suppress(BadAnswer):
                answer(body)

    assert _seconds(lambda: read(128_000)) < 24 * _seconds(lambda: read(16_000)) + 0.01
