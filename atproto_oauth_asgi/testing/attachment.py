"""An app's `ATProtoOAuth` on a network, for a while."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Self

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp

from atproto_oauth_asgi.middleware import ATProtoOAuthMiddleware
from atproto_oauth_asgi.net_policy import NetPolicy
from atproto_oauth_asgi.oauth import ATProtoOAuth
from atproto_oauth_asgi.plugins import open_store


class Attachment:
    """Lasts until `detach()`, the end of its `with` block, or the end of the network."""

    def __init__(
        self, oauth: ATProtoOAuth, net_policy: NetPolicy | None, *, keep_store: bool = False
    ) -> None:
        self.oauth = oauth
        self._stack = ExitStack()
        if net_policy is not None:
            store = None if keep_store else open_store("memory://")
            self._stack.enter_context(oauth.override(net_policy=net_policy, store=store))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def on_detach(self, callback: Callable[[], object]) -> None:
        """Call something at the end."""
        self._stack.callback(callback)

    def detach(self) -> None:
        """Put everything back, once."""
        self._stack.close()


def client_app(oauth: ATProtoOAuth) -> ASGIApp:
    """Return an app that answers what authorization servers ask of a client, and nothing else."""
    return ATProtoOAuthMiddleware(PlainTextResponse("Not Found", status_code=404), oauth=oauth)
