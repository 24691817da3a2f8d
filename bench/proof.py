"""A DPoP proof against the bare signature in it."""

from __future__ import annotations

import os

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from atproto_oauth_asgi.dpop import DPoPKey, token_hash
from bench.interleave import Figure, compare

_URI = "https://pds.birdsong.dev/xrpc/com.atproto.repo.createRecord"


async def measure(*, rounds: int) -> list[Figure]:
    """Return the figures; goal: ratio of at least 0.80."""
    private = ec.generate_private_key(ec.SECP256R1())
    key, algorithm, message = DPoPKey(private), ec.ECDSA(hashes.SHA256()), os.urandom(450)
    ath, nonce = token_hash("t" * 700), "n" * 43

    async def raw(count: int) -> None:
        for _ in range(count):
            r, s = decode_dss_signature(private.sign(message, algorithm))
            _ = r.to_bytes(32, "big") + s.to_bytes(32, "big")

    async def proof(count: int) -> None:
        for _ in range(count):
            key.proof("POST", _URI, nonce=nonce, ath=ath)

    return await compare(
        [("raw ES256 signature", raw), ("DPoP proof", proof)], rounds=rounds, operations=400
    )
