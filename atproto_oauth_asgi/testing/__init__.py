"""What tests of apps and of store plugins need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atproto_oauth_asgi.testing.accounts import Account as Account
from atproto_oauth_asgi.testing.attachment import Attachment as Attachment
from atproto_oauth_asgi.testing.kit_errors import KitError as KitError
from atproto_oauth_asgi.testing.kit_errors import LoginFailed as LoginFailed
from atproto_oauth_asgi.testing.login import deny as deny
from atproto_oauth_asgi.testing.login import login as login
from atproto_oauth_asgi.testing.login import sign_out as sign_out
from atproto_oauth_asgi.testing.network import Network as Network
from atproto_oauth_asgi.testing.signed_in import signed_in as signed_in

if TYPE_CHECKING:
    from atproto_oauth_asgi.testing.conformance import StoreConformance as StoreConformance

__all__ = [
    "Account",
    "Attachment",
    "KitError",
    "LoginFailed",
    "Network",
    "StoreConformance",
    "deny",
    "login",
    "sign_out",
    "signed_in",
]


def __getattr__(name: str) -> object:
    # Only the conformance kit needs pytest, which apps do not have in production.
    if name == "StoreConformance":
        from atproto_oauth_asgi.testing.conformance import StoreConformance

        return StoreConformance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
