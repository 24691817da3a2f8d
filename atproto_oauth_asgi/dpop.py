"""DPoP proofs and nonces (RFC 9449).

Proofs are made by hand, not with a JWT library: the header is the same for the life of a key, and
building it once keeps a proof within a fifth of the price of its bare signature.
"""

from __future__ import annotations

import os
import re
import time
from base64 import urlsafe_b64encode
from binascii import b2a_base64
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from json.encoder import encode_basestring_ascii as quoted

import httpx
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from atproto_oauth_asgi.clock_skew import Clocks
from atproto_oauth_asgi.instrumentation import Events

_DEFAULT_PORTS = {"https": 443, "http": 80}
_ES256 = ec.ECDSA(hashes.SHA256())
_NONCE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,1024}")
_PARAM = re.compile(r'([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_SCHEME = re.compile(r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:[ ]+|(?=,|$))")
_TOKEN68 = re.compile(r"[0-9A-Za-z._~+/-]+=*[ \t]*(?=,|$)")


def b64url(data: bytes) -> str:
    """Encode bytes as base64url without padding (RFC 7515 §2)."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _segment(data: bytes) -> bytes:
    return b2a_base64(data, newline=False).rstrip(b"=").translate(_URLSAFE)


_URLSAFE = bytes.maketrans(b"+/", b"-_")


def _raw_signature(der: bytes) -> bytes:
    """Turn a DER ECDSA signature into the 64 bytes of JWS (RFC 7518 §3.4)."""
    end_r = 4 + der[3]
    r, s = der[4:end_r], der[end_r + 2 :]
    return r[-32:].rjust(32, b"\0") + s[-32:].rjust(32, b"\0")


class DPoPKey:
    """Is the P-256 key pair that one session's tokens are bound to (RFC 9449 §4.2).

    Fresh for each login, never shared and never used again after logout.
    """

    __slots__ = ("_header", "_private", "thumbprint")

    def __init__(self, private: ec.EllipticCurvePrivateKey) -> None:
        self._private = private
        numbers = private.public_key().public_numbers()
        x, y = (b64url(n.to_bytes(32)) for n in (numbers.x, numbers.y))
        public = f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'
        #: RFC 7638 thumbprint of the public key, the `jkt` of RFC 9449 §6.1.
        self.thumbprint = b64url(sha256(public.encode()).digest())
        self._header = _segment(f'{{"typ":"dpop+jwt","alg":"ES256","jwk":{public}}}'.encode())

    def __repr__(self) -> str:
        return f"DPoPKey(thumbprint={self.thumbprint!r})"

    @classmethod
    def generate(cls) -> DPoPKey:
        """Make a new key pair."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_der(cls, der: bytes) -> DPoPKey:
        """Read what `to_der` wrote.

        Raises:
            ValueError: the bytes are not a P-256 private key.
        """
        private = serialization.load_der_private_key(der, None)
        if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name != "secp256r1":
            msg = "not a P-256 private key"
            raise ValueError(msg)
        return cls(private)

    def to_der(self) -> bytes:
        """Return the private key as PKCS #8 DER, to be sealed."""
        return self._private.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def proof(
        self, method: str, uri: str, *, nonce: str | None, ath: str | None = None, skew: int = 0
    ) -> str:
        """Make a proof for one HTTP attempt; it has a `jti` of its own (RFC 9449 §4.2).

        Args:
            method: The request's method, exactly as sent.
            uri: The request's `htu`, as `target_uri` makes it.
            nonce: The server's last nonce, checked by `Nonces`.
            ath: `token_hash` of the access token, on requests to a PDS only.
            skew: Seconds by which the server's clock is known to be ahead of ours.
        """
        claims = (
            f'{{"jti":"{os.urandom(16).hex()}","htm":{quoted(method)},"htu":{quoted(uri)}'
            f',"iat":{int(time.time()) + skew}'
        )
        if nonce is not None:
            claims += f',"nonce":{quoted(nonce)}'
        if ath is not None:
            claims += f',"ath":"{ath}"'
        signed = self._header + b"." + _segment(claims.encode() + b"}")
        signature = _segment(_raw_signature(self._private.sign(signed, _ES256)))
        return (signed + b"." + signature).decode()


def target_uri(url: httpx.URL) -> str:
    """Return a request URL without query and fragment: the `htu` claim (RFC 9449 §4.2).

    Scheme and host are lower case, a default port is left out, and the path is byte for byte the
    one that is sent.
    """
    path = url.raw_path.partition(b"?")[0].decode()
    return origin_of(url) + path


def origin_of(url: httpx.URL) -> str:
    """Return scheme, host and non-default port of a URL (RFC 6454 §6.2)."""
    host = url.netloc.decode()
    # httpx keeps a default port after a scheme in capitals.
    if url.port is not None and url.port == _DEFAULT_PORTS.get(url.scheme):
        host = host.rpartition(":")[0]
    return f"{url.scheme}://{host}"


def token_hash(access_token: str) -> str:
    """Return the `ath` claim for an access token (RFC 9449 §4.2)."""
    return b64url(sha256(access_token.encode()).digest())


class Nonces:
    """Remembers the newest DPoP nonce of each origin, in memory only (RFC 9449 §8.2).

    Each session has its own, so that servers may hand out nonces per session (atproto OAuth:
    DPoP). Where it has none yet it starts from what its `shared` elder saw last of the origin:
    most servers use one nonce for all, which saves a round trip.
    """

    __slots__ = ("_by_origin", "_shared", "clocks")

    LIMIT = 500

    def __init__(self, shared: Nonces | None = None, *, clocks: Clocks | None = None) -> None:
        self._by_origin: OrderedDict[str, str] = OrderedDict()
        self._shared = shared
        #: What is known of the same servers' clocks; one for all sessions.
        self.clocks: Clocks = clocks or (shared.clocks if shared else Clocks(Events()))

    def get(self, origin: str) -> str | None:
        """Return the nonce to send to an origin, if any is known."""
        nonce = self._by_origin.get(origin)
        if nonce is None and self._shared is not None:
            return self._shared.get(origin)
        return nonce

    def learn(self, origin: str, headers: httpx.Headers) -> str | None:
        """Keep the nonce of a response, whatever its status, and return it when it is valid."""
        values = headers.get_list("dpop-nonce")
        if len(values) != 1 or not _NONCE.fullmatch(values[0]):
            return None
        self.keep(origin, values[0])
        return values[0]

    def keep(self, origin: str, nonce: str) -> None:
        """Keep a valid nonce, here and where the next session starts from."""
        self._by_origin[origin] = nonce
        self._by_origin.move_to_end(origin)
        if len(self._by_origin) > self.LIMIT:
            self._by_origin.popitem(last=False)
        if self._shared is not None:
            self._shared.keep(origin, nonce)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge of a WWW-Authenticate header (RFC 9110 §11.6.1)."""

    #: Lower case.
    scheme: str
    #: Names in lower case.
    parameters: dict[str, str]


def challenges(headers: httpx.Headers) -> list[Challenge]:
    """Read every challenge of a response, in any order and spelling (RFC 9110 §11.6.1)."""
    found: list[Challenge] = []
    for value in headers.get_list("www-authenticate"):
        position = 0
        while position < len(value):
            while position < len(value) and value[position] in " ,\t":
                position += 1
            if (parameter := _PARAM.match(value, position)) and found:
                name, string, token = parameter.groups()
                text = token if string is None else re.sub(r"\\(.)", r"\1", string)
                found[-1].parameters.setdefault(name.lower(), text)
                position = parameter.end()
            elif scheme := _SCHEME.match(value, position):
                found.append(Challenge(scheme[1].lower(), {}))
                position = scheme.end()
                if value[position - 1] == " " and (blob := _TOKEN68.match(value, position)):
                    position = blob.end()
            else:
                break
    return found


def dpop_error(headers: httpx.Headers) -> str | None:
    """Return the error of a resource server's DPoP challenge, if it made one (RFC 9449 §7.1)."""
    for challenge in challenges(headers):
        if challenge.scheme == "dpop" and "error" in challenge.parameters:
            return challenge.parameters["error"]
    return None
