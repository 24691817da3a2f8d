"""What the apps of docs/frameworks.md use of us is there; their frameworks are not installed."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from atproto_oauth_asgi.errors import NotAuthenticated

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
APPS = BLOCK.findall((ROOT / "docs" / "frameworks.md").read_text(encoding="utf-8"))


def test_there_are_six() -> None:
    assert len(APPS) == 6


@pytest.mark.parametrize("source", APPS)
def test_what_an_app_imports_from_here_exists(source: str) -> None:
    imported = [
        (node.module, name.name)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for name in node.names
        if node.module.partition(".")[0] in {"atproto_oauth_asgi", "starlette"}
    ]

    assert ("atproto_oauth_asgi", "ATProtoOAuthMiddleware") in imported
    for module, name in imported:
        assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"


@pytest.mark.parametrize("source", APPS)
def test_what_a_handler_takes_from_an_error_exists(source: str) -> None:
    error = NotAuthenticated()
    used = {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "e"
    }

    # Litestar knows an `HTTPException` of Starlette, and needs no handler.
    assert ("RequestError" in source) == bool(used)
    assert ("from litestar" in source) != bool(used)
    for name in used:
        assert hasattr(error, name), f"an error has no {name}"
