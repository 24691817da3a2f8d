"""Session stores for atproto-oauth-asgi."""

from __future__ import annotations
