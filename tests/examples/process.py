"""Starts `python -m examples.demo`, and stops it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@contextmanager
def demo(folder: Path, **environment: str) -> Generator[subprocess.Popen[str]]:
    clean = {name: text for name, text in os.environ.items() if "ATPROTO" not in name}
    process = subprocess.Popen(
        [sys.executable, "-m", "examples.demo"],
        cwd=ROOT,
        env={**clean, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def greeting(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C" in line:
            return "".join(lines)
    assert process.stderr is not None
    pytest.fail("the demo did not start: " + process.stderr.read())
