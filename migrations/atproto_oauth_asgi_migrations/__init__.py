"""Database migrations for atproto-oauth-asgi."""

from __future__ import annotations
