from __future__ import annotations

from tests.stores.places import place

__all__ = ["place"]
