"""What tests of apps and of store plugins need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atproto_oauth_asgi.testing.network import Network as Network

if TYPE_CHECKING:
    from atproto_oauth_asgi.testing.conformance import StoreConformance as StoreConformance

__all__ = ["Network", "StoreConformance"]


def __getattr__(name: str) -> object:
    # Only the conformance kit needs pytest, which apps do not have in production.
    if name == "StoreConformance":
        from atproto_oauth_asgi.testing.conformance import StoreConformance

        return StoreConformance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
