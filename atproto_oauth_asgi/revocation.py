"""Revocation that really revokes (RFC 7009, with DPoP and client authentication)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Protocol

from atproto_oauth_asgi.authorization_server import ClientIdentity, post
from atproto_oauth_asgi.discovery import Discovery
from atproto_oauth_asgi.dpop import DPoPKey, Nonces
from atproto_oauth_asgi.errors import ATProtoOAuthError
from atproto_oauth_asgi.instrumentation import Events
from atproto_oauth_asgi.net import Net
from atproto_oauth_asgi.server_metadata import ServerMetadata
from atproto_oauth_asgi.tasks import Tasks
from atproto_oauth_asgi.tokens import Tokens, is_refresh_token, is_token


class Grant(Protocol):
    """What must be known of a session to revoke its tokens."""

    @property
    def did(self) -> str:
        """Return whose tokens they are."""
        ...

    @property
    def issuer(self) -> str:
        """Return the authorization server that gave them."""
        ...

    @property
    def client_kid(self) -> str | None:
        """Return the client key that the grant is bound to."""
        ...

    @property
    def key(self) -> DPoPKey:
        """Return the key that the tokens are bound to."""
        ...

    @property
    def nonces(self) -> Nonces:
        """Return the nonces seen with that key."""
        ...


class Revoker:
    """Revokes tokens in the background; whatever the server does, the session is over here."""

    DEADLINE = 10.0

    def __init__(
        self,
        *,
        net: Net,
        discovery: Discovery,
        client: ClientIdentity,
        tasks: Tasks,
        events: Events,
    ) -> None:
        self._events = events
        self._net = net
        self._discovery = discovery
        self._client = client
        self._tasks = tasks

    def start(self, grant: Grant, tokens: Tokens) -> asyncio.Task[bool]:
        """Revoke tokens; the refresh token if there is one, for it ends the whole grant.

        The task says whether the server confirmed it.
        """
        token = tokens.refresh_token or tokens.access_token
        return self._start(grant, token, None)

    def start_raw(
        self, grant: Grant, document: Mapping[str, object], metadata: ServerMetadata
    ) -> asyncio.Task[bool] | None:
        """Revoke what a token response holds that was refused."""
        refresh, access = document.get("refresh_token"), document.get("access_token")
        texts = [text for text in (refresh, access) if isinstance(text, str) and text]
        # A server knows nothing of a token that it garbled, and says 200 all the same (RFC 7009).
        whole = [refresh] if is_refresh_token(refresh) else [access] if is_token(access) else texts
        for token in whole:
            return self._start(grant, token, metadata)
        return None

    def _start(
        self, grant: Grant, token: str, metadata: ServerMetadata | None
    ) -> asyncio.Task[bool]:
        return self._tasks.start(self._revoke(grant, token, metadata), name=f"revoke {grant.did}")

    async def _revoke(self, grant: Grant, token: str, metadata: ServerMetadata | None) -> bool:
        fields = {"did": grant.did, "issuer": grant.issuer}
        try:
            async with asyncio.timeout(self.DEADLINE):
                if metadata is None:
                    metadata = await self._discovery.for_issuer(grant.issuer)
                if metadata.revocation_endpoint is None:
                    self._events.info("revocation.not_offered", **fields)
                    return False
                # A DPoP proof and the session's own client key: without either the reference
                # server answers 200 and revokes nothing.
                answer = await post(
                    self._net,
                    self._client,
                    metadata.revocation_endpoint,
                    {"token": token},
                    issuer=grant.issuer,
                    kid=self._client.kid_for(grant.client_kid),
                    key=grant.key,
                    nonces=grant.nonces,
                )
        except (ATProtoOAuthError, TimeoutError) as exc:
            self._events.warning("revocation.failed", **fields, error=type(exc).__name__)
            return False
        if answer.answer.status != HTTPStatus.OK:
            self._events.warning("revocation.refused", **fields, status=answer.answer.status)
            return False
        self._events.info("revocation.done", **fields)
        return True
