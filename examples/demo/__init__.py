"""A small site where people sign in with their AT Protocol account and write posts."""

from __future__ import annotations
