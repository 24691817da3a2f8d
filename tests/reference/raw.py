"""A bare OAuth client: what the harness is proved with, so that the library is not."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
from joserfc import jwt
from joserfc.jwk import ECKey

from tests.reference.network import ReferenceNetwork

LOOPBACK_CALLBACK = "http://127.0.0.1/callback"
SCOPE = "atproto transition:generic"
_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def _hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def callback_parameters(url: str) -> dict[str, str]:
    """Return what a callback URL brings."""
    return dict(parse_qsl(urlsplit(url).query))


class RawClient:
    """One login by hand: PAR, code exchange, refresh, revocation and PDS calls over raw httpx.

    Public on loopback, or confidential with `client_id`, `redirect_uri` and `client_key`. With the
    `dpop_key` of another client's session it can use that session's tokens.
    """

    def __init__(
        self,
        network: ReferenceNetwork,
        *,
        client_id: str | None = None,
        redirect_uri: str = LOOPBACK_CALLBACK,
        client_key: ECKey | None = None,
        dpop_key: ECKey | None = None,
    ) -> None:
        self._network = network
        self._redirect_uri = redirect_uri
        self._client_id = client_id or "http://localhost?" + urlencode(
            {"redirect_uri": redirect_uri, "scope": SCOPE}
        )
        self._client_key = client_key
        self._dpop_key = dpop_key or ECKey.generate_key("P-256")
        self._verifier = secrets.token_urlsafe(48)
        self._nonce: str | None = None
        self._http = httpx.AsyncClient(timeout=20, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._http.aclose()

    async def authorize_url(self) -> str:
        """Push an authorization request and return the URL for the person."""
        answer = await self._oauth(
            "/oauth/par",
            {
                "response_type": "code",
                "code_challenge_method": "S256",
                "code_challenge": _hash(self._verifier),
                "state": secrets.token_urlsafe(12),
                "redirect_uri": self._redirect_uri,
                "scope": SCOPE,
            },
        )
        answer.raise_for_status()
        query = {"client_id": self._client_id, "request_uri": answer.json()["request_uri"]}
        return f"{self._network.issuer}/oauth/authorize?{urlencode(query)}"

    async def exchange(self, callback_url: str) -> dict[str, Any]:
        """Turn the code of a callback URL into tokens."""
        answer = await self._oauth(
            "/oauth/token",
            {
                "grant_type": "authorization_code",
                "code": callback_parameters(callback_url)["code"],
                "redirect_uri": self._redirect_uri,
                "code_verifier": self._verifier,
            },
        )
        answer.raise_for_status()
        tokens: dict[str, Any] = answer.json()
        return tokens

    async def refresh(self, refresh_token: str) -> httpx.Response:
        """Use a refresh token and return the answer, whatever it is."""
        return await self._oauth(
            "/oauth/token", {"grant_type": "refresh_token", "refresh_token": refresh_token}
        )

    async def revoke(self, token: str) -> httpx.Response:
        """Revoke the grant `token` belongs to."""
        return await self._oauth("/oauth/revoke", {"token": token})

    async def get_session(self, access_token: str) -> httpx.Response:
        """Ask the PDS who is signed in."""
        url = f"{self._network.pds}/xrpc/com.atproto.server.getSession"

        async def send() -> httpx.Response:
            proof = self._proof("GET", url, access_token)
            headers = {"authorization": f"DPoP {access_token}", "dpop": proof}
            return self._noted(await self._http.get(url, headers=headers))

        answer = await send()
        challenged = "use_dpop_nonce" in answer.headers.get("www-authenticate", "")
        return await send() if challenged else answer

    async def _oauth(self, path: str, form: dict[str, str]) -> httpx.Response:
        url = f"{self._network.issuer}{path}"

        async def send() -> httpx.Response:
            data = {**self._credentials(), **form}
            headers = {"dpop": self._proof("POST", url)}
            return self._noted(await self._http.post(url, data=data, headers=headers))

        answer = await send()
        return await send() if answer.json().get("error") == "use_dpop_nonce" else answer

    def _noted(self, answer: httpx.Response) -> httpx.Response:
        self._nonce = answer.headers.get("dpop-nonce", self._nonce)
        return answer

    def _credentials(self) -> dict[str, str]:
        if self._client_key is None:
            return {"client_id": self._client_id}
        now = int(time.time())
        claims = {
            "iss": self._client_id,
            "sub": self._client_id,
            "aud": self._network.issuer,
            "jti": secrets.token_urlsafe(12),
            "iat": now,
            "exp": now + 60,
        }
        header = {"alg": "ES256", "kid": self._client_key.kid}
        return {
            "client_id": self._client_id,
            "client_assertion_type": _ASSERTION_TYPE,
            "client_assertion": jwt.encode(header, claims, self._client_key),
        }

    def _proof(self, method: str, url: str, access_token: str | None = None) -> str:
        header = {
            "typ": "dpop+jwt",
            "alg": "ES256",
            "jwk": self._dpop_key.as_dict(private=False),
        }
        claims: dict[str, Any] = {
            "jti": secrets.token_urlsafe(16),
            "htm": method,
            "htu": url,
            "iat": int(time.time()),
        }
        if self._nonce is not None:
            claims["nonce"] = self._nonce
        if access_token is not None:
            claims["ath"] = _hash(access_token)
        return jwt.encode(header, claims, self._dpop_key)
