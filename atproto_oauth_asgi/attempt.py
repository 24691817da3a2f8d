"""A login attempt: what must be remembered between the redirect and the callback."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256

from atproto_oauth_asgi.dpop import DPoPKey, b64url

#: Kind of the one-time things that login attempts are.
KIND = "login"
#: How long a person may take at the authorization server, in milliseconds.
LIFETIME_MS = 30 * 60 * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One login under way; sealed in the store under the hash of its `state`."""

    issuer: str
    #: None when the login began from a server's address.
    did: str | None
    #: PKCE code verifier (RFC 7636 §4.1).
    verifier: str = field(repr=False)
    #: Private key, as `DPoPKey.to_der` gives it, in base64.
    dpop_key: str = field(repr=False)
    #: The very redirect URI of the pushed request (RFC 6749 §4.1.3).
    redirect_uri: str
    client_id: str
    client_kid: str | None
    #: What the person typed, to be filled in again if something fails.
    identifier: str
    next: str
    #: Whether the session joins the browser's others instead of replacing the active one.
    add: bool
    data: Mapping[str, object] | None = field(repr=False)

    def to_bytes(self) -> bytes:
        """Return the form that is sealed."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, payload: bytes) -> Attempt:
        """Read what `to_bytes` wrote."""
        return cls(**json.loads(payload))

    @property
    def key(self) -> DPoPKey:
        """Return the DPoP key that the tokens will be bound to."""
        return DPoPKey.from_der(base64.b64decode(self.dpop_key))


def new_state() -> str:
    """Return a `state`: random, used once, and carrying nothing (atproto OAuth: PAR)."""
    return secrets.token_urlsafe(32)


def new_verifier() -> str:
    """Return a PKCE code verifier of 64 characters (RFC 7636 §4.1)."""
    return secrets.token_urlsafe(48)


def challenge_of(verifier: str) -> str:
    """Return the S256 code challenge of a verifier (RFC 7636 §4.2)."""
    return b64url(sha256(verifier.encode()).digest())


def digest(secret: str) -> bytes:
    """Return the hash under which the store knows a `state` or a browser's login secret."""
    return sha256(secret.encode()).digest()


def encode_key(key: DPoPKey) -> str:
    """Return a DPoP key in the form of `Attempt.dpop_key`."""
    return base64.b64encode(key.to_der()).decode()
