"""The parts of `ATProtoOAuth` that every event loop shares; none is bound to one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from atproto_oauth_asgi.authorization_server import ClientIdentity
from atproto_oauth_asgi.discovery import Discovery
from atproto_oauth_asgi.identifiers import Did, Handle
from atproto_oauth_asgi.identity import IdentityResolver
from atproto_oauth_asgi.instrumentation import Events
from atproto_oauth_asgi.metadata import ClientMetadata
from atproto_oauth_asgi.net_policy import NetPolicy
from atproto_oauth_asgi.refresh_timing import RefreshTiming
from atproto_oauth_asgi.session import OAuthSession
from atproto_oauth_asgi.settings import Settings
from atproto_oauth_asgi.store import Store
from atproto_oauth_asgi.vault import Vault


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A login whose tokens have passed every check; what `on_login` is given.

    There is no session row and no cookie yet. Whatever `on_login` raises, the tokens are revoked:
    `LoginRefused` shows the person a sentence, a Starlette `HTTPException` is the answer itself.
    """

    did: Did
    #: Verified, or None.
    handle: Handle | None
    #: Able to call the PDS already.
    session: OAuthSession
    #: The callback request.
    request: Request
    #: What the app gave to `authorize_redirect`.
    data: Mapping[str, object] | None
    #: Where the browser goes afterwards.
    next: str


OnLogin = Callable[[Login], Awaitable[Response | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """Configuration and what follows from it, immutable."""

    settings: Settings
    policy: NetPolicy
    metadata: ClientMetadata
    client: ClientIdentity
    store: Store
    vault: Vault
    resolver: IdentityResolver
    discovery: Discovery
    timing: RefreshTiming
    events: Events
    on_login: OnLogin | None
