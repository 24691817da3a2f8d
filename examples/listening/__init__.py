"""People note what they listen to, and publish it from their own account."""

from __future__ import annotations
