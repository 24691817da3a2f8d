"""Client authentication with `private_key_jwt` (RFC 7523 §3) and without."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from joserfc import jwk, jws
from joserfc.errors import JoseError

from atproto_oauth_asgi.testing.client_metadata import ClientMetadata
from atproto_oauth_asgi.testing.client_registry import ClientRegistry
from atproto_oauth_asgi.testing.replay_cache import ReplayCache
from atproto_oauth_asgi.testing.web import OAuthRefusal

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

_JWT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
_MAX_AGE = 60
_JTI_LIFE = 66.0
_ALGORITHMS = ["RS256", "PS256", "ES256", "ES384", "ES512"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientAuth:
    """Is how a client proved itself. A session stays bound to it for life."""

    method: str
    kid: str | None = None
    algorithm: str | None = None
    jkt: str | None = None


class ClientAuthenticator:
    """Authenticates the clients of one authorization server."""

    def __init__(
        self, *, registry: ClientRegistry, issuer: Callable[[], str], clock: Callable[[], float]
    ) -> None:
        self._registry = registry
        self._issuer = issuer
        self._clock = clock
        self._seen = ReplayCache(clock)

    async def authenticate(self, form: Mapping[str, str]) -> tuple[ClientMetadata, ClientAuth]:
        """Find and authenticate the client that sent a form.

        Raises:
            OAuthRefusal: The client is unknown, or is not the one it says.
        """
        client = await self._registry.find(form["client_id"])
        if client.auth_method == "none":
            return client, ClientAuth(method="none")
        assertion = form.get("client_assertion", "")
        if form.get("client_assertion_type") != ASSERTION_TYPE or not _JWT.fullmatch(assertion):
            raise OAuthRefusal(
                "invalid_request",
                'client authentication method "private_key_jwt" required a "client_assertion"',
            )
        keys = await self._registry.keys_of(client)
        auth, claims = _verify_signature(assertion, keys)
        self._check_claims(claims, client.client_id)
        if auth.kid is None:
            raise OAuthRefusal("invalid_client", '"kid" required in client_assertion')
        if not self._seen.first_use(f"{client.client_id} {claims['jti']}", seconds=_JTI_LIFE):
            raise OAuthRefusal("invalid_grant", "private_key_jwt jti reused")
        return client, auth

    def _check_claims(self, claims: Mapping[str, object], client_id: str) -> None:
        for name in ("iat", "aud", "sub", "iss", "jti"):
            if claims.get(name) is None:
                raise _failed(f'missing required "{name}" claim')
        if claims["iss"] != client_id:
            raise _failed('unexpected "iss" claim value')
        if claims["sub"] != client_id:
            raise _failed('unexpected "sub" claim value')
        audience = claims["aud"]
        audiences = cast("list[object]", audience) if isinstance(audience, list) else [audience]
        if self._issuer() not in audiences:
            raise _failed('unexpected "aud" claim value')
        now = math.floor(self._clock())
        issued, expires = claims["iat"], claims.get("exp")
        if isinstance(issued, bool) or not isinstance(issued, int | float):
            raise _failed('"iat" claim must be a number')
        if expires is not None and (not isinstance(expires, int | float) or expires <= now):
            raise _failed('"exp" claim timestamp check failed')
        if now - issued > _MAX_AGE:
            raise _failed('"iat" claim timestamp check failed (too far in the past)')
        if issued > now:
            raise _failed('"iat" claim timestamp check failed (it should be in the past)')


def _verify_signature(
    assertion: str, keys: Sequence[Mapping[str, object]]
) -> tuple[ClientAuth, Mapping[str, object]]:
    try:
        header = jws.extract_compact(assertion.encode()).headers()
    except (JoseError, ValueError) as exc:
        raise _failed("Invalid Compact JWS") from exc
    kid, algorithm = header.get("kid"), header.get("alg")
    if algorithm not in _ALGORITHMS:
        raise _failed('"alg" (Algorithm) Header Parameter value not allowed')
    fitting = [
        key for key in keys if kid in {None, key.get("kid")} and key.get("alg") in {None, algorithm}
    ]
    if not fitting:
        raise _failed("no applicable key found in the JSON Web Key Set")
    if len(fitting) > 1:
        raise _failed("multiple matching keys found in the JSON Web Key Set")
    try:
        key = jwk.import_key(cast("dict[str, str | list[str]]", dict(fitting[0])))
        signed = jws.deserialize_compact(assertion, key, algorithms=_ALGORITHMS)
        claims: object = json.loads(signed.payload)
    except (JoseError, ValueError, TypeError, KeyError) as exc:
        raise _failed("signature verification failed") from exc
    if not isinstance(claims, dict):
        raise _failed("JWT Claims Set must be a top-level JSON object")
    auth = ClientAuth(
        method="private_key_jwt",
        kid=kid if isinstance(kid, str) else None,
        algorithm=algorithm,
        jkt=key.thumbprint(),
    )
    return auth, cast("dict[str, object]", claims)


def _failed(reason: str) -> OAuthRefusal:
    return OAuthRefusal("invalid_client", f'Validation of "client_assertion" failed: {reason}')
