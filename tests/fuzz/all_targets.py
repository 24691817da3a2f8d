"""Every target: importing this registers them."""

from __future__ import annotations

from tests.fuzz import documents, http, texts
from tests.fuzz.target import TARGETS

__all__ = ["TARGETS", "documents", "http", "texts"]
