"""An independent client of the network: raw httpx, its own DPoP, nothing of the library's core."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from atproto_oauth_asgi.testing import Network

JSON = dict[str, object]
REDIRECT_URI = "http://127.0.0.1/callback"
SCOPE = "atproto transition:generic"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class Clock:
    """Is a clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _part(value: object) -> str:
    return b64(json.dumps(value, separators=(",", ":")).encode())


class Key:
    """Is an ES256 key."""

    def __init__(self, kid: str | None = None) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.kid = kid
        numbers = self._key.public_key().public_numbers()
        self.jwk = {
            "kty": "EC",
            "crv": "P-256",
            "x": b64(numbers.x.to_bytes(32, "big")),
            "y": b64(numbers.y.to_bytes(32, "big")),
        }

    @property
    def published(self) -> JSON:
        return {**self.jwk, "kid": self.kid, "use": "sig", "alg": "ES256"}

    @property
    def private(self) -> JSON:
        number = self._key.private_numbers().private_value
        return {**self.published, "d": b64(number.to_bytes(32, "big"))}

    def sign(self, header: Mapping[str, object], payload: Mapping[str, object]) -> str:
        message = f"{_part(header)}.{_part(payload)}"
        r, s = decode_dss_signature(self._key.sign(message.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{message}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def loopback_client_id(redirect_uri: str = REDIRECT_URI, scope: str = SCOPE) -> str:
    return "http://localhost?" + urlencode({"redirect_uri": redirect_uri, "scope": scope})


class Walker:
    """Walks the flow by hand; every step can be made wrong on purpose."""

    def __init__(
        self,
        network: Network | None,
        http: httpx.AsyncClient,
        *,
        clock: Callable[[], float],
        client_id: str | None = None,
        client_key: Key | None = None,
        redirect_uri: str = REDIRECT_URI,
        scope: str = SCOPE,
        origin: str | None = None,
    ) -> None:
        self._network = network
        self.http = http
        self.clock = clock
        self.scope = scope
        self.redirect_uri = redirect_uri
        self.client_id = client_id or loopback_client_id(redirect_uri, scope)
        self.client_key = client_key
        self.origin = origin or self.network.host.origin
        self.key = Key()
        self.nonce: str | None = None
        self.state = ""
        self.verifier = ""

    @property
    def network(self) -> Network:
        assert self._network is not None, "this walker walks elsewhere"
        return self._network

    def url(self, path: str) -> str:
        return f"{self.origin}{path}"

    def proof(
        self,
        method: str,
        url: str,
        *,
        token: str | None = None,
        key: Key | None = None,
        claims: Mapping[str, object] | None = None,
    ) -> str:
        key = key or self.key
        payload: JSON = {
            "jti": secrets.token_urlsafe(16),
            "htm": method,
            "htu": url,
            "iat": int(self.clock()),
        }
        if self.nonce is not None:
            payload["nonce"] = self.nonce
        if token is not None:
            payload["ath"] = b64(hashlib.sha256(token.encode()).digest())
        merged = {**payload, **(claims or {})}
        kept = {name: value for name, value in merged.items() if value is not None}
        return key.sign({"typ": "dpop+jwt", "alg": "ES256", "jwk": key.jwk}, kept)

    def credentials(self, key: Key | None = None, **claims: object) -> dict[str, str]:
        key = key or self.client_key
        form = {"client_id": self.client_id}
        if key is not None:
            now = int(self.clock())
            payload = {
                "iss": self.client_id,
                "sub": self.client_id,
                "aud": self.origin,
                "jti": secrets.token_urlsafe(12),
                "iat": now,
                "exp": now + 60,
                **claims,
            }
            kept = {name: value for name, value in payload.items() if value is not None}
            header = {"alg": "ES256", **({} if key.kid is None else {"kid": key.kid})}
            form |= {
                "client_assertion_type": ASSERTION_TYPE,
                "client_assertion": key.sign(header, kept),
            }
        return form

    async def post(
        self,
        path: str,
        form: Mapping[str, str | None],
        *,
        key: Key | None = None,
        client_key: Key | None = None,
        assertion: Mapping[str, object] | None = None,
        dpop: str | None = "fresh",
        claims: Mapping[str, object] | None = None,
    ) -> httpx.Response:
        """Post a form with a proof; `dpop=None` sends none, another text is sent as it is."""
        fields = {**self.credentials(client_key, **(assertion or {})), **form}
        sent = {name: value for name, value in fields.items() if value is not None}
        headers: dict[str, str] = {}
        if dpop == "fresh":
            headers["dpop"] = self.proof("POST", self.url(path), key=key, claims=claims)
        elif dpop is not None:
            headers["dpop"] = dpop
        answer = await self.http.post(self.url(path), data=sent, headers=headers)
        self.nonce = answer.headers.get("dpop-nonce", self.nonce)
        return answer

    async def par(self, *, dpop: str | None = "fresh", **fields: str | None) -> httpx.Response:
        if self.nonce is None:
            await self.post("/oauth/par", {"response_type": "code"})
        self.verifier = secrets.token_urlsafe(48)
        self.state = secrets.token_urlsafe(12)
        form = self.request_form()
        return await self.post("/oauth/par", {**form, **fields}, dpop=dpop)

    def request_form(self) -> dict[str, str | None]:
        return {
            "response_type": "code",
            "code_challenge_method": "S256",
            "code_challenge": b64(hashlib.sha256(self.verifier.encode()).digest()),
            "state": self.state,
            "redirect_uri": self.redirect_uri,
            "scope": self.scope,
        }

    async def authorize_url(self, **fields: str | None) -> str:
        answer = await self.par(**fields)
        assert answer.status_code == 201, answer.text
        query = urlencode(
            {"client_id": self.client_id, "request_uri": answer.json()["request_uri"]}
        )
        return f"{self.url('/oauth/authorize')}?{query}"

    async def code(self, account: str = "alice.test", scope: str | None = None) -> str:
        callback = self.network.approve(await self.authorize_url(), account, scope=scope)
        return parameters(callback)["code"]

    def exchange_form(self, code: str) -> dict[str, str | None]:
        return {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "code_verifier": self.verifier,
        }

    async def exchange(
        self, code: str, *, key: Key | None = None, client_key: Key | None = None, **fields: str
    ) -> httpx.Response:
        form = {**self.exchange_form(code), **fields}
        return await self.post("/oauth/token", form, key=key, client_key=client_key)

    async def login(self, account: str = "alice.test", scope: str | None = None) -> JSON:
        answer = await self.exchange(await self.code(account, scope))
        assert answer.status_code == 200, answer.text
        return cast("JSON", answer.json())

    async def refresh(
        self, token: object, *, key: Key | None = None, client_key: Key | None = None
    ) -> httpx.Response:
        form = {"grant_type": "refresh_token", "refresh_token": str(token)}
        return await self.post("/oauth/token", form, key=key, client_key=client_key)

    async def revoke(
        self, token: object, *, client_key: Key | None = None, dpop: str | None = "fresh"
    ) -> httpx.Response:
        form = {"token": str(token)}
        return await self.post("/oauth/revoke", form, client_key=client_key, dpop=dpop)

    async def xrpc(
        self,
        nsid: str,
        token: object,
        *,
        method: str = "GET",
        body: JSON | None = None,
        data: bytes | None = None,
        content_type: str = "application/octet-stream",
        query: Mapping[str, str] | None = None,
        scheme: str = "DPoP",
        key: Key | None = None,
        dpop: str | None = "fresh",
        claims: Mapping[str, object] | None = None,
    ) -> httpx.Response:
        url = self.url(f"/xrpc/{nsid}")
        headers = {"authorization": f"{scheme} {token}"}
        if dpop == "fresh":
            headers["dpop"] = self.proof(method, url, token=str(token), key=key, claims=claims)
        elif dpop is not None:
            headers["dpop"] = dpop
        content = data
        if body is not None:
            content = json.dumps(body).encode()
            content_type = "application/json"
        if content is not None:
            headers["content-type"] = content_type
        answer = await self.http.request(
            method, url, params=query, content=content, headers=headers
        )
        self.nonce = answer.headers.get("dpop-nonce", self.nonce)
        return answer

    async def get_session(self, token: object) -> httpx.Response:
        return await self.xrpc("com.atproto.server.getSession", token)

    async def create_post(self, token: object, text: str = "hello") -> httpx.Response:
        body: JSON = {
            "repo": self.network.account("alice.test").did,
            "collection": "app.bsky.feed.post",
            "record": {"text": text, "createdAt": "2026-01-01T00:00:00.000Z"},
        }
        return await self.xrpc("com.atproto.repo.createRecord", token, method="POST", body=body)


def parameters(url: str) -> dict[str, str]:
    """Return the query of a callback URL."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
