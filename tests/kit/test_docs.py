"""The examples of docs/testing.md and of the README run as an app author's tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_example_passes(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    app, *tests = BLOCK.findall(text)
    assert app.startswith("# app.py\n")
    (tmp_path / "app.py").write_text(app, encoding="utf-8")
    for number, test in enumerate(tests):
        (tmp_path / f"test_{number}.py").write_text(test, encoding="utf-8")
    wanted = len(re.findall(r"^(?:async )?def test_", "\n".join(tests), re.MULTILINE))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error"],
        cwd=tmp_path,
        env={name: text for name, text in os.environ.items() if not name.startswith("PYTEST")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{wanted} passed" in done.stdout
    assert len(tests) == 6
    assert wanted >= 12
    # Tests leave the database of the app alone.
    assert not (tmp_path / "sessions.db").exists()
