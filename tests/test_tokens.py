from __future__ import annotations

import pytest

from atproto_oauth_asgi.errors import (
    ATProtoOAuthError,
    AuthorizationFailed,
    BadAnswer,
    ScopeRefused,
    WrongAccount,
)
from atproto_oauth_asgi.tokens import TokenResponse, Tokens, is_token

DID = "did:plc:" + "a" * 24
GOOD: dict[str, object] = {
    "access_token": "opaque-token",
    "token_type": "DPoP",
    "refresh_token": "ref-1",
    "scope": "atproto transition:generic",
    "sub": DID,
    "expires_in": 3600,
}


def parse(bound: str | None = DID, /, **changes: object) -> TokenResponse:
    document = {**GOOD, **changes}
    return TokenResponse.parse(
        {name: value for name, value in document.items() if value is not ...}, sub=bound
    )


def test_a_good_response_is_read() -> None:
    response = parse()

    assert response.access_token == "opaque-token"
    assert response.refresh_token == "ref-1"
    assert response.scope == "atproto transition:generic"
    assert response.sub == DID
    assert response.life_ms == 3_600_000


@pytest.mark.spec("H8")
def test_unknown_members_are_ignored_and_tokens_opaque() -> None:
    assert parse(id_token="x", new=[1], access_token="a.b.c~/+=").access_token == "a.b.c~/+="


@pytest.mark.spec("H9")
def test_a_refresh_token_may_be_missing() -> None:
    assert parse(refresh_token=...).refresh_token is None
    assert parse(refresh_token=None).refresh_token is None
    # It goes into forms only (RFC 6749 Appendix A.17).
    assert parse(refresh_token="r-0 7Kq ~").refresh_token == "r-0 7Kq ~"
    assert parse(refresh_token="r-0 " * 8192).refresh_token is not None


@pytest.mark.spec("H2", "H3", "H4", "H5", "H6")
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("access_token", ..., BadAnswer),
        ("access_token", "", BadAnswer),
        ("access_token", 1, BadAnswer),
        ("access_token", "a b", BadAnswer),
        ("access_token", "a\r\nb", BadAnswer),
        ("access_token", "\u00e9", BadAnswer),
        ("access_token", "a" * 32_769, BadAnswer),
        ("refresh_token", "", BadAnswer),
        ("refresh_token", 1, BadAnswer),
        ("refresh_token", "a\nb", BadAnswer),
        ("refresh_token", "r-0 " * 8192 + "r", BadAnswer),
        ("token_type", ..., AuthorizationFailed),
        ("token_type", "Bearer", AuthorizationFailed),
        ("token_type", "DPoP ", AuthorizationFailed),
        ("token_type", ["DPoP"], AuthorizationFailed),
        ("scope", ..., ScopeRefused),
        ("scope", "", ScopeRefused),
        ("scope", "atprotox", ScopeRefused),
        ("scope", "xatproto", ScopeRefused),
        ("scope", "ATPROTO", ScopeRefused),
        ("scope", "repo:atproto", ScopeRefused),
        ("scope", ["atproto"], ScopeRefused),
        ("scope", "repo:*  atproto", ScopeRefused),
        ("scope", " atproto", ScopeRefused),
        ("scope", "atproto ", ScopeRefused),
        ("scope", "atproto\trepo:*", ScopeRefused),
        ("scope", "atproto " + "a" * 16_384, ScopeRefused),
        ("sub", ..., WrongAccount),
        ("sub", "", WrongAccount),
        ("sub", "alice.test", WrongAccount),
        ("sub", "did:key:zQ3sh", WrongAccount),
        ("sub", "did:web:a.dev:x", WrongAccount),
        ("sub", "did:plc:short", WrongAccount),
        ("sub", "did:plc:" + "b" * 24, WrongAccount),
        ("sub", DID.upper(), WrongAccount),
        ("sub", DID + " ", WrongAccount),
    ],
)
def test_what_is_wrong_is_refused(name: str, value: object, error: type[ATProtoOAuthError]) -> None:
    with pytest.raises(error) as caught:
        parse(DID, **{name: value})

    # In these words, and so without a token.
    other = f"did:plc:{'b' * 24}"
    sentences = {
        "access_token": (
            "The token response has no access_token; report this to the server's operator."
        ),
        "refresh_token": "The token response has a refresh_token that is not a string.",
        "token_type": "The server gave tokens that are not DPoP-bound; they were refused.",
        "scope": (
            "The granted scope is longer than 16384 characters; it was refused."
            if isinstance(value, str) and len(value) > 16_384
            else "The granted scope lacks `atproto`; no session can be made from it."
        ),
        "sub": (
            f"The tokens are for {other}, not for {DID} with which the login began."
            if value == other
            else "The token response's sub is not the DID of an AT Protocol account."
        ),
    }
    assert str(caught.value) == sentences[name]


@pytest.mark.spec("H4")
def test_the_longest_scope_is_read() -> None:
    scope = "atproto " + "a" * (16_384 - len("atproto "))

    assert parse(scope=scope).scope == scope


@pytest.mark.spec("H3")
@pytest.mark.parametrize("token_type", ["DPoP", "dpop", "DPOP"])
def test_the_token_types_case_does_not_matter(token_type: str) -> None:
    assert parse(token_type=token_type).sub == DID


@pytest.mark.spec("H4")
@pytest.mark.parametrize("scope", ["atproto", "repo:* atproto", "a atproto b"])
def test_atproto_may_stand_anywhere_in_the_scope(scope: str) -> None:
    assert parse(scope=scope).scope == scope


@pytest.mark.spec("H5")
def test_any_account_may_answer_where_none_was_named() -> None:
    other = "did:web:birdsong.dev"

    assert parse(None, sub=other).sub == other
    # Whether these may be looked up is not decided here.
    for local in ("did:web:pds.test", "did:web:localhost%3A2583"):
        assert parse(None, sub=local).sub == local
    with pytest.raises(WrongAccount):
        parse(None, sub="did:example:x")


def test_only_text_that_fits_into_a_header_is_a_token() -> None:
    assert is_token("a.b-c~/+=")
    assert not any(is_token(value) for value in (None, 1, "", "a b", b"a", ["a"]))


@pytest.mark.spec("H8", "L1")
@pytest.mark.parametrize(
    ("expires_in", "life_ms", "refresh_after_ms"),
    [
        (3600, 3_600_000, 10_000),
        (30, 30_000, 10_000),
        (4, 4_000, 2_000),
        (1.5, 1_500, 1_000),
        (1, 1_000, 1_000),
        (0, 1_000, 1_000),
        (-5, 1_000, 1_000),
        (10**30, 86_400_000, 10_000),
        (..., 300_000, 10_000),
        (None, 300_000, 10_000),
        ("3600", 300_000, 10_000),
        (True, 300_000, 10_000),
        (float("nan"), 300_000, 10_000),
        (float("inf"), 300_000, 10_000),
        ([3600], 300_000, 10_000),
    ],
)
def test_lifetimes_are_clamped_and_a_refresh_is_allowed_before_the_end(
    expires_in: object, life_ms: int, refresh_after_ms: int
) -> None:
    response = parse(expires_in=expires_in)

    assert (response.life_ms, response.refresh_after_ms) == (life_ms, refresh_after_ms)
    assert response.refresh_after_ms <= response.life_ms


def test_tokens_keep_their_secrets_to_themselves_and_survive_sealing() -> None:
    tokens = Tokens(access_token="at-secret", refresh_token=None, pds="https://pds.birdsong.dev")

    assert "secret" not in repr(tokens)
    assert "ref-1" not in repr(parse())
    assert "opaque" not in repr(parse())
    assert Tokens.from_bytes(tokens.to_bytes()) == tokens
    assert (
        Tokens.from_bytes(
            Tokens(access_token="a", refresh_token="r", pds="p").to_bytes()
        ).refresh_token
        == "r"
    )
