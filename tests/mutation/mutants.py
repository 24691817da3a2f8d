"""Mutants of the library's functions, made and run by mutmut in a copy of the checkout."""

from __future__ import annotations

import ast
import difflib
import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "atproto_oauth_asgi"
COPIES = ROOT / ".artifacts" / "mutation"

#: What pytest says when a test failed, or could not begin; and what mutmut says of endless ones.
_KILLED = frozenset({1, 3, 24, -24, 36, 152, 255})


@dataclass(frozen=True, slots=True)
class Part:
    """Modules that belong together, and the tests that are to notice when they change."""

    name: str
    modules: tuple[str, ...]
    tests: tuple[str, ...]
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """What a mutant changes: the lines of a function that it takes out and puts in."""

    module: str
    function: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.module}.py {self.function}\n    - {self.before}\n    + {self.after}"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mutant as it came out."""

    name: str
    change: Change
    #: None when it was not tried, which is so after a run of others whose module has changed.
    killed: bool | None


def parts() -> tuple[Part, ...]:
    """Read parts.toml."""
    table = tomllib.loads((Path(__file__).with_name("parts.toml")).read_text(encoding="utf-8"))
    return tuple(
        Part(
            name,
            tuple(fields["modules"]),
            tuple(fields["tests"]),
            tuple(fields.get("ignore", ())),
        )
        for name, fields in table.items()
    )


def run(part: Part, names: list[str] | None = None) -> None:
    """Make the mutants of a part and run its tests on each, or only on those that are named.

    Raises:
        subprocess.CalledProcessError: The tests fail without any mutant, or mutmut does.
    """
    copy = COPIES / part.name
    if names is None:
        shutil.rmtree(copy, ignore_errors=True)
    _copy_checkout(copy)
    with (copy / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write(_settings(part))
    mutmut = Path(sys.executable).with_name("mutmut")
    subprocess.run([str(mutmut), "run", *(names or ())], cwd=copy, check=True)


def _copy_checkout(copy: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)


def _settings(part: Part) -> str:
    also = sorted(
        path.name
        for path in ROOT.iterdir()
        if not path.name.startswith(".") and path.name not in {PACKAGE, "tests", "pyproject.toml"}
    )
    arguments = [
        *("-p", "no:cacheprovider", "-o", "timeout=20", "--hypothesis-profile=mutation"),
        *("-m", "not slow and not browser and not reference"),
        *(f"--ignore={path}" for path in part.ignore),
    ]
    # The fork server forks from a process that collected the tests and ran none: caches are empty.
    values: dict[str, object] = {
        "source_paths": [PACKAGE],
        "only_mutate": [f"{PACKAGE}/{module}.py" for module in part.modules],
        "also_copy": also,
        "pytest_add_cli_args": arguments,
        "pytest_add_cli_args_test_selection": list(part.tests),
        "process_isolation": "forkserver",
        "track_dependencies": False,
        "use_git_change_detection": False,
        "timeout_multiplier": 3.0,
        "timeout_constant": 15.0,
    }
    lines = (f"{key} = {json.dumps(value)}" for key, value in values.items())
    return "\n[tool.mutmut]\n" + "\n".join(lines) + "\n"


def results(part: Part) -> list[Mutant]:
    """Read how the mutants of a part came out."""
    found: list[Mutant] = []
    for module in part.modules:
        path = COPIES / part.name / "mutants" / PACKAGE / f"{module}.py"
        functions = dict(_functions(path))
        codes: dict[str, int | None] = json.loads(
            path.with_suffix(".py.meta").read_text(encoding="utf-8")
        )["exit_code_by_key"]
        for name, code in codes.items():
            mangled = name.removeprefix(f"{PACKAGE}.{module}.")
            original, _, _ = mangled.rpartition("__mutmut_")
            before, after = _difference(functions[f"{original}__mutmut_orig"], functions[mangled])
            change = Change(module, _qualified(original), before, after)
            killed = None if code is None else code in _KILLED
            found.append(Mutant(name, change, killed))
    return found


def _functions(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each function of a file with its lines after the one that names it."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = lines[node.lineno - 1 : node.end_lineno]
            body[0] = body[0].replace(node.name, "_", 1)
            yield node.name, body


def _difference(original: list[str], mutated: list[str]) -> tuple[str, str]:
    """Return the lines that went and the lines that came, in one line each."""
    diff = list(difflib.ndiff(original, mutated))
    gone = " ".join(line[2:].strip() for line in diff if line.startswith("- "))
    came = " ".join(line[2:].strip() for line in diff if line.startswith("+ "))
    return gone, came


def _qualified(mangled: str) -> str:
    """Turn mutmut's name of a function into Python's."""
    if mangled.startswith("xǁ"):
        return ".".join(filter(None, mangled.removeprefix("x").split("ǁ")))
    return mangled.removeprefix("x_")
