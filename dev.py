"""Run the project: `python dev.py demo|test|fast|check|bench|spec|fuzz|mutation [arguments]`.

Needs nothing but Python >= 3.11; makes `.venv` from requirements pinned with hashes.
"""

import sys

if sys.version_info < (3, 11):
    sys.exit(
        "atproto-oauth-asgi needs Python 3.11 or newer; this is " + sys.version.split()[0] + "."
    )

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
import tomllib
import venv
from collections.abc import Generator
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "atproto-oauth-asgi.json"
SCRIPTS = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = SCRIPTS / ("python.exe" if os.name == "nt" else "python")
LEVELS = ("demo", "dev", "mutation")


@contextlib.contextmanager
def lock() -> Generator[None]:
    """Hold `.venv.lock`, so that of two runs in one checkout only one makes `.venv`."""
    with (ROOT / ".venv.lock").open("a+") as file:
        if sys.platform == "win32":
            import msvcrt

            while True:
                with contextlib.suppress(OSError):
                    msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                    break
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_stamp() -> dict[str, str]:
    """Read what was installed last; a missing or torn file means nothing was."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(level): str(digest) for level, digest in stamp.items()}


def wanted(level: str) -> str:
    """Hash everything that decides what `.venv` holds at this level."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    built = {"project": pyproject["project"], "hatch": pyproject["tool"]["hatch"]}
    digest = hashlib.sha256(json.dumps(built).encode())
    digest.update((ROOT / "requirements" / f"{level}.txt").read_bytes())
    return digest.hexdigest()


def ready(level: str) -> bool:
    """Tell whether `.venv` holds what this level needs; the dev level includes the demo level."""
    stamp = read_stamp()
    if not PYTHON.exists():
        return False
    return any(stamp.get(made) == wanted(made) for made in LEVELS[LEVELS.index(level) :])


def make_venv(level: str) -> None:
    """Bring `.venv` to this level, from nothing when a run before was cut off."""
    if ready(level):
        return
    with lock():
        if ready(level):
            return
        print("making .venv …", flush=True)
        started = time.monotonic()
        stamp = read_stamp()
        if "making" in stamp or not PYTHON.exists():
            shutil.rmtree(VENV, ignore_errors=True)
            VENV.mkdir(exist_ok=True)
            stamp = {}
            mark({"making": level})
            try:
                venv.create(VENV, with_pip=True, symlinks=os.name != "nt")
            except subprocess.CalledProcessError:
                sys.exit(
                    "This Python cannot make virtual environments (on Debian: "
                    "apt-get install python3-venv); install that or use another Python."
                )
        mark({"making": level})
        pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        run([*pip, "--require-hashes", "-r", f"requirements/{level}.txt"])
        run([*pip, "--no-deps", "--no-build-isolation", "--editable", "."])
        mark({**{made: stamp[made] for made in LEVELS if made in stamp}, level: wanted(level)})
        print(f"made .venv in {time.monotonic() - started:.0f} s", flush=True)


def mark(stamp: dict[str, str]) -> None:
    """Write the stamp in one step."""
    torn = STAMP.with_suffix(".tmp")
    torn.write_text(json.dumps(stamp), encoding="utf-8")
    torn.replace(STAMP)


def environment() -> dict[str, str]:
    """Return this process's environment with the scripts of `.venv` first on the path."""
    path = os.pathsep.join(filter(None, (str(SCRIPTS), os.environ.get("PATH"))))
    # Pyright asks its registry for newer versions unless told not to.
    quiet = {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    return {**quiet, **os.environ, "VIRTUAL_ENV": str(VENV), "PATH": path}


def run(command: list[str]) -> None:
    """Run a command in the checkout; end with its status when it fails."""
    status = subprocess.call(command, cwd=ROOT, env=environment())
    if status != 0:
        sys.exit(status)


def become(command: list[str]) -> None:
    """Let a command take the place of this process, so that signals reach it undisturbed."""
    if os.name == "nt":
        run(command)
        return
    os.chdir(ROOT)
    os.execve(command[0], command, environment())


def check() -> None:
    """Run every check that is not a test; report all failures, not only the first."""
    python = str(PYTHON)
    steps = {
        "lint": [python, "-m", "ruff", "check", "."],
        "format": [python, "-m", "ruff", "format", "--check", "."],
        "mypy": [python, "-m", "mypy"],
        "pyright": [python, "-m", "pyright"],
        "imports": [str(SCRIPTS / "lint-imports"), "--no-logo"],
        "migrations": [python, "-m", "atproto_oauth_asgi_migrations.check"],
        "wheel": [python, "tests/smoke/wheel.py"],
    }
    failed: list[str] = []
    for name, command in steps.items():
        print(f"== {name}", flush=True)
        started = time.monotonic()
        if subprocess.call(command, cwd=ROOT, env=environment()) != 0:
            failed.append(name)
        print(f"-- {time.monotonic() - started:.1f} s", flush=True)
    if failed:
        sys.exit("failed: " + ", ".join(failed))
    print("all checks passed")


def fast(arguments: list[str]) -> None:
    """Run the ring for every change, in two processes: in process, no servers, no browser."""
    halves = (["tests/refresh"], ["tests"])
    left_out = [f"--ignore={folder}" for folder in halves[0]]
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        runs: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []
        pytest = [str(PYTHON), "-m", "pytest", "-m", "fast", "-q"]
        for half, more in zip(halves, ([], left_out), strict=True):
            output: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
            command = [*pytest, *half, *more, *arguments]
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment(), stdout=output, stderr=output
            )
            runs.append((process, output))
        statuses: list[int] = []
        for process, output in runs:
            statuses.append(process.wait())
            output.seek(0)
            print(output.read().decode(errors="replace"), flush=True)
    print(f"fast ring: {time.monotonic() - started:.0f} s")
    sys.exit(max(statuses))


def main(arguments: list[str]) -> None:
    """Make `.venv` and run one of the commands in it."""
    command, *rest = arguments or [""]
    if command == "demo":
        make_venv("demo")
        become([str(PYTHON), "-m", "examples.demo", *rest])
    elif command == "test":
        make_venv("dev")
        become([str(PYTHON), "-m", "pytest", *rest])
    elif command == "fast":
        make_venv("dev")
        fast(rest)
    elif command == "check" and not rest:
        make_venv("dev")
        check()
    elif command == "bench":
        make_venv("dev")
        become([str(PYTHON), "bench/run.py", *rest])
    elif command == "spec":
        make_venv("dev")
        become([str(PYTHON), "-m", "tests.spec.report", *rest])
    elif command == "fuzz":
        make_venv("dev")
        become([str(PYTHON), "-m", "tests.fuzz", *rest])
    elif command == "mutation":
        make_venv("mutation")
        become([str(PYTHON), "-m", "tests.mutation", *rest])
    else:
        sys.exit(
            "usage: python dev.py demo|test|fast|check|bench|spec|fuzz|mutation"
            " [arguments for demo, test or bench; rules for spec; seconds and targets for fuzz;"
            " parts for mutation]"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
