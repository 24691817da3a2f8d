from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar, cast
from urllib.parse import urlsplit

import httpx
from starlette.types import ASGIApp

from atproto_oauth_asgi.testing.client_metadata import (
    ClientMetadata,
    check_client_id,
    parse_client_metadata,
    parse_loopback_client_id,
    public_keys,
)
from atproto_oauth_asgi.testing.client_schema import (
    FetchRefused,
    check_client_schema,
    check_key_schema,
    kind_of,
)
from atproto_oauth_asgi.testing.web import OAuthRefusal

_MOST_BYTES = 512 * 1024
_FORBIDDEN_HOSTS = ("example.com", "example.org", "example.net")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept(Generic[T]):
    value: T
    until: float


class ClientRegistry:
    """Fetches, checks and remembers client metadata and keys for one authorization server.

    Origins registered with `Network.register_client_app` are asked in this process. Others are
    reached through the network only while the embedded network itself is served on a port.
    """

    def __init__(
        self,
        *,
        apps: Mapping[str, ASGIApp],
        may_connect: Callable[[], bool],
        cache_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._apps = apps
        self._may_connect = may_connect
        self._cache_seconds = cache_seconds
        self._clock = clock
        self._clients: dict[str, _Kept[ClientMetadata]] = {}
        self._keys: dict[str, _Kept[tuple[Mapping[str, object], ...]]] = {}
        #: Names of keys that are overlooked, as if clients had taken them away.
        self.removed_kids: set[str] = set()

    def forget(self) -> None:
        """Empty the cache, as if its 10 minutes had passed."""
        self._clients.clear()
        self._keys.clear()

    async def find(self, client_id: str) -> ClientMetadata:
        """Return a client's metadata, at most 10 minutes old.

        Raises:
            OAuthRefusal: The client id or its document is not acceptable.
        """
        loopback = parse_loopback_client_id(client_id)
        if loopback is not None:
            return loopback
        kept = self._clients.get(client_id)
        if kept is not None and kept.until > self._clock():
            return kept.value
        check_client_id(client_id)
        try:
            document = await self._fetch(client_id)
            check_client_schema(document)
        except FetchRefused as exc:
            raise OAuthRefusal(
                "invalid_client_metadata",
                f'Unable to obtain client metadata for "{client_id}": {exc}',
            ) from exc
        client = parse_client_metadata(client_id, document)
        self._clients[client_id] = _Kept(value=client, until=self._clock() + self._cache_seconds)
        return client

    async def keys_of(self, client: ClientMetadata) -> tuple[Mapping[str, object], ...]:
        """Return a client's public keys; an unknown `kid` does not make them fetched anew.

        Raises:
            OAuthRefusal: The document at `jwks_uri` is not acceptable.
        """
        keys = await self._published(client)
        return tuple(key for key in keys if key.get("kid") not in self.removed_kids)

    async def _published(self, client: ClientMetadata) -> tuple[Mapping[str, object], ...]:
        uri = client.jwks_uri
        if uri is None:
            return client.keys
        kept = self._keys.get(uri)
        if kept is not None and kept.until > self._clock():
            return kept.value
        try:
            document = await self._fetch(uri)
            check_key_schema(document)
            keys = public_keys(document)
        except FetchRefused as exc:
            raise OAuthRefusal(
                "invalid_client_metadata",
                f'Unable to obtain jwks from "{uri}" for "{client.client_id}": {exc}',
            ) from exc
        self._keys[uri] = _Kept(value=keys, until=self._clock() + self._cache_seconds)
        return keys

    async def _fetch(self, url: str) -> dict[str, object]:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if host in _FORBIDDEN_HOSTS or host.endswith(
            tuple(f".{name}" for name in _FORBIDDEN_HOSTS)
        ):
            raise FetchRefused("Forbidden hostname")
        app = self._apps.get(f"{parts.scheme}://{parts.netloc}")
        if app is None and not self._may_connect():
            raise FetchRefused("Invalid hostname")
        transport = (
            httpx.AsyncHTTPTransport() if app is None else httpx.ASGITransport(app=app)  # pyright: ignore[reportArgumentType]
        )
        try:
            async with httpx.AsyncClient(transport=transport, timeout=10, trust_env=False) as http:
                answer = await http.get(url, headers={"accept": "application/json"})
        except httpx.HTTPError as exc:
            raise FetchRefused("fetch failed") from exc
        return _json_object(answer)


def _json_object(answer: httpx.Response) -> dict[str, object]:
    if answer.is_redirect:
        raise FetchRefused("unexpected redirect")
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not answer.is_success:
        raise FetchRefused((kind == "text/plain" and answer.text) or answer.reason_phrase)
    if kind != "application/json":
        raise FetchRefused(f"Unexpected response Content-Type ({kind})")
    if len(answer.content) > _MOST_BYTES:
        raise FetchRefused("Unable to parse response as JSON")
    try:
        value: object = json.loads(answer.content)
    except ValueError as exc:
        raise FetchRefused("Unable to parse response as JSON") from exc
    if not isinstance(value, dict):
        raise FetchRefused(
            f"Validation failed with error: Expected object, received {kind_of(value)}"
        )
    return cast("dict[str, object]", value)
