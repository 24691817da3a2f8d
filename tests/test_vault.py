"""What was sealed by an earlier version opens, and what does not open says why."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import replace

import pytest

from atproto_oauth_asgi.dpop import DPoPKey
from atproto_oauth_asgi.errors import SealBroken
from atproto_oauth_asgi.sealing import KeyRing
from atproto_oauth_asgi.store import SessionRecord
from atproto_oauth_asgi.tokens import Tokens
from atproto_oauth_asgi.vault import Owner, Vault, sealed_with

KEY = b"k" * 32
KEY_ID = "832f646c89f96456"
VAULT = Vault(KeyRing([KEY]))
TOKENS = Tokens(access_token="access-1", refresh_token="refresh-1", pds="https://pds.example")
# Made once, as the version before this file sealed it: who upgrades has rows like these.
SEALED_TOKENS = b64decode(
    "AYMvZGyJ+WRWts1R8Nle/Q34L29tW4xzaZk/PMSOVm/xopaBWHrnSuYQvO3nGgivZK+hcD8EnfJIy7FypDj1lJ4Gx/k3"
    "eFalJPm5BArTNBnu5ZDYjF6NyudQTyIp5V3hiTbW"
)
SEALED_DPOP_KEY = b64decode(
    "AYMvZGyJ+WRWioNdlSEE3JfN7uAepQLO7Oj4Y9Hic5eZn7PkYFg2WZhnOj9W56YuEqiUKH4m24mm4ESF2XemeOh3StDh"
    "5lueQjGV38amZRaNpkzWCIreEhVQCGoZyaGY05V+vDnUyge/E81+1Vb7eSfXW5bW/K3wnTcAC/HZ390Vt+mZ3auDAMig"
    "xselnE5NUj7tJmR2s20/gqBl13Mhk1ZgznjzauypKJSGwc1KBw=="
)
SEALED_ATTEMPT = b64decode("AYMvZGyJ+WRWPJW3xDT1rijOsakw+1cK3vUy3BmGFb3TTACAJAMaXLtKSQc=")
DPOP_KEY = b64decode(
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgUvTvP4clrzclpRyRQgKhmH+dHE5tYV7eDNl6PPT4BL6h"
    "RANCAARslZT8S5ftJa4GqSB0ZHItzrMyiWZdQjuOjXT+Kh2iNWSS5CSNeFhEojD5JgtWTMPVWxlJ303GjMoB8c2ry9Qx"
)
ROW = SessionRecord(
    id="session-1",
    browser_id=None,
    client_id="https://app.example/client.json",
    did="did:plc:" + "a" * 24,
    issuer="https://pds.example",
    handle=None,
    scope="atproto",
    pds="https://pds.example",
    client_kid=None,
    sealed_dpop_key=SEALED_DPOP_KEY,
    sealed_tokens=SEALED_TOKENS,
    sealed_key=KEY_ID,
    version=1,
    status="active",
    ended_reason=None,
    access_remaining_ms=1,
    refresh_wait_ms=0,
    remaining_ms=1,
    lease_owner=None,
    lease_until=None,
    lease_remaining_ms=None,
    attempts=0,
    first_sent_ago_ms=None,
    failures=0,
    created_ago_ms=0,
    refreshed_ago_ms=0,
    seen_ago_ms=0,
)


def test_what_an_earlier_version_sealed_opens() -> None:
    assert VAULT.tokens(ROW) == TOKENS
    assert VAULT.dpop_key(ROW).to_der() == DPOP_KEY
    assert VAULT.open_attempt(b"h" * 32, SEALED_ATTEMPT) == b"payload"
    # While an upgrade is rolled out, a reload may meet either version.
    assert VAULT.cookies_of(b"h" * 32, "browser") == (
        "PKSF3SJHpQxZb0PLsdiBZCh27rUHQPWk7SIiUG42AZw",
    )


def test_what_is_sealed_now_opens_for_the_row_that_it_is_for_only() -> None:
    owner, key = Owner.of(ROW), DPoPKey.generate()
    sealed = replace(
        ROW,
        sealed_tokens=VAULT.seal_tokens(owner, TOKENS),
        sealed_dpop_key=VAULT.seal_key(owner, key),
    )

    assert VAULT.tokens(sealed) == TOKENS
    assert VAULT.dpop_key(sealed).to_der() == key.to_der()
    for other in (
        replace(sealed, id="session-2"),
        replace(sealed, did="did:plc:" + "b" * 24),
        replace(sealed, issuer="https://evil.example"),
        replace(sealed, client_id="https://evil.example/client.json"),
        replace(sealed, sealed_tokens=sealed.sealed_dpop_key, sealed_dpop_key=sealed.sealed_tokens),
    ):
        for opening in (VAULT.tokens, VAULT.dpop_key):
            with pytest.raises(SealBroken):
                opening(other)
    attempt = VAULT.seal_attempt(b"h" * 32, b"payload")
    with pytest.raises(SealBroken):
        VAULT.open_attempt(b"i" * 32, attempt)


def test_what_does_not_open_says_why() -> None:
    with pytest.raises(SealBroken) as moved:
        VAULT.tokens(replace(ROW, pds="https://evil.example"))
    with pytest.raises(SealBroken) as ended:
        VAULT.tokens(replace(ROW, sealed_tokens=None))

    assert str(moved.value) == (
        "Session session-1 names another PDS than its sealed tokens; it was edited."
    )
    assert moved.value.key_id == KEY_ID
    assert str(ended.value) == "Session session-1 has ended and holds no secrets any more."


def test_the_keys_that_a_row_needs_are_read_off_both_columns() -> None:
    other = Vault(KeyRing([b"o" * 32]))
    renewed = replace(ROW, sealed_tokens=other.seal_tokens(Owner.of(ROW), TOKENS))

    assert sealed_with(ROW) == {KEY_ID}
    assert sealed_with(renewed) == {KEY_ID, other.key_id}
    assert sealed_with(replace(ROW, sealed_tokens=None, sealed_dpop_key=None)) == frozenset()
    assert sealed_with(replace(ROW, sealed_tokens=b"garbled")) == {KEY_ID}
