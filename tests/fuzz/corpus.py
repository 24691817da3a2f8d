"""The inputs that are kept: a file for each target, an input in base64 on each line."""

from __future__ import annotations

import base64
from pathlib import Path

_FOLDER = Path(__file__).parent / "corpus"


def read(name: str) -> list[bytes]:
    """Return the inputs kept for a target."""
    file = _FOLDER / name
    if not file.exists():
        return []
    return [base64.b64decode(line) for line in file.read_text("ascii").split("\n")[:-1]]


def write(name: str, inputs: list[bytes]) -> None:
    """Keep these inputs for a target, in a stable order."""
    _FOLDER.mkdir(exist_ok=True)
    ordered = sorted(set(inputs), key=lambda data: (len(data), data))
    lines = "".join(base64.b64encode(data).decode() + "\n" for data in ordered)
    (_FOLDER / name).write_text(lines, "ascii")


def size() -> int:
    """Return how many bytes the corpus takes."""
    return sum(file.stat().st_size for file in _FOLDER.iterdir())
