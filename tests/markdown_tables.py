"""Reading the tables of the documentation, to hold them against the code."""

from __future__ import annotations

from pathlib import Path


def rows(path: Path, *, header: str) -> list[list[str]]:
    """Return the cells of every row of the tables whose first column has this header."""
    found: list[list[str]] = []
    inside = False
    for line in path.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif inside and not set(line) <= set("|-: "):
            found.append(cells)
        elif cells[0] == header:
            inside = True
    assert found, f"{path} has no table that begins with {header!r}"
    assert len({len(row) for row in found}) == 1, "rows of one table have as many cells"
    return found
