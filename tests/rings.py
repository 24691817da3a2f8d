"""Skip a ring of tests whose tool is missing, or fail where every ring has to run."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


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
