"""What a request is given: one login of one account, able to call its PDS."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import cast

import httpx

from atproto_oauth_asgi.errors import (
    AddressRefused,
    BadAnswer,
    ConfigurationError,
    RequestError,
    Unreachable,
    XRPCError,
)
from atproto_oauth_asgi.identifiers import Did, Handle
from atproto_oauth_asgi.live import LiveSession
from atproto_oauth_asgi.net_answer import read_whole
from atproto_oauth_asgi.permissions import is_nsid
from atproto_oauth_asgi.scopes import tokens as scope_tokens
from atproto_oauth_asgi.session_auth import FOLLOWS, SessionAuth
from atproto_oauth_asgi.upkeep import Upkeep
from atproto_oauth_asgi.words import error_code, harmless

Param = str | int | bool | Sequence[str]
Content = bytes | AsyncIterable[bytes]

_SERVICE = re.compile(r"did:[a-z]+:[a-zA-Z0-9._:%-]+#[!-~]{1,100}")
#: Most bytes of an answer that is read whole; `stream` has no such limit.
MAX_ANSWER = 32 * 1024 * 1024
#: Seconds in which an answer that is read whole must have come to its end.
ANSWER_DEADLINE = 120.0


class OAuthSession:
    """One login of one account.

    It holds no tokens, only a pointer to what this process knows of the session, so a WebSocket,
    a stream or a job never holds an old one.
    """

    __slots__ = ("_auth", "_client", "_end", "_live", "_prepare", "_upkeep")

    def __init__(
        self,
        live: LiveSession,
        *,
        upkeep: Upkeep,
        client: httpx.AsyncClient,
        end: Callable[[LiveSession], Awaitable[None]],
        prepare: Callable[[RequestError], None] | None = None,
    ) -> None:
        self._live = live
        self._client = client
        self._end = end
        self._upkeep = upkeep
        self._prepare = prepare
        self._auth: SessionAuth | None = None

    def __repr__(self) -> str:
        return f"OAuthSession(did={self.did!r}, handle={self.handle!r}, id={self.id!r})"

    @property
    def auth(self) -> SessionAuth:
        """Return what authenticates requests of the app's own `httpx.AsyncClient` to this PDS."""
        if self._auth is None:
            self._auth = SessionAuth(self._live, self._upkeep, self._prepare)
        return self._auth

    @property
    def id(self) -> str:
        """Return the session's id: opaque, stable, and no secret."""
        return self._live.id

    @property
    def did(self) -> Did:
        """Return the account's DID, the only key to file a person under."""
        return Did(self._live.did)

    @property
    def handle(self) -> Handle | None:
        """Return the account's handle, for display; None when none could be verified.

        It is looked at again whenever the tokens are refreshed.
        """
        return Handle(self._live.handle) if self._live.handle else None

    @property
    def pds(self) -> str:
        """Return the origin of the account's PDS."""
        return self._live.pds

    @property
    def issuer(self) -> str:
        """Return the authorization server's issuer identifier."""
        return self._live.issuer

    @property
    def scopes(self) -> frozenset[str]:
        """Return the granted scopes as the server wrote them.

        Ask `atproto_oauth_asgi.covers` whether they allow something: a server may write the same
        permission in other words (atproto OAuth: Authorization Scopes).
        """
        return frozenset(scope_tokens(self._live.scope))

    @property
    def access_expires_at(self) -> datetime:
        """Return when the access token expires; it is refreshed before, without being asked."""
        return datetime.now(UTC) + timedelta(seconds=self._live.remaining)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Param] | None = None,
        json: object = None,
        content: Content | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send a request to the PDS and return its whole answer, of any status.

        Args:
            method: The HTTP method.
            path: A path such as `/xrpc/com.atproto.server.getSession`, or a URL of this PDS.
            params: Query parameters.
            json: A body to send as JSON.
            content: A body to send as it is. Bytes can be sent again after a refresh; an async
                iterator is preceded by one cheap call, so that it need not be.
            headers: Further headers.

        Raises:
            SessionRevoked: the grant is gone; send the person to login.
            RefreshFailed: new tokens could not be had now; `retryable`.
            AddressRefused: the URL is not on this PDS.
            Unreachable: the PDS does not answer.
            BadAnswer: the answer is compressed, or larger than 32 MiB.
        """
        async with self.stream(
            method, path, params=params, json=json, content=content, headers=headers
        ) as response:
            await read_whole(response, limit=MAX_ANSWER, deadline=ANSWER_DEADLINE)
            return response

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Param] | None = None,
        json: object = None,
        content: Content | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[httpx.Response, None]:
        """Send a request to the PDS and give its answer before the body is read.

        Arguments and errors are those of `request`.
        """
        if self._client.is_closed:
            msg = (
                "This session's connections were closed with the lifespan or job that it is from;"
                " take a session of your own from ATProtoOAuth.session_for."
            )
            raise ConfigurationError(msg)
        request = self._client.build_request(
            method,
            self._url(path),
            params=_query(params),
            json=json,
            content=content,
            headers=dict(headers or {}),
            extensions={FOLLOWS: True},
        )
        try:
            response = await self._client.send(request, auth=self.auth, stream=True)
        except Unreachable:
            self._upkeep.suspect(self._live)
            raise
        try:
            yield response
        finally:
            await response.aclose()

    async def get(
        self,
        path: str,
        *,
        params: Mapping[str, Param] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send a GET request to the PDS; see `request`."""
        return await self.request("GET", path, params=params, headers=headers)

    async def post(
        self,
        path: str,
        *,
        json: object = None,
        content: Content | None = None,
        params: Mapping[str, Param] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send a POST request to the PDS; see `request`."""
        return await self.request(
            "POST", path, params=params, json=json, content=content, headers=headers
        )

    async def query(
        self, nsid: str, params: Mapping[str, Param] | None = None, *, proxy: str | None = None
    ) -> dict[str, object]:
        """Call an XRPC query and return its JSON (atproto: XRPC).

        Args:
            nsid: The method, such as `com.atproto.repo.listRecords`.
            params: Query parameters; a list is sent as a repeated parameter.
            proxy: A service to pass the call on to, as `DID#service` (`atproto-proxy`).

        Raises:
            XRPCError: the PDS answered with an error.
            ATProtoOAuthError: as `request`.
        """
        response = await self.get(_method(nsid), params=params, headers=_proxy(proxy))
        return _output(response)

    async def procedure(
        self,
        nsid: str,
        data: Mapping[str, object] | bytes | None = None,
        *,
        params: Mapping[str, Param] | None = None,
        content_type: str = "application/octet-stream",
        proxy: str | None = None,
    ) -> dict[str, object]:
        """Call an XRPC procedure and return its JSON (atproto: XRPC).

        Args:
            nsid: The method, such as `com.atproto.repo.createRecord`.
            data: A mapping is sent as JSON, bytes as they are, None as no body at all.
            params: Query parameters.
            content_type: What the bytes are.
            proxy: As in `query`.

        Raises:
            XRPCError: the PDS answered with an error.
            ATProtoOAuthError: as `request`.
        """
        headers = _proxy(proxy)
        if isinstance(data, bytes):
            headers["Content-Type"] = content_type
            response = await self.post(_method(nsid), content=data, params=params, headers=headers)
        else:
            response = await self.post(_method(nsid), json=data, params=params, headers=headers)
        return _output(response)

    async def logout(self) -> None:
        """End the session here, then revoke it at the authorization server.

        The person's cookie is left alone; it is worth nothing any more.

        Raises:
            StoreUnavailable: the session could not be ended.
        """
        await self._end(self._live)

    def _url(self, path: str) -> httpx.URL:
        inside = path.startswith("/") and not path.startswith("//")
        try:
            url = httpx.URL(self._live.pds + path if inside else path)
        except httpx.InvalidURL as exc:
            msg = "Give a path that starts with one `/`, or a URL of this session's PDS."
            raise AddressRefused(msg) from exc
        if url.userinfo or not str(url).startswith(self._live.pds + "/"):
            # As it was written: a broken `xn--` name has no other form.
            host = url.raw_host.decode("ascii")
            msg = f"This session's tokens go to {self._live.pds} only, never to {host!r}."
            raise AddressRefused(msg, host=host)
        return url


def _method(nsid: str) -> str:
    if not is_nsid(nsid):
        msg = "That is not the name of an XRPC method, such as com.atproto.repo.getRecord."
        raise AddressRefused(msg)
    return f"/xrpc/{nsid}"


def _proxy(proxy: str | None) -> dict[str, str]:
    if proxy is None:
        return {}
    if not _SERVICE.fullmatch(proxy):
        msg = "proxy names a service as DID#service, such as did:web:api.bsky.app#bsky_appview."
        raise AddressRefused(msg)
    return {"atproto-proxy": proxy}


def _query(params: Mapping[str, Param] | None) -> dict[str, Param] | None:
    # httpx takes an empty mapping for "drop the query that the path has".
    return dict(params) if params else None


def _output(response: httpx.Response) -> dict[str, object]:
    document = _object(response)
    if response.is_success:
        if document is None and response.content:
            host = response.url.host
            msg = f"The answer of {host!r} is not a JSON object."
            raise BadAnswer(msg, host=host, http_status=response.status_code)
        return document or {}
    error, message = (document or {}).get("error"), (document or {}).get("message")
    headers = response.request.headers
    sent = (headers["authorization"].removeprefix("DPoP "), headers["dpop"])
    raise XRPCError(
        http_status=response.status_code,
        error=error_code(error if isinstance(error, str) else None, sent) or "Unknown",
        server_message=harmless(message if isinstance(message, str) else "", sent),
    )


def _object(response: httpx.Response) -> dict[str, object] | None:
    try:
        document: object = json.loads(response.content)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, object]", document) if isinstance(document, dict) else None
