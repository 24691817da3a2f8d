"""The app's own keys: ES256 for `private_key_jwt` (RFC 7523 §2.2, `atproto OAuth: Clients`)."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn, TypedDict, cast

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from atproto_oauth_asgi.errors import ClientKeyMissing, ConfigurationError

#: `client_assertion_type` of the requests that carry an assertion (RFC 7523 §2.2).
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

# The reference server takes no `iat` from its future, not even a second, and none older than 60 s.
_BACKDATE = 10
_LIFE = 60
_MAX_KID = 256
_PARTS = ("kty", "crv", "x", "y", "d")
_MAKE = "make a new set with `atproto-oauth-asgi keys generate`"


class PublicJWK(TypedDict):
    """Is one published key (RFC 7517 §4, RFC 7518 §6.2.1)."""

    kty: str
    crv: str
    x: str
    y: str
    kid: str
    use: str
    alg: str


class PublicJWKS(TypedDict):
    """Is the answer of `jwks_uri` (RFC 7517 §5)."""

    keys: list[PublicJWK]


class _Pair(NamedTuple):
    key: ECKey
    public: PublicJWK


class ClientKeys:
    """Holds the keys that make the client confidential; their order is their whole state.

    All are published. The first signs new logins. A session keeps the key it began with for life
    (`atproto OAuth: Clients`), so rotate in two deployments: add the new key at the end, wait
    until every server has fetched it (an hour is plenty), then move it to the front; remove an
    old key only when no session is bound to it.

    Args:
        source: A JSON Web Key Set: as JSON text, as the path of a file, or decoded.

    Raises:
        ConfigurationError: The set cannot be read, is empty, or holds a key that cannot serve.
    """

    __slots__ = ("_pairs",)

    def __init__(self, source: str | Path | Mapping[str, object]) -> None:
        self._pairs: dict[str, _Pair] = {}
        points: set[str] = set()
        for number, member in enumerate(_members(source), start=1):
            pair = _pair(member, f"key {number} of CLIENT_KEYS")
            kid = pair.public["kid"]
            if kid in self._pairs:
                raise ConfigurationError(
                    f"CLIENT_KEYS has the kid “{kid}” twice, so servers could not tell which key"
                    " signed; remove one of the two."
                )
            if pair.public["x"] in points:
                raise ConfigurationError(
                    f"CLIENT_KEYS holds the key “{kid}” a second time under another kid; remove"
                    " one of the two."
                )
            points.add(pair.public["x"])
            self._pairs[kid] = pair

    @classmethod
    def none(cls) -> ClientKeys:
        """Return a set without keys, for which every assertion is a missing key."""
        empty = cls.__new__(cls)
        empty._pairs = {}  # noqa: SLF001  # this is its class
        return empty

    def __repr__(self) -> str:
        return f"ClientKeys({len(self._pairs)} hidden)"

    def __contains__(self, kid: object) -> bool:
        return kid in self._pairs

    @property
    def kids(self) -> tuple[str, ...]:
        """All key ids, in order."""
        return tuple(self._pairs)

    @property
    def signing_kid(self) -> str:
        """Id of the key that new logins are bound to.

        Raises:
            ClientKeyMissing: The set is `ClientKeys.none()`.
        """
        if not self._pairs:
            raise ClientKeyMissing("A confidential client needs a key; set CLIENT_KEYS.")
        return next(iter(self._pairs))

    def public_jwks(self) -> PublicJWKS:
        """Return the set to publish at `jwks_uri`, without any private member."""
        return {"keys": [pair.public.copy() for pair in self._pairs.values()]}

    def assertion(self, kid: str, client_id: str, issuer: str, *, skew: int = 0) -> str:
        """Make a client assertion for one HTTP request (RFC 7523 §3).

        Each request needs its own, also each retry: servers remember the `jti`.

        Args:
            kid: The key the login or session is bound to.
            client_id: The client's own id, both `iss` and `sub`.
            issuer: Issuer of the authorization server, exactly as its metadata writes it; neither
                the token endpoint nor a list will do.
            skew: Seconds by which the server's clock is known to be ahead of ours.

        Raises:
            ClientKeyMissing: CLIENT_KEYS has no key of this id any more.
        """
        pair = self._pairs.get(kid)
        if pair is None:
            raise ClientKeyMissing(
                f"The session is bound to the client key “{kid}”, which CLIENT_KEYS lacks; put the"
                " key back, or let the person sign in again.",
                kid=kid,
            )
        now = int(time.time()) + skew
        return jwt.encode(
            {"alg": "ES256", "kid": kid},
            {
                "iss": client_id,
                "sub": client_id,
                "aud": issuer,
                "jti": secrets.token_urlsafe(16),
                "iat": now - _BACKDATE,
                "exp": now + _LIFE,
            },
            pair.key,
            algorithms=["ES256"],
        )


def generate_client_keys() -> str:
    """Return a fresh JSON Web Key Set of one private ES256 key, as text for CLIENT_KEYS.

    The key's id is its thumbprint (RFC 7638), so no id is ever used for two keys.
    """
    key = ECKey.generate_key("P-256", private=True)
    member = {**key.as_dict(private=True), "kid": key.thumbprint(), "use": "sig", "alg": "ES256"}
    return json.dumps({"keys": [member]}, indent=2)


def _members(source: str | Path | Mapping[str, object]) -> list[object]:
    # Nothing of the value may be echoed: it may be a key where the name of a file was meant.
    document: object = source
    if isinstance(source, str | Path):
        text = str(source).strip()
        if not text.startswith(("{", "[")):
            try:
                text = Path(text).read_text(encoding="utf-8")
            except (OSError, ValueError) as exc:
                reason = (exc.strerror if isinstance(exc, OSError) else None) or "not a text file"
                raise ConfigurationError(
                    "CLIENT_KEYS must be a JSON Web Key Set or the path of a file with one, but"
                    f" the file cannot be read ({reason}); {_MAKE}."
                ) from exc
        # The decoder's error carries the whole text, so it is not chained.
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            document = None
    members = cast("Mapping[str, object]", document).get("keys") if _is_object(document) else None
    if not isinstance(members, list | tuple) or not members:
        raise ConfigurationError(
            f'CLIENT_KEYS is not a JSON object with a list of keys under "keys"; {_MAKE}.'
        )
    return [*cast("list[object]", members)]


def _is_object(value: object) -> bool:
    return isinstance(value, Mapping)


def _pair(member: object, which: str) -> _Pair:
    def refuse(why: str) -> NoReturn:
        raise ConfigurationError(f"{which[0].upper()}{which[1:]} {why}.")

    if not isinstance(member, Mapping):
        refuse(f"is not a JSON object; {_MAKE}")
    jwk = cast("Mapping[str, object]", member)
    if jwk.get("kty") != "EC" or jwk.get("crv") != "P-256" or jwk.get("alg", "ES256") != "ES256":
        refuse(f"is not an ES256 key (EC, P-256), the only kind every server accepts; {_MAKE}")
    if jwk.get("use", "sig") != "sig":
        refuse('is marked for another use than "sig"; keep it for that use and add a signing key')
    operations = jwk.get("key_ops", ["sign"])
    if not isinstance(operations, list) or "sign" not in operations:
        refuse('may not sign, by its "key_ops"; add "sign" or remove the member')
    kid = jwk.get("kid")
    if not isinstance(kid, str) or not kid.isprintable() or not 0 < len(kid.encode()) <= _MAX_KID:
        refuse('has no "kid"; give it one that no other key ever had, such as its thumbprint')
    if "d" not in jwk:
        refuse(
            'is a public key only, so it cannot sign; put the private key with its "d" there, or'
            " remove it"
        )
    parts = {name: jwk.get(name) for name in _PARTS}
    if not all(isinstance(part, str) for part in parts.values()):
        refuse(f"lacks a coordinate; {_MAKE}")
    key = _import(cast("dict[str, str | list[str]]", parts))
    if key is None:
        refuse(f"is damaged: its numbers are not one P-256 key pair; {_MAKE}")
    point = key.as_dict(private=False)
    public: PublicJWK = {
        "kty": "EC",
        "crv": "P-256",
        "x": str(point["x"]),
        "y": str(point["y"]),
        "kid": kid,
        "use": "sig",
        "alg": "ES256",
    }
    return _Pair(key, public)


def _import(parts: dict[str, str | list[str]]) -> ECKey | None:
    try:
        key = ECKey.import_key(parts)
        key.as_dict(private=False)
    except (JoseError, ValueError, TypeError):
        return None
    return key
