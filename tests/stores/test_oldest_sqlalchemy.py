"""The oldest SQLAlchemy that the project allows will do as well as the one it is developed with."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.rings import skip_ring

ROOT = Path(__file__).parents[2]
PINNED = ROOT / "requirements" / "oldest.txt"


def oldest() -> str:
    """Return the version that is pinned for this test."""
    found = re.match(r"sqlalchemy==(\S+)", PINNED.read_text(encoding="utf-8"))
    assert found is not None
    return found[1]


def test_the_oldest_version_is_the_one_that_is_promised() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert f"sqlalchemy[asyncio]>={oldest()}" in project["dependencies"]
    assert oldest().startswith("2.0.")
    assert sa.__version__.startswith("2.1."), "let the tests run with both"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_kit_and_the_migrations_pass_with_the_oldest_version(tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    install += ["--target", str(tmp_path), "--no-deps", "--require-hashes", "-r", str(PINNED)]
    if subprocess.run(install, check=False, capture_output=True).returncode != 0:
        skip_ring("SQLAlchemy 2.0", "a way to PyPI for pip")
    path = (str(tmp_path), *(str(ROOT / part) for part in ("", "stores", "migrations")))
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    asked = [sys.executable, "-c", "import sqlalchemy; print(sqlalchemy.__version__)"]
    version = subprocess.run(asked, env=environ, check=True, capture_output=True, text=True)
    assert version.stdout.strip() == oldest()

    tests = ["tests/stores/test_conformance.py", "tests/migrations/test_upgrades.py"]
    chosen = "SQLiteFile or (upgrade and sqlite)"
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "-k", chosen]
    done = subprocess.run(run, cwd=ROOT, env=environ, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
