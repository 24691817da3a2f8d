"""From an account's PDS to its authorization server (atproto OAuth: Server Metadata)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import cast

from atproto_oauth_asgi.errors import (
    AddressRefused,
    ATProtoOAuthError,
    BadAnswer,
    FetchError,
    PDSUnreachable,
)
from atproto_oauth_asgi.net import Net
from atproto_oauth_asgi.origins import parse_origin
from atproto_oauth_asgi.server_metadata import ServerMetadata, incapable, read_server_metadata
from atproto_oauth_asgi.ttl_cache import TTLCache

__all__ = ["Discovery", "ServerMetadata"]

#: Seconds that metadata may be used; servers move their endpoints without notice.
_TTL = 60.0
_KEPT = 500
# A server that answers for more origins is asked each time: whoever owns a name can have hundreds
# of servers below it, and each may send half a megabyte of them.
_KEPT_RESOURCES = 200
_NOT_FOUND = 404
_MANY_REQUESTS = 429
_SERVER_ERROR = 500


class Discovery:
    """Finds the authorization server of a PDS; safe to share between event loops and threads.

    Args:
        net_for: Returns the `Net` of the running event loop.
        clock: A monotonic clock in seconds, for the age of remembered answers.
    """

    def __init__(
        self, net_for: Callable[[], Net], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._net_for = net_for
        self._issuers: TTLCache[str, str] = TTLCache(ttl=_TTL, size=_KEPT, clock=clock)
        self._servers: TTLCache[str, ServerMetadata] = TTLCache(ttl=_TTL, size=_KEPT, clock=clock)

    async def for_pds(self, origin: str, *, fresh: bool = False) -> ServerMetadata:
        """Return the metadata of the one authorization server that answers for a PDS.

        Args:
            origin: The PDS's origin, as its account's DID document gives it.
            fresh: Whether to ask both servers again instead of using answers up to 60 s old.

        Raises:
            PDSUnreachable: One of the two servers did not answer, or failed in passing.
            NotOAuthCapable: One of the two does not meet the profile; the message says how.
            AddressRefused: An address lies where the guard does not let this process go.
        """
        issuer = await self._issuer_of(origin, fresh=fresh)
        if issuer is None:
            raise incapable(origin, "it has no protected-resource metadata")
        return await self._for_resource(origin, issuer, fresh=fresh)

    async def for_server(self, origin: str) -> tuple[str | None, ServerMetadata]:
        """Return the PDS, if it is one, and the authorization server behind a typed address.

        The account is not known yet: whoever logs in this way must have their DID resolved, and
        this very issuer found again, before the tokens are believed.

        Raises:
            PDSUnreachable: A server did not answer, or failed in passing.
            NotOAuthCapable: It is neither a PDS nor an authorization server of the profile.
            AddressRefused: An address lies where the guard does not let this process go.
        """
        issuer = await self._issuer_of(origin, fresh=False)
        if issuer is None:
            return None, await self.for_issuer(origin)
        return origin, await self._for_resource(origin, issuer, fresh=False)

    async def for_issuer(self, issuer: str, *, fresh: bool = False) -> ServerMetadata:
        """Return the metadata of an authorization server.

        Args:
            issuer: Its issuer identifier, a bare origin.
            fresh: Whether to ask again instead of using an answer up to 60 s old.

        Raises:
            PDSUnreachable: The server did not answer, or failed in passing.
            NotOAuthCapable: It does not meet the profile; the message says how.
            AddressRefused: An address lies where the guard does not let this process go.
        """
        self._require_origin(issuer)
        known = None if fresh else self._servers.get(issuer)
        if known is not None:
            return known
        self._servers.drop(issuer)
        asked = self._servers.now()
        net = self._net_for()
        try:
            document = await net.get_json(f"{issuer}/.well-known/oauth-authorization-server")
        except AddressRefused:
            raise
        except FetchError as exc:
            raise _failure(issuer, exc) from exc
        server = read_server_metadata(issuer, document, policy=net.policy)
        if len(server.protected_resources or ()) <= _KEPT_RESOURCES:
            self._servers.put(issuer, server, asked=asked)
        return server

    async def _for_resource(self, origin: str, issuer: str, *, fresh: bool) -> ServerMetadata:
        server = await self.for_issuer(issuer, fresh=fresh)
        if server.protected_resources is not None and origin not in server.protected_resources:
            # RFC 9728 §4: else any PDS could claim somebody else's authorization server.
            raise incapable(origin, f"its authorization server {issuer} does not answer for it")
        return server

    async def _issuer_of(self, origin: str, *, fresh: bool) -> str | None:
        """Return the issuer a PDS names, or None when it has no such document."""
        self._require_origin(origin)
        known = None if fresh else self._issuers.get(origin)
        if known is not None:
            return known
        self._issuers.drop(origin)
        asked = self._issuers.now()
        try:
            document = await self._net_for().get_json(
                f"{origin}/.well-known/oauth-protected-resource"
            )
        except AddressRefused:
            raise
        except FetchError as exc:
            if isinstance(exc, BadAnswer) and exc.http_status == _NOT_FOUND:
                return None
            raise _failure(origin, exc) from exc
        issuer = _read_issuer(origin, document)
        self._require_origin(issuer)
        self._issuers.put(origin, issuer, asked=asked)
        return issuer

    def _require_origin(self, url: str) -> None:
        policy = self._net_for().policy
        canonical = parse_origin(
            url,
            allow_insecure=policy.allow_insecure_loopback,
            plain_hosts=policy.allow_private_hosts,
        )
        if canonical != url:
            raise incapable(url[:200], "its address is not a bare https origin in lower case")


def _read_issuer(origin: str, document: Mapping[str, object]) -> str:
    if document.get("resource") != origin:
        raise incapable(origin, "its `resource` is another server's")
    servers = document.get("authorization_servers")
    if isinstance(servers, list):
        entries = cast("list[object]", servers)
        if len(entries) == 1 and isinstance(entries[0], str):
            return entries[0]
    raise incapable(origin, "`authorization_servers` does not hold exactly one server")


def _failure(origin: str, exc: FetchError) -> ATProtoOAuthError:
    if not isinstance(exc, BadAnswer):
        return PDSUnreachable(f"{origin} could not be reached; try again.", identifier=origin)
    status = exc.http_status
    if status is not None and (status == _MANY_REQUESTS or status >= _SERVER_ERROR):
        return PDSUnreachable(f"{origin} answered {status}; try again.", identifier=origin)
    return incapable(origin, f"its metadata could not be read ({exc})")
