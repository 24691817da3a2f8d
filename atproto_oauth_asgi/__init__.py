"""AT Protocol OAuth for ASGI apps."""

from __future__ import annotations
