from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.resources
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ["atproto_oauth_asgi", "atproto_oauth_asgi_stores", "atproto_oauth_asgi_migrations"]
REQUIREMENTS = ["dev", "demo", "runtime", "mutation", "frameworks"]


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9-]+)(?:\[[a-z,]+\])?==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", PACKAGES)
def test_each_package_says_that_it_is_typed(name: str) -> None:
    assert importlib.resources.files(name).joinpath("py.typed").is_file()


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("atproto_oauth_asgi.stores", "memory"),
        ("atproto_oauth_asgi.stores", "sqlite"),
        ("atproto_oauth_asgi.commands", "db"),
        ("console_scripts", "atproto-oauth-asgi"),
    ],
)
def test_entry_point_loads_from_the_module_it_names(group: str, name: str) -> None:
    (point,) = importlib.metadata.entry_points(group=group, name=name)

    loaded = point.load()

    assert callable(loaded)
    assert getattr(importlib.import_module(point.module), point.attr) is loaded


def test_versions_agree() -> None:
    version = pyproject()["project"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    assert version == importlib.metadata.version("atproto-oauth-asgi")
    assert version == re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE)[0]


def test_the_core_loads_no_database_and_no_resolver() -> None:
    heavy = ["aiosqlite", "alembic", "dns", "pytest", "sqlalchemy"]
    program = (
        "import sys, atproto_oauth_asgi\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_requirements_are_pinned_with_hashes_and_name_no_host(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=\S)", text.strip())

    assert len(blocks) == len(pins(name))
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text
    assert not re.search(r"--(index-url|extra-index-url|find-links|trusted-host)", text)


@pytest.mark.parametrize(
    ("smaller", "larger"), [("demo", "dev"), ("runtime", "dev"), ("dev", "mutation")]
)
def test_smaller_requirements_pin_what_the_tests_ran_with(smaller: str, larger: str) -> None:
    assert pins(smaller).items() <= pins(larger).items()


def test_the_frameworks_stand_beside_what_the_tests_run_with() -> None:
    dev, frameworks = pins("dev"), pins("frameworks")

    shared = dev.keys() & frameworks.keys()
    assert {name: dev[name] for name in shared} == {name: frameworks[name] for name in shared}
    assert {"litestar", "quart", "django", "falcon", "blacksheep", "sanic"} <= frameworks.keys()


def test_runtime_requirements_cover_every_dependency() -> None:
    dependencies = pyproject()["project"]["dependencies"]

    names = {re.split(r"[\[>]", dependency)[0] for dependency in dependencies}

    assert names <= pins("runtime").keys()


def test_dev_py_can_tell_old_interpreters_what_it_needs() -> None:
    tree = ast.parse((ROOT / "dev.py").read_text(encoding="utf-8"), feature_version=(3, 7))

    docstring, first, second, *_ = tree.body

    assert isinstance(docstring, ast.Expr)
    assert "import sys" == ast.unparse(first)
    assert ast.unparse(second).startswith("if sys.version_info < (3, 11):\n    sys.exit(")


BACKEND = """
import zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    open("built", "a").write("built\\n")
    with zipfile.ZipFile(folder + "/tiny-1-py3-none-any.whl", "w") as wheel:
        info = "tiny-1.dist-info/"
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "")
    return "tiny-1-py3-none-any.whl"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make a checkout with the real dev.py that needs nothing from outside."""
    (tmp_path / "dev.py").write_bytes((ROOT / "dev.py").read_bytes())
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "tiny"\nversion = "1"\n[tool.hatch]\n',
        encoding="utf-8",
    )
    (tmp_path / "backend.py").write_text(BACKEND, encoding="utf-8")
    (tmp_path / "requirements").mkdir()
    for level in ("demo", "dev", "mutation"):
        (tmp_path / "requirements" / f"{level}.txt").write_text("", encoding="utf-8")
    (tmp_path / "examples" / "demo").mkdir(parents=True)
    (tmp_path / "examples" / "demo" / "__main__.py").write_text(
        "import sys; print('demo', sys.prefix, *sys.argv[1:])", encoding="utf-8"
    )
    return tmp_path


def start(checkout: Path, *arguments: str) -> subprocess.Popen[str]:
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))}
    return subprocess.Popen(
        [sys.executable, "dev.py", "demo", *arguments],
        cwd=checkout,
        env={**outside, "PIP_CONFIG_FILE": os.devnull},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=50)
    assert process.returncode == 0, output
    return output


@pytest.mark.slow
def test_two_first_runs_at_once_make_one_venv(checkout: Path) -> None:
    both = [start(checkout, "--one"), start(checkout, "--two")]
    outputs = [finish(process) for process in both]

    assert f"demo {checkout / '.venv'} --one" in outputs[0]
    assert f"demo {checkout / '.venv'} --two" in outputs[1]
    assert 1 == sum("making .venv" in output for output in outputs)
    assert "built\n" == (checkout / "built").read_text(encoding="utf-8")


@pytest.mark.slow
def test_venv_is_kept_until_requirements_change_or_a_run_was_cut_off(checkout: Path) -> None:
    finish(start(checkout))
    leftover = checkout / ".venv" / "leftover"
    leftover.touch()

    assert "making .venv" not in finish(start(checkout))

    (checkout / "requirements" / "demo.txt").write_text("# changed\n", encoding="utf-8")
    assert "making .venv" in finish(start(checkout))
    assert leftover.exists()

    stamp = checkout / ".venv" / "atproto-oauth-asgi.json"
    stamp.write_text(json.dumps({"making": "demo"}), encoding="utf-8")
    assert "making .venv" in finish(start(checkout))
    assert not leftover.exists()
