from __future__ import annotations

from tests.stores.places import place, store

__all__ = ["place", "store"]
