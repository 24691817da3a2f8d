from __future__ import annotations

from tests.attacks.dumps import database

__all__ = ["database"]
