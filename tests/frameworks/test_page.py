"""Every app of docs/frameworks.md is served, and somebody signs in to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.frameworks.page import BLOCKS, PAGE, ROOT, URL
from tests.rings import skip_ring

PINNED = ROOT / "requirements" / "frameworks.txt"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def frameworks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the frameworks beside `.venv`, which stays what a user of one of them has."""
    folder = tmp_path_factory.mktemp("frameworks")
    install = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    install += ["--target", str(folder), "--no-deps", "--require-hashes", "-r", str(PINNED)]
    if subprocess.run(install, check=False, capture_output=True).returncode != 0:
        skip_ring("Litestar, Quart, Django, Falcon, BlackSheep, Sanic", "a way to PyPI for pip")
    return folder


def visit(framework: str, folder: Path) -> dict[str, dict[str, Any]]:
    path = (*(str(ROOT / part) for part in ("", "stores", "migrations")), str(folder))
    environ = {name: text for name, text in os.environ.items() if "ATPROTO" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "tests.frameworks.visit", framework],
        cwd=ROOT,
        env={**environ, "PYTHONPATH": os.pathsep.join(path)},
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # Not a word of an error that nobody handled.
    assert "Traceback" not in done.stderr
    answers: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def test_no_block_is_left_out() -> None:
    assert len(BLOCKS) == 6
    assert PAGE.count("```") == 2 * len(BLOCKS)
    assert all(f'"{URL}"' in source for source in BLOCKS.values())


@pytest.mark.timeout(180)
@pytest.mark.parametrize("framework", BLOCKS)
def test_somebody_signs_in(framework: str, frameworks: Path) -> None:
    answers = visit(framework, frameworks)

    nobody = answers["nobody"]
    assert nobody["status"] == 401
    body = json.loads(nobody["text"])
    assert body.get("detail", body) == {
        "error": "not_authenticated",
        "message": "Please sign in.",
        "login_url": f"{URL}/oauth/login",
    }
    assert len(nobody["types"]) == 1
    assert nobody["types"][0].startswith(("application/json", "text/"))
    page = answers["nobody's page"]
    assert (page["status"], page["location"]) == (303, f"{URL}/oauth/login?next=%2Fme")
    assert answers["callback"]["status"] == 303
    alice = answers["alice"]
    assert alice["status"] == 200
    assert json.loads(alice["text"])["handle"] == "alice.test"
    assert alice["cache"] == "private, no-store"
    assert answers["logout"]["status"] == 204
    assert answers["gone"]["status"] == 401
