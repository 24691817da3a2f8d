"""The lifespan protocol: open before the app starts, drain after it has stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atproto_oauth_asgi.errors import ATProtoOAuthError

if TYPE_CHECKING:
    from atproto_oauth_asgi.oauth import ATProtoOAuth

_ENDS = frozenset(
    {"lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed"}
)


class Lifespan:
    """Answers one lifespan scope for an `ATProtoOAuth` and the app inside."""

    def __init__(self, app: ASGIApp, oauth: ATProtoOAuth) -> None:
        self._app = app
        self._oauth = oauth
        self._answered = False
        self._left = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one scope (ASGI 3)."""
        startup: list[Message] = [await receive()]
        try:
            await self._oauth.__aenter__()
        except ATProtoOAuthError as exc:
            self._oauth.core.events.critical("oauth.not_started", error=exc.code, why=str(exc))
            await send({"type": "lifespan.startup.failed", "message": str(exc)})
            # Servers have heard enough; Starlette's TestClient waits for this one.
            raise
        except Exception:
            # Left unsaid, a server would take it for an app that does not speak lifespan.
            message = "Sign-in could not be started; the traceback says why."
            await send({"type": "lifespan.startup.failed", "message": message})
            raise

        async def replayed() -> Message:
            return startup.pop() if startup else await receive()

        async def watched(message: Message) -> None:
            self._answered = True
            if message["type"] in _ENDS:
                await self._leave()
            await send(message)

        try:
            await self._app(scope, replayed, watched)
        except Exception:
            if self._answered or not startup:
                # It began to start and could not, which is the server's to judge.
                await self._leave()
                raise
            # It does not speak lifespan, as the specification allows: answer in its place.
        finally:
            if self._answered:
                await self._leave()
        if not self._answered:
            try:
                await send({"type": "lifespan.startup.complete"})
                await receive()
            finally:
                await self._leave()
            await send({"type": "lifespan.shutdown.complete"})

    async def _leave(self) -> None:
        if not self._left:
            self._left = True
            await self._oauth.__aexit__(None, None, None)
