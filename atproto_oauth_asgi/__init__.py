"""Log people in to an ASGI app with their AT Protocol account, and call their PDS for them."""

from __future__ import annotations

from .access import error_response as error_response
from .access import requires_scope as requires_scope
from .access import session_from as session_from
from .access import session_or_none as session_or_none
from .core import Login as Login
from .errors import ATProtoOAuthError as ATProtoOAuthError
from .errors import LoginRefused as LoginRefused
from .instrumentation import Event as Event
from .keys import ClientKeys as ClientKeys
from .middleware import ATProtoOAuthMiddleware as ATProtoOAuthMiddleware
from .oauth import ATProtoOAuth as ATProtoOAuth
from .scopes import covers as covers
from .session import OAuthSession as OAuthSession
from .store import Store as Store

__version__ = "0.1.0"
