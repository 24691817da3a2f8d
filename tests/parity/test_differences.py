from __future__ import annotations

from pathlib import Path

from tests.markdown_tables import rows
from tests.parity.differences import DIFFERENCES

TABLE = Path(__file__).parent.parent.parent / "docs" / "network.md"


def test_the_differences_are_in_the_documentation_as_they_are() -> None:
    written = [row[:3] for row in rows(TABLE, header="row")]

    assert written == [[name, each.words, each.reason] for name, each in DIFFERENCES.items()]
