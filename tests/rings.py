"""Skip a ring of tests whose tool is missing, or fail where every ring has to run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

HERE = Path(__file__).parent
_FAST_FOLDERS = ("app", "network", "parity", "refresh")
#: They start processes, or servers that other processes meet.
_NOT_FAST = (
    *("test_bench.py", "test_cli.py", "test_housekeeping.py", "test_operator_cli.py"),
    *("test_packaging.py", "test_plugins.py", "test_readme.py", "test_rekey.py"),
    *("test_rekey_running.py", "refresh/test_killed.py", "refresh/test_many_requests.py"),
)


def is_fast(path: Path) -> bool:
    """Tell whether a test belongs to the ring for every change: in process, no servers, no browser.

    It is the core, the middleware, the refresh and the embedded network.
    """
    if HERE not in path.parents:
        return False
    inside = path.relative_to(HERE)
    folder = inside.parts[0] if len(inside.parts) > 1 else None
    return (folder is None or folder in _FAST_FOLDERS) and inside.as_posix() not in _NOT_FAST


def all_rings_required() -> bool:
    """Tell whether a missing tool is a failure, as it is under `.ci/run`."""
    return os.environ.get("REQUIRE_ALL_RINGS") == "1"


def skip_ring(name: str, install: str) -> NoReturn:
    """Skip the calling test by the name of the missing tool, or fail it if rings are required."""
    sentence = f"{name} is not installed; install it with: {install}"
    if all_rings_required():
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)


def require_tool(name: str, install: str) -> str:
    """Return the path of the program `name`, or skip the calling test with its install line."""
    path = shutil.which(name)
    if path is None:
        skip_ring(name, install)
    return path
