"""DPoP proofs as the reference server checks them (RFC 9449 §4.3), and its rotating nonces.

Nothing here is shared with the library: a mistake made in both places would go unseen.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import secrets
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from joserfc import jwk, jws
from joserfc.errors import BadSignatureError, JoseError

from atproto_oauth_asgi.testing.replay_cache import ReplayCache

#: What the reference server advertises (`dpop_signing_alg_values_supported`).
ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES256K", "ES384", "ES512"),
)
_VERIFIABLE = [name for name in ALGORITHMS if name != "ES256K"]

_MAX_AGE = 10.0
_TOLERANCE = 180.0
_JTI_LIFE = 198.0
_DEFAULT_PORTS = {"http": 80, "https": 443}


class DPoPRefused(Exception):
    """Says why a proof is not accepted; `error` is `use_dpop_nonce` or `invalid_dpop_proof`."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(error, message)
        self.error = error
        self.message = message


def challenge(error: str, message: str) -> tuple[str, str]:
    """Return the WWW-Authenticate header; a message with quotes is left out of it."""
    value = f'DPoP algs="{" ".join(ALGORITHMS)}", error="{error}"'
    if '"' not in message:
        value += f', error_description="{message}"'
    return ("www-authenticate", value)


class NonceRotation:
    """Makes one nonce for each interval; hands out the next and accepts previous, now and next."""

    def __init__(self, *, interval: float, clock: Callable[[], float]) -> None:
        self.interval = interval
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        #: The one nonce that is good, for one request, while there is a storm.
        self._only: str | None = None
        self._storm = False

    @contextmanager
    def storm(self) -> Generator[None]:
        """Take no nonce twice, and none but the newest, until the end of the block."""
        self._storm, self._only = True, None
        try:
            yield
        finally:
            self._storm = False

    def restart(self) -> None:
        """Forget the secret, as a restarted server does: every nonce given out is refused."""
        self._secret = secrets.token_bytes(32)

    def current(self) -> str:
        """Return the nonce for a `DPoP-Nonce` header."""
        if self._storm:
            self._only = secrets.token_urlsafe(32)
            return self._only
        return self._nonce(self._counter() + 1)

    def accepts(self, nonce: str) -> bool:
        """Say whether a proof may carry this nonce now."""
        if self._storm:
            good, self._only = self._only, None
            return good is not None and hmac.compare_digest(good.encode(), nonce.encode())
        counter = self._counter()
        return any(
            hmac.compare_digest(self._nonce(counter + step).encode(), nonce.encode())
            for step in (-1, 0, 1)
        )

    def _counter(self) -> int:
        return math.floor(self._clock() / self.interval)

    def _nonce(self, counter: int) -> str:
        mac = hmac.new(self._secret, str(counter).encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Is a proof that passed every check but the binding to a session."""

    #: SHA-256 thumbprint of the key (RFC 7638).
    jkt: str


class DPoPVerifier:
    """Checks proofs for one server, in the order in which the reference server complains."""

    def __init__(self, *, nonces: NonceRotation, clock: Callable[[], float]) -> None:
        self.nonces = nonces
        self._clock = clock
        self._seen = ReplayCache(clock)

    def check(
        self, *, method: str, url: str, proofs: list[str], access_token: str | None = None
    ) -> Proof | None:
        """Check the `DPoP` headers of a request; `None` when it has none.

        Raises:
            DPoPRefused: The proof is not acceptable.
        """
        if not proofs:
            return None
        if len(proofs) > 1:
            raise _invalid("DPoP header must contain a single proof")
        claims, jkt = _verify_signature(proofs[0])
        self._check_age(claims.get("iat"))
        jti = claims.get("jti")
        if not isinstance(jti, str) or not jti:
            raise _invalid('DPoP "jti" missing')
        if claims.get("htm") != method:
            raise _invalid('DPoP "htm" mismatch')
        if _comparable(claims.get("htu")) != _comparable(url):
            raise _invalid('DPoP "htu" mismatch')
        nonce = claims.get("nonce")
        if nonce is None:
            raise DPoPRefused("use_dpop_nonce", "Authorization server requires nonce in DPoP proof")
        if not isinstance(nonce, str) or not self.nonces.accepts(nonce):
            raise DPoPRefused("use_dpop_nonce", 'DPoP "nonce" mismatch')
        if access_token is None and "ath" in claims:
            raise _invalid('DPoP "ath" claim not allowed')
        if access_token is not None and claims.get("ath") != _digest(access_token):
            raise _invalid('DPoP "ath" mismatch')
        if not self._seen.first_use(jti, seconds=_JTI_LIFE):
            raise _invalid("DPoP proof replayed")
        return Proof(jkt=jkt)

    def _check_age(self, issued: object) -> None:
        if issued is None:
            raise _unverified('missing required "iat" claim')
        if isinstance(issued, bool) or not isinstance(issued, int | float):
            raise _unverified('"iat" claim must be a number')
        age = math.floor(self._clock()) - issued
        if age > _MAX_AGE + _TOLERANCE:
            raise _unverified('"iat" claim timestamp check failed (too far in the past)')
        if age < -_TOLERANCE:
            raise _unverified('"iat" claim timestamp check failed (it should be in the past)')


def _verify_signature(proof: str) -> tuple[Mapping[str, object], str]:
    try:
        header = jws.extract_compact(proof.encode()).headers()
    except (JoseError, ValueError) as exc:
        raise _unverified("Invalid Compact JWS") from exc
    key_value = header.get("jwk")
    if not isinstance(key_value, dict):
        raise _unverified('"jwk" (JSON Web Key) Header Parameter must be a JSON object')
    if header.get("typ") != "dpop+jwt":
        raise _unverified('unexpected "typ" JWT header value')
    if header.get("alg") not in _VERIFIABLE:
        raise _unverified('"alg" (Algorithm) Header Parameter value not allowed')
    members = cast("dict[str, str | list[str]]", key_value)
    if members.keys() & {"d", "k", "p", "q"}:
        raise _unverified('"jwk" (JSON Web Key) Header Parameter must be a public key')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            key = jwk.import_key(members)
            signed = jws.deserialize_compact(proof, key, algorithms=_VERIFIABLE)
        claims: object = json.loads(signed.payload)
    except BadSignatureError as exc:
        raise _unverified("signature verification failed") from exc
    except (JoseError, ValueError, TypeError, KeyError) as exc:
        raise _unverified("Invalid JWK") from exc
    if not isinstance(claims, dict):
        raise _unverified("JWT Claims Set must be a top-level JSON object")
    return cast("dict[str, object]", claims), key.thumbprint()


def _comparable(url: object) -> object:
    """Return scheme, host, port and path: like the reference server, this forgives a query."""
    if not isinstance(url, str):
        return None
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    if parts.username is not None or parts.scheme not in _DEFAULT_PORTS:
        return None
    return (parts.scheme, parts.hostname, port, parts.path or "/")


def _digest(token: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()


def _invalid(message: str) -> DPoPRefused:
    return DPoPRefused("invalid_dpop_proof", message)


def _unverified(message: str) -> DPoPRefused:
    return _invalid(f"Failed to verify DPoP proof: {message}")
