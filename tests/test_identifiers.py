from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atproto_oauth_asgi.errors import ATProtoOAuthError, InvalidIdentifier, UnsupportedDID
from atproto_oauth_asgi.identifiers import (
    DidInput,
    HandleInput,
    ServerInput,
    parse_did,
    parse_handle,
    parse_identifier,
)

PLC = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"


def accepts_did(text: str) -> bool:
    try:
        parse_did(text, allow_insecure=True)
    except ATProtoOAuthError:
        return False
    return True


@pytest.mark.spec("A1")
@pytest.mark.parametrize(
    "handle",
    [
        "a.co",
        "john.test.example.com",
        "8.cn",
        "xn--notarealidn.com",
        "a--b.bsky.social",
        "name.t--t",
        "john0.b8ky.social",
        "a" * 63 + ".com",
        ".".join(["a" * 61] * 4) + ".co",
    ],
)
def test_handle_syntax_is_accepted(handle: str) -> None:
    assert parse_handle(handle) == handle


@pytest.mark.spec("A1")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "alice",
        "alice.",
        ".alice.com",
        "alice.com.",
        "alice..com",
        "-alice.com",
        "alice-.com",
        "alice.-com",
        "alice.com-",
        "alice.0com",
        "127.0.0.1",
        "alice_b.com",
        "alice com.com",
        "a.com\n",
        "@alice.com",
        "at://alice.com",
        "älice.com",
        "alice。com",
        "a" * 64 + ".com",
        ".".join(["a" * 62] * 4) + ".com",
        "\u0130.com",
        "\u212a.com",
    ],
)
def test_what_is_no_handle_is_refused(text: str) -> None:
    with pytest.raises(InvalidIdentifier):
        parse_handle(text)


@pytest.mark.spec("A2")
def test_handle_becomes_lower_case() -> None:
    assert parse_handle("Alice.Example.COM") == "alice.example.com"


@pytest.mark.spec("A3")
@pytest.mark.parametrize(
    "tld", ["alt", "arpa", "example", "internal", "invalid", "local", "localhost", "onion", "test"]
)
def test_reserved_top_level_domain_is_refused(tld: str) -> None:
    with pytest.raises(InvalidIdentifier):
        parse_handle(f"alice.{tld}")
    with pytest.raises(InvalidIdentifier):
        parse_identifier(f"alice.{tld.upper()}")
    with pytest.raises(UnsupportedDID):
        parse_did(f"did:web:alice.{tld}")


@pytest.mark.spec("A3")
def test_test_domain_is_for_development_only() -> None:
    assert parse_handle("alice.test", allow_test=True) == "alice.test"
    assert parse_did("did:web:alice.test", allow_test=True) == "did:web:alice.test"
    with pytest.raises(InvalidIdentifier):
        parse_handle("handle.invalid", allow_test=True)


@pytest.mark.spec("A13")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "did",
        "did:",
        "did::x",
        "did:plc:",
        "DID:plc:abc",
        "did:PLC:abc",
        "did:plc:a:",
        "did:plc:a%",
        "did:plc:a b",
        "did:web:a/b",
        "did:web:a#b",
        f"{PLC}\n",
        "did:key:" + "a" * 2048,
    ],
)
def test_what_is_no_did_is_an_invalid_identifier(text: str) -> None:
    with pytest.raises(InvalidIdentifier):
        parse_did(text)


@pytest.mark.spec("A13", "A14", "A15")
@pytest.mark.parametrize(
    "did",
    [
        "did:key:zQ3shZc2QzApp2oymGvQbzP8eKheVshBHbU4ZYjeXqwSKEn6N",
        "did:plc:EWVI7NXZYOUN6ZHXRHS64OIZ",
        "did:plc:ewvi7nxzyoun6zhxrhs64oi",
        "did:plc:ewvi7nxzyoun6zhxrhs64oi1",
        "did:web:ex.com:u:a",
        "did:web:ex.com%3A8080",
        "did:web:Ex.com",
        "did:web:127.0.0.1",
        "did:web:localhost",
        "did:web:localhost%3A2583",
        "did:web:2130706433",
        "did:web:0x7f.1",
    ],
)
def test_did_that_no_account_can_have_is_unsupported(did: str) -> None:
    with pytest.raises(UnsupportedDID) as caught:
        parse_did(did)

    assert did == caught.value.identifier


@pytest.mark.spec("A15")
def test_did_web_of_localhost_needs_the_development_switch() -> None:
    assert accepts_did("did:web:localhost%3A2583")
    assert accepts_did("did:web:localhost")
    for did in ("did:web:localhost%3a2583", "did:web:localhost%3A0", "did:web:localhost%3A65536"):
        assert not accepts_did(did)


@pytest.mark.spec("A2")
@pytest.mark.parametrize(
    "typed",
    [
        "alice.example.com",
        "@Alice.Example.COM ",
        "\t alice.example.com\r\n",
        "\u200balice.example.com\u200d",
        "\u202aalice.example.com\u202c",
        "\ufeff@alice.example.com\u00ad",
        "\u00a0alice.exa\u2060mple.com\ufe0f",
        "alice\x00.example.com",
        "＠ａｌｉｃｅ．example.com",
        "at://alice.example.com",
        "AT://Alice.example.com/",
        "at://alice.example.com/app.bsky.feed.post/3k",
        "https://bsky.app/profile/alice.example.com",
        "https://bsky.app/profile/alice.example.com/post/3k?x=1#y",
        "HTTPS://bsky.app/profile/@alice.example.com/",
        "http://localhost:3000/profile/alice.example.com",
        "bsky.app/profile/alice.example.com",
    ],
)
def test_handle_is_understood_as_people_type_and_paste_it(typed: str) -> None:
    found = parse_identifier(typed)

    assert isinstance(found, HandleInput)
    assert found.handle == "alice.example.com"


@pytest.mark.parametrize(
    "typed",
    [
        PLC,
        f" {PLC}\n",
        f"at://{PLC}",
        f"@{PLC}",
        f"at://{PLC}/app.bsky.feed.post/3k",
        f"https://bsky.app/profile/{PLC}",
        f"https://bsky.app/profile/{PLC.replace(':', '%3A')}",
    ],
)
def test_did_is_understood_as_people_paste_it(typed: str) -> None:
    found = parse_identifier(typed)

    assert isinstance(found, DidInput)
    assert found.did == PLC


@pytest.mark.spec("A20")
@pytest.mark.parametrize(
    ("typed", "origin"),
    [
        ("https://pds.example.com", "https://pds.example.com"),
        ("https://bsky.social/", "https://bsky.social"),
        (" HTTPS://Bsky.Social:443 ", "https://bsky.social"),
        ("https://pds.example.com:8443", "https://pds.example.com:8443"),
    ],
)
def test_server_address_with_its_scheme_is_a_server(typed: str, origin: str) -> None:
    found = parse_identifier(typed)

    assert isinstance(found, ServerInput)
    assert found.origin == origin


def test_name_without_scheme_is_a_handle() -> None:
    assert isinstance(parse_identifier("bsky.social"), HandleInput)


def test_http_is_for_loopback_in_development_only() -> None:
    for url in ("http://127.0.0.1:2583", "http://localhost:2583", "http://[::1]:2583"):
        found = parse_identifier(url, allow_insecure=True)
        assert isinstance(found, ServerInput)
        assert found.origin == url
        with pytest.raises(InvalidIdentifier):
            parse_identifier(url)
    with pytest.raises(InvalidIdentifier):
        parse_identifier("http://pds.example.com", allow_insecure=True)
    with pytest.raises(InvalidIdentifier):
        parse_identifier("http://127.0.0.1.example.com", allow_insecure=True)


@pytest.mark.parametrize(
    "typed",
    [
        "https://pds.example.com/xrpc",
        "https://pds.example.com?x=1",
        "https://pds.example.com#x",
        "https://user:secret@pds.example.com",
        "https://pds.example.com@evil.example.net/profile",
        "https://",
        "https:///profile/alice.example.com",
        "https://pds",
        "https://2130706433",
        "https://0x7f000001",
        "https://127.1",
        "https://pds.example.com:",
        "https://pds.example.com:0",
        "https://pds.example.com:0443",
        "https://pds.example.com:99999",
        "https://pds.example.com.",
        "https://[::1]evil.example.com",
        "https://[::1%25eth0]",
        "https://[::1",
        "https://pds.example.com\\@evil.example.net",
        "javascript://pds.example.com",
        "ftp://pds.example.com",
        "https://bsky.app/profile/",
        "https://bsky.app/profile/alice",
        "https://bsky.app/profile/a%2Fb.com",
        "https://bsky.app/settings/alice.example.com",
        "",
        "  ",
        "@",
        "@@alice.example.com",
        "alice",
        "alice bob.example.com",
        "at://",
        "did:plc:",
        "Did:plc:ewvi7nxzyoun6zhxrhs64oiz",
        "a" * 5000 + ".com",
    ],
)
def test_anything_else_is_refused_with_a_sentence_for_the_person(typed: str) -> None:
    with pytest.raises(InvalidIdentifier) as caught:
        parse_identifier(typed)

    assert caught.value.sentence != InvalidIdentifier.sentence
    assert str(caught.value) == caught.value.sentence


@pytest.mark.parametrize(
    "typed", ["alice@example.com", "@alice@mastodon.example.com", "mailto:a@b.co"]
)
def test_mail_address_is_refused_with_the_advice_to_enter_the_handle(typed: str) -> None:
    with pytest.raises(InvalidIdentifier, match="Please enter your handle"):
        parse_identifier(typed)


def test_unsupported_did_is_told_from_a_mistyped_one() -> None:
    with pytest.raises(UnsupportedDID):
        parse_identifier("did:key:zQ3shZc2QzApp2oymGvQbzP8eKheVshBHbU4ZYjeXqwSKEn6N")


@pytest.mark.spec("P8")
def test_refusal_never_repeats_what_was_typed() -> None:
    with pytest.raises(InvalidIdentifier) as caught:
        parse_identifier("correct horse battery staple")

    assert "horse" not in f"{caught.value!s} {caught.value!r} {caught.value.sentence}"


@given(st.text(max_size=300))
def test_any_text_is_understood_or_refused(text: str) -> None:
    try:
        found = parse_identifier(text)
    except (InvalidIdentifier, UnsupportedDID):
        return
    if isinstance(found, HandleInput):
        assert parse_handle(found.handle) == found.handle
    if isinstance(found, ServerInput):
        assert parse_identifier(found.origin) == found
