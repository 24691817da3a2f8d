"""Which bytes are sealed, and to what: the one place that turns rows into secrets and back."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from atproto_oauth_asgi.attempt import digest
from atproto_oauth_asgi.dpop import DPoPKey, b64url
from atproto_oauth_asgi.errors import SealBroken
from atproto_oauth_asgi.sealing import KeyRing, SealContext, key_id_of
from atproto_oauth_asgi.store import SessionRecord
from atproto_oauth_asgi.tokens import Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """What a session row belongs to; a row copied or edited by a thief does not open."""

    session_id: str
    did: str
    issuer: str
    client_id: str

    @classmethod
    def of(cls, record: SessionRecord) -> Owner:
        """Read the owner off a row."""
        return cls(
            session_id=record.id,
            did=record.did,
            issuer=record.issuer,
            client_id=record.client_id,
        )

    def context(self, column: str) -> SealContext:
        """Return what a sealed column is bound to."""
        return SealContext(
            table="session",
            column=column,
            row_id=self.session_id,
            did=self.did,
            issuer=self.issuer,
            client_id=self.client_id,
        )


class Vault:
    """Seals and opens what the store keeps, so that no store ever sees a secret."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring

    @property
    def key_id(self) -> str:
        """Return the id of the key that seals now."""
        return self._ring.primary_key_id

    def seal_tokens(self, owner: Owner, tokens: Tokens) -> bytes:
        """Seal a session's tokens."""
        return self._ring.seal(tokens.to_bytes(), owner.context("tokens"))

    def seal_key(self, owner: Owner, key: DPoPKey) -> bytes:
        """Seal a session's DPoP key."""
        return self._ring.seal(key.to_der(), owner.context("dpop_key"))

    def tokens(self, record: SessionRecord) -> Tokens:
        """Open a row's tokens.

        Raises:
            SealBroken: the key is missing, or the row was edited.
        """
        tokens = Tokens.from_bytes(self._open(record, "tokens", record.sealed_tokens))
        if tokens.pds != record.pds:
            msg = f"Session {record.id} names another PDS than its sealed tokens; it was edited."
            raise SealBroken(msg, key_id=record.sealed_key)
        return tokens

    def dpop_key(self, record: SessionRecord) -> DPoPKey:
        """Open a row's DPoP key; raises as `tokens` does."""
        return DPoPKey.from_der(self._open(record, "dpop_key", record.sealed_dpop_key))

    def seal_attempt(self, key_hash: bytes, payload: bytes) -> bytes:
        """Seal what a login attempt must remember."""
        return self._ring.seal(payload, _attempt(key_hash))

    def open_attempt(self, key_hash: bytes, sealed: bytes) -> bytes:
        """Open what `seal_attempt` sealed; raises as `tokens` does."""
        return self._ring.open(sealed, _attempt(key_hash))

    def cookies_of(self, key_hash: bytes, browser_secret: str) -> tuple[str, ...]:
        """Return the session cookie that a login gives its browser, as each key of the ring has it.

        The first is the one to give. It is the same however often the callback is repeated:
        answers that cross on their way must not leave a browser with a cookie that was replaced.
        Without the ring nobody can make it, whatever else they know of the login.
        """
        info = b"atproto-oauth-asgi cookie" + key_hash + digest(browser_secret)
        return tuple(b64url(secret) for secret in self._ring.derive(info))

    def _open(self, record: SessionRecord, column: str, sealed: bytes | None) -> bytes:
        if sealed is None:
            msg = f"Session {record.id} has ended and holds no secrets any more."
            raise SealBroken(msg)
        return self._ring.open(sealed, Owner.of(record).context(column))


def _attempt(key_hash: bytes) -> SealContext:
    return SealContext(table="one_time", column="payload", row_id=key_hash.hex())


def sealed_with(record: SessionRecord) -> frozenset[str]:
    """Return the ids of the keys that a row's two sealed columns need.

    They may differ, and the row names one only: a refresh seals the tokens anew, with the key
    that is first by then, and leaves the DPoP key as the login sealed it.
    """
    found: set[str] = set()
    for sealed in (record.sealed_dpop_key, record.sealed_tokens):
        if sealed is not None:
            with suppress(SealBroken):
                found.add(key_id_of(sealed))
    return frozenset(found)
