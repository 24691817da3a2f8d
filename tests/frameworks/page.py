"""The apps of docs/frameworks.md."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "frameworks.md").read_text(encoding="utf-8")
URL = "http://127.0.0.1:8000"

_SECTION = re.compile(r"^## ", re.MULTILINE)
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: By the heading above each.
BLOCKS = {
    section.partition("\n")[0]: found[1]
    for section in _SECTION.split(PAGE)
    if (found := _BLOCK.search(section))
}


def block(framework: str) -> str:
    """Return the app under a heading."""
    return BLOCKS[framework]
