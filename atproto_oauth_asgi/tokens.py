"""Token responses and the tokens a session holds (RFC 6749 §5.1, atproto OAuth: Tokens)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import TypeGuard

from atproto_oauth_asgi.errors import (
    AuthorizationFailed,
    BadAnswer,
    ResolutionError,
    ScopeRefused,
    WrongAccount,
)
from atproto_oauth_asgi.identifiers import parse_did
from atproto_oauth_asgi.permissions import is_scope_string

#: Assumed when a server does not say how long its token lives.
UNKNOWN_LIFE_MS = 300_000
SHORTEST_LIFE_MS = 1_000
LONGEST_LIFE_MS = 24 * 3600 * 1000
#: Characters of the longest scope that is asked for, or taken.
MAX_SCOPE = 16_384

# What RFC 6749 allows in a token (Appendices A.12 and A.17); an access token goes into headers,
# which have no place for spaces (RFC 9449 §7.1).
_TOKEN = re.compile(r"[\x21-\x7e]{1,32768}")
_REFRESH_TOKEN = re.compile(r"[\x20-\x7e]{1,32768}")


def is_token(value: object) -> TypeGuard[str]:
    """Tell whether a value can be a token: text that fits into a header, of bearable length."""
    return isinstance(value, str) and _TOKEN.fullmatch(value) is not None


def is_refresh_token(value: object) -> TypeGuard[str]:
    """Tell whether a value can be a refresh token, which only ever stands in a form."""
    return isinstance(value, str) and _REFRESH_TOKEN.fullmatch(value) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """The secrets of a session. They exist in memory and sealed, nowhere else."""

    access_token: str = field(repr=False)
    #: None when the server gave none; then the session ends with its access token.
    refresh_token: str | None = field(repr=False)
    #: Origin the tokens may be sent to.
    pds: str

    def to_bytes(self) -> bytes:
        """Return the form that is sealed."""
        document = {"at": self.access_token, "rt": self.refresh_token, "pds": self.pds}
        return json.dumps(document).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Tokens:
        """Read what `to_bytes` wrote."""
        document = json.loads(data)
        return cls(access_token=document["at"], refresh_token=document["rt"], pds=document["pds"])


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenResponse:
    """A token response that has passed the checks of `parse`."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    scope: str
    sub: str
    #: Life of the access token in milliseconds, clamped to 1 s ... 24 h.
    life_ms: int

    @property
    def refresh_after_ms(self) -> int:
        """Return when a refresh is allowed, in milliseconds after the request left.

        Long enough that a server which revokes what it just gave is not hammered, and never
        longer than the token lives.
        """
        return max(1_000, min(10_000, self.life_ms // 2))

    @classmethod
    def parse(cls, document: Mapping[str, object], *, sub: str | None) -> TokenResponse:
        """Check a 200 answer of a token endpoint (atproto OAuth: Tokens, RFC 9449 §5).

        Args:
            document: The JSON object.
            sub: The DID that the tokens must be for; None when any account may answer.

        Raises:
            BadAnswer: a member is missing or of the wrong type.
            AuthorizationFailed: the tokens are not DPoP-bound.
            ScopeRefused: the scope lacks `atproto`, or is too long.
            WrongAccount: the tokens are for another account.
        """
        access_token = document.get("access_token")
        if not is_token(access_token):
            msg = "The token response has no access_token; report this to the server's operator."
            raise BadAnswer(msg)
        token_type = document.get("token_type")
        if not isinstance(token_type, str) or token_type.lower() != "dpop":
            msg = "The server gave tokens that are not DPoP-bound; they were refused."
            raise AuthorizationFailed(msg)
        refresh_token = document.get("refresh_token")
        if refresh_token is not None and not is_refresh_token(refresh_token):
            msg = "The token response has a refresh_token that is not a string."
            raise BadAnswer(msg)
        scope = document.get("scope")
        if isinstance(scope, str) and len(scope) > MAX_SCOPE:
            msg = f"The granted scope is longer than {MAX_SCOPE} characters; it was refused."
            raise ScopeRefused(msg)
        if (
            not isinstance(scope, str)
            or not is_scope_string(scope)
            or "atproto" not in scope.split()
        ):
            msg = "The granted scope lacks `atproto`; no session can be made from it."
            raise ScopeRefused(msg)
        subject = document.get("sub")
        try:
            # Whether the name may be looked up at all is decided where it is looked up.
            parse_did(str(subject), allow_test=True, allow_insecure=True)
        except ResolutionError as exc:
            msg = "The token response's sub is not the DID of an AT Protocol account."
            raise WrongAccount(msg) from exc
        subject = str(subject)
        if sub is not None and subject != sub:
            msg = f"The tokens are for {subject}, not for {sub} with which the login began."
            raise WrongAccount(msg)
        return cls(
            access_token=access_token,
            refresh_token=refresh_token,
            scope=scope,
            sub=subject,
            life_ms=_life_ms(document.get("expires_in")),
        )


def _life_ms(expires_in: object) -> int:
    if isinstance(expires_in, bool) or not isinstance(expires_in, (int, float)):
        return UNKNOWN_LIFE_MS
    if isinstance(expires_in, float) and not isfinite(expires_in):
        return UNKNOWN_LIFE_MS
    return int(max(SHORTEST_LIFE_MS, min(LONGEST_LIFE_MS, expires_in * 1000)))
