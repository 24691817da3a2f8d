"""The accounts of one embedded server."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from atproto_oauth_asgi.testing.web import JSONObject

#: Where a handle says whose it is (atproto: Handle Resolution).
HandleProof: TypeAlias = Literal["both", "dns", "well-known", "none"]

#: Password of every account that was not given another.
DEFAULT_PASSWORD = "dev-password"

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_SECP256K1_MULTICODEC = b"\xe7\x01"


@dataclass(slots=True, kw_only=True)
class Account:
    """Is one account. What is assigned to its fields shows at once in documents and answers."""

    handle: str
    did: str
    password: str = field(repr=False)
    email: str
    #: Origin of the PDS that the DID document names.
    pds: str
    #: Where the handle says whose it is.
    handle_proof: HandleProof = "both"
    status: Literal["active", "deactivated", "takendown", "deleted"] = "active"
    #: Members that replace those of the DID document; `None` removes one.
    document_changes: JSONObject = field(default_factory=dict[str, object])

    @property
    def usable(self) -> bool:
        """Say whether the account's sessions are answered at all."""
        return self.status in {"active", "deactivated"}

    def document(self) -> JSONObject:
        """Return the DID document (DID Core, atproto: DID)."""
        document: JSONObject = {
            "@context": [
                "https://www.w3.org/ns/did/v1",
                "https://w3id.org/security/multikey/v1",
                "https://w3id.org/security/suites/secp256k1-2019/v1",
            ],
            "id": self.did,
            "alsoKnownAs": [f"at://{self.handle}"],
            "verificationMethod": [
                {
                    "id": f"{self.did}#atproto",
                    "type": "Multikey",
                    "controller": self.did,
                    "publicKeyMultibase": _signing_key(self.did),
                }
            ],
            "service": [
                {
                    "id": "#atproto_pds",
                    "type": "AtprotoPersonalDataServer",
                    "serviceEndpoint": self.pds,
                }
            ],
        }
        changed = {**document, **self.document_changes}
        return {name: value for name, value in changed.items() if value is not None}


class Accounts:
    """Holds the accounts of one server, found by handle, DID or e-mail address."""

    def __init__(self) -> None:
        self._by_did: dict[str, Account] = {}
        self._joined: list[Accounts] = []

    def __iter__(self) -> Iterator[Account]:
        yield from tuple(self._by_did.values())
        for others in self._joined:
            yield from others

    def join(self, others: Accounts) -> None:
        """Find the accounts of another server too, now and later."""
        self._joined.append(others)

    def add(self, account: Account) -> None:
        """Add an account."""
        self._by_did[account.did] = account

    def remove(self, account: Account) -> None:
        """Take an account out, if it is there."""
        self._by_did.pop(account.did, None)

    def find(self, identifier: str) -> Account | None:
        """Return the account with this handle, DID or e-mail address that was not deleted."""
        wanted = identifier.strip().removeprefix("@").lower()
        for account in self:
            if account.status != "deleted" and wanted in {
                account.did,
                account.handle,
                account.email,
            }:
                return account
        return None


def did_for(handle: str) -> str:
    """Return the did:plc of a handle: the same in every run, so databases outlive the network."""
    digest = hashlib.sha256(handle.encode()).digest()
    return "did:plc:" + base64.b32encode(digest).decode().lower()[:24]


def _signing_key(did: str) -> str:
    number = int.from_bytes(hashlib.sha256(did.encode()).digest()[:31], "big") + 1
    public = ec.derive_private_key(number, ec.SECP256K1()).public_key()
    point = public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    value = int.from_bytes(_SECP256K1_MULTICODEC + point, "big")
    digits: list[str] = []
    while value:
        value, digit = divmod(value, 58)
        digits.append(_BASE58[digit])
    return "z" + "".join(reversed(digits))
