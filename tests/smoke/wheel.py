"""Build wheel and sdist, compare what they hold, and try the wheel in an empty environment."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

Listing = dict[str, int | None]

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {
    "atproto_oauth_asgi": ROOT / "atproto_oauth_asgi",
    "atproto_oauth_asgi_stores": ROOT / "stores" / "atproto_oauth_asgi_stores",
    "atproto_oauth_asgi_migrations": ROOT / "migrations" / "atproto_oauth_asgi_migrations",
}
#: The pytest plugin, a module of its own.
PLUGIN = "atproto_oauth_asgi_pytest.py"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder)
        direct, from_sdist = temporary / "direct", temporary / "from-sdist"
        build = [sys.executable, "-m", "build", "--no-isolation"]
        run([*build, "--wheel", "--outdir", str(direct)])
        run([*build, "--outdir", str(from_sdist)])  # the wheel is then built from the sdist
        (wheel,), (same,) = direct.glob("*.whl"), from_sdist.glob("*.whl")
        (sdist,) = from_sdist.glob("*.tar.gz")
        compare("wheel built from the tree", contents(wheel), "from the sdist", contents(same))
        compare("package files in the wheel", packaged(wheel), "in the tree", sources())
        require_in_sdist(sdist)
        try_alone(wheel, temporary / "venv")


def contents(wheel: Path) -> Listing:
    """Map each file of a wheel to its checksum, except RECORD, which lists the others."""
    with zipfile.ZipFile(wheel) as archive:
        files = {file.filename: file.CRC for file in archive.infolist()}
    return {name: crc for name, crc in files.items() if not name.endswith("/RECORD")}


def packaged(wheel: Path) -> Listing:
    """Name the files of a wheel that are importable."""
    return dict.fromkeys(name for name in contents(wheel) if ".dist-info/" not in name)


def sources() -> Listing:
    """Name the files in the tree that belong in the wheel."""
    files = (
        f"{package}/{file.relative_to(folder).as_posix()}"
        for package, folder in SOURCES.items()
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    )
    return dict.fromkeys([*files, PLUGIN])


def compare(left: str, these: Listing, right: str, those: Listing) -> None:
    """Stop unless two listings agree."""
    different = sorted(
        name
        for name in these.keys() | those.keys()
        if these.get(name, "absent") != those.get(name, "absent")
    )
    if different:
        sys.exit(f"{left} and {right} differ: {', '.join(different)}")


def require_in_sdist(sdist: Path) -> None:
    """Stop unless the sdist holds what a packager needs to build and test."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"pyproject.toml", "LICENSE", "README.md", "dev.py", "requirements/dev.txt"}
    needed |= {"tests/conftest.py", "stores/README.md"}
    if needed - names:
        sys.exit(f"the sdist lacks {', '.join(sorted(needed - names))}")


def try_alone(wheel: Path, folder: Path) -> None:
    """Install the wheel with its pinned dependencies only, and run `smoke.py` against it."""
    venv.create(folder, with_pip=True)
    python = str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    pinned = str(ROOT / "requirements" / "runtime.txt")
    run([*pip, "install", "--quiet", "--require-hashes", "-r", pinned])
    run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)])
    run([*pip, "check"])
    # -I: neither this checkout nor PYTHONPATH may stand in for the installed files.
    run([python, "-I", str(ROOT / "tests" / "smoke" / "smoke.py")], folder)
    # With what the extra `dev` brings.
    served = str(ROOT / "requirements" / "demo.txt")
    run([*pip, "install", "--quiet", "--require-hashes", "-r", served])
    run([python, "-I", str(ROOT / "tests" / "smoke" / "dev.py")], folder)


def run(command: list[str], cwd: Path = ROOT) -> None:
    """Run a command quietly; print what it said when it fails."""
    done = subprocess.run(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stdout}")


if __name__ == "__main__":
    main()
    print("wheel and sdist agree; the wheel works alone")
