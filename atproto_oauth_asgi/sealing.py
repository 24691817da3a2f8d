"""Encryption at rest: what a store keeps of tokens and keys is sealed here first.

AES-256-GCM under a key of the row's own, which HKDF-SHA256 (RFC 5869) derives from a key of the
ring, because one GCM key must not seal for ever. Envelope: version (1 byte), id of the ring's key
(8), nonce (12), ciphertext and tag. Where a payload belongs is authenticated with it, so a row
that was copied or edited by whoever has the database does not open.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from atproto_oauth_asgi.errors import ConfigurationError, SealBroken

KEY_BYTES = 32

_VERSION = 1
_KEY_ID_BYTES = 8
_NONCE_BYTES = 12
_TAG_BYTES = 16
_NONCE_AT = 1 + _KEY_ID_BYTES
_SEALED_AT = _NONCE_AT + _NONCE_BYTES

_LENGTHS = struct.Struct(">6I")
_SALT = b"atproto-oauth-asgi seal"
_ID_LABEL = b"atproto-oauth-asgi key id"
_MAKE = "make one with `atproto-oauth-asgi secrets generate`"


@dataclass(frozen=True, slots=True, kw_only=True)
class SealContext:
    """Says where a payload belongs; sealing and opening need the same.

    For a login attempt the row id is the key hash in hex, and there is no did, issuer or client.
    """

    table: str
    column: str
    row_id: str
    did: str = ""
    issuer: str = ""
    client_id: str = ""


class _RingKey(NamedTuple):
    key_id: bytes
    # HKDF's pseudorandom key: the extract step is the same for all rows, so it is done once.
    extracted: bytes


class KeyRing:
    """Seals with the first of its keys and opens with any of them.

    Deploy a new key in second place first, so that every process can open what it seals, and then
    move it to the front.

    Args:
        keys: Keys of 32 random bytes, as `parse_secret_keys` returns them.

    Raises:
        ConfigurationError: There is no key, one has another length, or one is there twice.
    """

    __slots__ = ("_by_id", "_primary")

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys:
            raise ConfigurationError(f"SECRET_KEYS is empty; {_MAKE}.")
        self._by_id: dict[bytes, _RingKey] = {}
        for key in keys:
            if len(key) != KEY_BYTES:
                raise ConfigurationError(
                    f"SECRET_KEYS has a key of {len(key)} bytes instead of {KEY_BYTES}; {_MAKE}."
                )
            key_id = hmac.digest(key, _ID_LABEL, hashlib.sha256)[:_KEY_ID_BYTES]
            if key_id in self._by_id:
                raise ConfigurationError("SECRET_KEYS has the same key twice; remove one of them.")
            self._by_id[key_id] = _RingKey(key_id, hmac.digest(_SALT, key, hashlib.sha256))
        self._primary = next(iter(self._by_id.values()))

    def __repr__(self) -> str:
        return f"KeyRing({len(self._by_id)} hidden)"

    @property
    def primary_key_id(self) -> str:
        """Id of the key that seals, 16 hex digits that tell nothing about it."""
        return self._primary.key_id.hex()

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Ids of all keys, the sealing one first."""
        return tuple(key_id.hex() for key_id in self._by_id)

    def derive(self, info: bytes) -> tuple[bytes, ...]:
        """Return 32 bytes for each key, the sealing one first, that nobody without it can make.

        Args:
            info: What they are for (RFC 5869 §2.3); it begins with letters, so that it is never
                the place of a row.
        """
        return tuple(_expand(key, info) for key in self._by_id.values())

    def seal(self, plain: bytes, context: SealContext) -> bytes:
        """Return the envelope of a payload for its place."""
        header = bytes((_VERSION,)) + self._primary.key_id
        place = _encode(context)
        nonce = os.urandom(_NONCE_BYTES)
        sealed = AESGCM(_expand(self._primary, place)).encrypt(nonce, plain, header + place)
        return header + nonce + sealed

    def open(self, envelope: bytes, context: SealContext) -> bytes:
        """Return the payload of an envelope.

        Raises:
            SealBroken: The ring lacks the key that sealed it, or the envelope or its place is not
                what was sealed.
        """
        key_id = key_id_of(envelope)
        ring_key = self._by_id.get(envelope[1:_NONCE_AT])
        if ring_key is None:
            raise SealBroken(
                f"A row is sealed with the key {key_id}, which SECRET_KEYS lacks; put that key"
                " back.",
                key_id=key_id,
            )
        place = _encode(context)
        try:
            return AESGCM(_expand(ring_key, place)).decrypt(
                envelope[_NONCE_AT:_SEALED_AT],
                envelope[_SEALED_AT:],
                envelope[:_NONCE_AT] + place,
            )
        except InvalidTag as exc:
            raise SealBroken(
                f"A row of the table {context.table} does not open in its place: it was edited,"
                " copied or damaged; end the session, and find out who writes to the database.",
                key_id=key_id,
            ) from exc


def key_id_of(envelope: bytes) -> str:
    """Return the id of the key that sealed an envelope.

    Raises:
        SealBroken: The bytes are no envelope of this version.
    """
    if len(envelope) < _SEALED_AT + _TAG_BYTES or envelope[0] != _VERSION:
        raise SealBroken(
            "A sealed column does not hold an envelope of this version; run the version that wrote"
            " it, or end the session."
        )
    return envelope[1:_NONCE_AT].hex()


def generate_secret_key() -> str:
    """Return a fresh key as text for SECRET_KEYS."""
    return secrets.token_urlsafe(KEY_BYTES)


def parse_secret_keys(text: str) -> tuple[bytes, ...]:
    """Read SECRET_KEYS: base64url keys of 32 bytes, separated by commas or white space.

    Raises:
        ConfigurationError: A key is not base64url, or not of 32 bytes.
    """
    keys: list[bytes] = []
    words = [word for word in re.split(r"[\s,]+", text) if word]
    for number, word in enumerate(words, start=1):
        key = _decode(word)
        # The word is not echoed: it may be a key with one wrong letter.
        if key is None:
            raise ConfigurationError(f"Key {number} of SECRET_KEYS is not base64url; {_MAKE}.")
        if len(key) != KEY_BYTES:
            raise ConfigurationError(
                f"Key {number} of SECRET_KEYS has {len(key)} bytes instead of {KEY_BYTES}; {_MAKE}."
            )
        if key in keys:
            raise ConfigurationError(
                f"Key {number} of SECRET_KEYS is there twice; remove one of the two."
            )
        keys.append(key)
    return tuple(keys)


def _decode(word: str) -> bytes | None:
    bare = word.rstrip("=")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", bare):
        return None
    try:
        # Padding beyond what is needed is not looked at.
        return base64.urlsafe_b64decode(bare + "==")
    except binascii.Error:
        return None


def _expand(ring_key: _RingKey, info: bytes) -> bytes:
    return hmac.digest(ring_key.extracted, info + b"\x01", hashlib.sha256)


def _encode(context: SealContext) -> bytes:
    # Lengths stand in front of the parts: no two places may come to the same bytes.
    parts = (
        context.table.encode(),
        context.column.encode(),
        context.row_id.encode(),
        context.did.encode(),
        context.issuer.encode(),
        context.client_id.encode(),
    )
    return _LENGTHS.pack(*map(len, parts)) + b"".join(parts)
