"""docs/events.md lists every event that the code can tell, its levels and its fields."""

from __future__ import annotations

import ast
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from atproto_oauth_asgi import ATProtoOAuth, ATProtoOAuthMiddleware
from tests.app.world import make_app
from tests.markdown_tables import rows

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "docs" / "events.md"
SOURCES = [
    *(ROOT / "atproto_oauth_asgi").glob("*.py"),
    *(ROOT / "stores").rglob("*.py"),
    *(ROOT / "migrations").rglob("*.py"),
]
LEVELS = {"info", "warning", "error", "critical", "exception"}
TELLERS = {"events", "_events", "log", "_log"}


@dataclass
class Told:
    levels: set[str] = field(default_factory=set[str])
    fields: set[str] = field(default_factory=set[str])


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of = node.func.value
            name = of.attr if isinstance(of, ast.Attribute) else getattr(of, "id", None)
            if node.func.attr in LEVELS and name in TELLERS:
                yield node


def _keys(node: ast.expr, tree: ast.AST) -> set[str]:
    """Return the keys of a dict display, or of the one that a name was assigned."""
    name = node.id if isinstance(node, ast.Name) else None
    for other in ast.walk(tree):
        if isinstance(other, ast.Assign) and getattr(other.targets[0], "id", "") == name:
            node = other.value
    assert isinstance(node, ast.Dict), ast.dump(node)
    return {str(key.value) for key in node.keys if isinstance(key, ast.Constant)}


def told() -> dict[str, Told]:
    events: dict[str, Told] = defaultdict(Told)
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for call in _calls(function):
                name = call.args[0]
                # A name that is put together could not be searched for.
                assert isinstance(name, ast.Constant), f"{path.name}:{call.lineno}"
                assert isinstance(name.value, str)
                assert isinstance(call.func, ast.Attribute)
                level = call.func.attr
                event = events[name.value]
                event.levels.add("error" if level == "exception" else level)
                for keyword in call.keywords:
                    if keyword.arg in {None, "extra"}:
                        event.fields |= _keys(keyword.value, function)
                    elif keyword.arg != "exc_info":
                        assert keyword.arg is not None
                        event.fields.add(keyword.arg)
    return events


def test_the_table_lists_what_the_code_can_tell() -> None:
    written = {
        name.strip("`"): (set(levels.split(", ")), set(fields.split(", ")) - {""})
        for name, levels, fields, _when in rows(TABLE, header="event")
    }
    assert written == {name: (event.levels, event.fields) for name, event in told().items()}


def test_names_have_a_noun_and_nothing_that_changes() -> None:
    for name in told():
        noun, dot, verb = name.partition(".")
        assert noun.isidentifier()
        assert dot
        assert verb.replace("_", "").isalpha(), name


@pytest.mark.parametrize("name", sorted(told()))
def test_no_field_collides_with_a_log_record(name: str) -> None:
    # logging refuses such an `extra`, in the middle of somebody's request.
    taken = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
    assert not told()[name].fields & taken


def test_nothing_is_logged_in_another_way() -> None:
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert "logging.warning(" not in text
        assert "warnings.warn(" not in text, path.name


@pytest.mark.anyio
async def test_the_example_counts_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(
        r"^```python\n(.*?)^```$", TABLE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    counted: Counter[str] = Counter()

    class Metric:
        def labels(self, name: str) -> Metric:
            self.name = name
            return self

        def inc(self) -> None:
            counted[self.name] += 1

    names: dict[str, Any] = {"ATProtoOAuth": ATProtoOAuth, "counter": Metric()}
    exec(example, names)  # noqa: S102 - as a reader would
    oauth: ATProtoOAuth = names["oauth"]
    transport = httpx.ASGITransport(ATProtoOAuthMiddleware(make_app(), oauth=oauth))
    async with (
        oauth,
        httpx.AsyncClient(transport=transport, base_url=oauth.settings.base_url) as browser,
    ):
        assert (await browser.get("/oauth/callback")).status_code == 400
    assert counted == {"callback.refused": 1}
