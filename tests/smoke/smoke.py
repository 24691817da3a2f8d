"""Try the installed wheel, in an environment that holds nothing but it and its dependencies."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.resources
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = ("atproto_oauth_asgi", "atproto_oauth_asgi_stores", "atproto_oauth_asgi_migrations")
ENTRY_POINTS = {
    "atproto_oauth_asgi.stores": {"memory", "sqlite"},
    "atproto_oauth_asgi.commands": {"db"},
}


def main() -> None:
    for name in PACKAGES:
        package = importlib.import_module(name)
        assert package.__file__ is not None
        assert Path(package.__file__).is_relative_to(sys.prefix), f"{name} is not the installed one"
        assert importlib.resources.files(name).joinpath("py.typed").is_file(), f"{name}: py.typed"
    importlib.import_module("atproto_oauth_asgi.testing").Network  # noqa: B018
    for group, names in ENTRY_POINTS.items():
        found = {point.name: point for point in importlib.metadata.entry_points(group=group)}
        assert names <= set(found), f"{group} lacks {names - set(found)}"
        for point in found.values():
            assert callable(point.load()), point

    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/smoke.db"
        assert "usage" in command("--help").stdout
        for generate in (("secrets", "generate"), ("keys", "generate")):
            first, second = command(*generate).stdout, command(*generate).stdout
            assert first.strip(), generate
            assert first != second, generate
        behind = command("db", "check", url=url, status=None)
        assert behind.returncode != 0, "`db check` accepts an empty database"
        assert "db upgrade" in behind.stderr + behind.stdout
        command("db", "upgrade", url=url)
        command("db", "upgrade", url=url)
        command("db", "check", url=url)
        assert command("db", "current", url=url).stdout.strip()
    print("the installed wheel works")


def command(
    *arguments: str, url: str = "", status: int | None = 0
) -> subprocess.CompletedProcess[str]:
    """Run the console script; `status=None` accepts any."""
    script = Path(sys.executable).with_name("atproto-oauth-asgi")
    settings = {"ATPROTO_OAUTH_STORE_URL": url} if url else {}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ATPROTO_OAUTH_")}
    done = subprocess.run(
        [str(script), *arguments],
        env={**inherited, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if status is not None and done.returncode != status:
        sys.exit(f"{' '.join(arguments)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done


if __name__ == "__main__":
    main()
