"""How a WebSocket ends that an error of ours was raised for."""

from __future__ import annotations

from starlette.types import Message, Receive, Scope, Send

from atproto_oauth_asgi.access import Place
from atproto_oauth_asgi.errors import ATProtoOAuthError

_RESPONSE = "websocket.http.response"


class SocketEnd:
    """Watches one WebSocket, to close it once, and only where the app let an error pass.

    Frameworks answer an `HTTPException` with an HTTP response. A WebSocket can carry one before
    the handshake only, and only where the server says so (ASGI: WebSocket Denial Response); the
    others are dropped and become a close.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, place: Place) -> None:
        self._receive = receive
        self._send = send
        self._place = place
        self._can_respond = _RESPONSE in (scope.get("extensions") or {})
        self._accepted = False
        self._dropped = False
        self._over = False
        #: The error that the app caught itself, since it goes on talking.
        self._handled: ATProtoOAuthError | None = None

    async def receive(self) -> Message:
        """Pass a message on to the app."""
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._over = True
        return message

    async def send(self, message: Message) -> None:
        """Pass a message of the app on, unless the WebSocket cannot carry it."""
        kind: str = message["type"]
        if kind in {"websocket.accept", "websocket.send"}:
            self._accepted = True
            self._handled = self._place.refused
        elif kind == "websocket.close":
            self._over = True
        elif kind.startswith(_RESPONSE) and self._place.refused is not None:
            if self._accepted or not self._can_respond:
                self._dropped = True
                return
            self._over = True
        await self._send(message)

    async def close(self, error: ATProtoOAuthError | None) -> None:
        """Close for an error that left the app, or that its framework tried to answer."""
        refused = self._place.refused
        if error is None and (self._dropped or refused is not self._handled):
            error = refused
        if error is not None and not self._over:
            # Before the handshake this is a 403; after it, "policy violation" (RFC 6455 §7.4.1).
            await self._send({"type": "websocket.close", "code": 1008, "reason": error.code})
