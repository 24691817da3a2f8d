"""What tests of apps and of store plugins need."""

from __future__ import annotations
