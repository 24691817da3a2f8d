"""Plant faults, each in a process of its own, and see whether a test of its rule fails.

`python -m tests.spec.planting NAME …` prints one JSON object for each fault, in any order, and a
last one, named "", for the control: whatever failed under a fault has to pass without one.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import CodeType, ModuleType

import pytest

from tests.spec.marks import SLOW, Only
from tests.spec.rules import ATTACK_FAULTS, FAULTS, ROOT, Fault, module_name

#: What the tests import from elsewhere: loaded once, before the processes are forked. Nothing of
#: this project may be among it.
_THEIRS = (
    "aiosqlite",
    "anyio",
    "cryptography.hazmat.primitives.asymmetric.ec",
    "httpx",
    "hypothesis",
    "joserfc.jwt",
    "sqlalchemy.ext.asyncio",
    "starlette.testclient",
)
#: What one fault may take; most take one or two.
_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one fault did: which tests failed for it, or why it could not be tried."""

    name: str
    failed: list[str] = field(default_factory=list[str])
    ran: int = 0
    trouble: str = ""

    @property
    def caught(self) -> bool:
        return bool(self.failed) and not self.trouble


class _Planted(importlib.machinery.SourceFileLoader):
    """Loads one module with a changed source, whatever bytecode lies about."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self.get_filename(fullname), "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, fault: Fault) -> None:
        self._changed = {
            module_name(path): (str(path), source) for path, source in fault.change().items()
        }
        #: Changed modules that nothing has imported.
        self.waiting = set(self._changed)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if fullname not in self._changed:
            return None
        self.waiting.discard(fullname)
        path, source = self._changed[fullname]
        loader = _Planted(fullname, path, source)
        return importlib.util.spec_from_file_location(fullname, path, loader=loader)


def _run(only: Only, files: Iterable[str], *, stop: bool, seconds: int = 20) -> int:
    options = ["-q", "--no-header", "-p", "no:randomly", "-p", "no:cacheprovider"]
    # What was loaded before the fork is nothing that assertions are rewritten in.
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    if stop:
        options += ["-x", "-o", f"timeout={seconds}"]
    return int(pytest.main([*options, *files], plugins=[only]))


def files_of(rule: str, under: str) -> list[str]:
    """Return the test files that may carry a rule."""
    place = ROOT / under
    paths = [place] if place.is_file() else sorted(place.rglob("*.py"))
    return [
        str(path.relative_to(ROOT))
        for path in paths
        if f'"{rule}"' in path.read_text(encoding="utf-8") and path.name.startswith("test_")
    ]


def _try(fault: Fault) -> Outcome:
    try:
        finder = _Finder(fault)
    except LookupError as exc:
        return Outcome(fault.name, trouble=str(exc))
    file, _, function = fault.tests.partition("::")
    if function:
        files, only, seconds = [file], Only(names=frozenset({fault.tests})), 60
    else:
        files = [name for name in files_of(fault.rule, file) if not name.startswith(SLOW)]
        only, seconds = Only(rule=fault.rule), 20
    if not files:
        return Outcome(fault.name, trouble=f"no test in {fault.tests} carries {fault.rule}")
    sys.meta_path.insert(0, finder)
    status = _run(only, files, stop=True, seconds=seconds)
    if only.broken:
        return Outcome(fault.name, trouble=f"cannot be collected: {', '.join(only.broken)}")
    if finder.waiting:
        return Outcome(fault.name, trouble="the tests do not import what was changed")
    if status not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        return Outcome(fault.name, trouble=f"pytest ended with {pytest.ExitCode(status).name}")
    return Outcome(fault.name, failed=only.failed, ran=only.ran)


def _control(names: frozenset[str]) -> Outcome:
    if not names:
        return Outcome("")
    only = Only(names=names)
    _run(only, sorted({name.partition("::")[0] for name in names}), stop=False)
    missing = len(names) - only.ran
    trouble = f"{missing} of {len(names)} tests did not run" if missing else ""
    return Outcome("", failed=only.failed, ran=only.ran, trouble=trouble)


def _fork(work: Callable[[], Outcome], log: Path) -> int:
    """Do the work in a process of its own, which notes its outcome beside its log."""
    pid = os.fork()
    if pid:
        return pid
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            outcome = work()
            log.with_suffix(".json").write_text(json.dumps(asdict(outcome)), encoding="utf-8")
            sys.stdout.flush()
        finally:
            # Nothing of the parent's may run at the end of a fork.
            os._exit(0)


def _read(name: str, log: Path) -> Outcome:
    try:
        return Outcome(**json.loads(log.with_suffix(".json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        words = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        return Outcome(name, trouble=f"the process died or took too long: {words}")


def _next_to_end(running: Collection[int], begun: Mapping[int, float]) -> int:
    """Wait until one of the processes ends, or has had its time."""
    while True:
        for pid in running:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return pid
            if time.monotonic() - begun[pid] > _SECONDS:
                # What hangs under a fault shows nothing: a test has to fail.
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return pid
        time.sleep(0.02)


def plant(
    faults: Sequence[Fault], say: Callable[[Outcome], None], *, workers: int, control: bool = True
) -> None:
    """Try the faults, some at a time, then the control; say each outcome as it is known."""
    for name in _THEIRS:
        importlib.import_module(name)
    suspects: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="planting-") as folder:
        waiting = list(enumerate(faults))[::-1]
        running: dict[int, tuple[Fault, Path]] = {}
        ages: dict[int, float] = {}
        while waiting or running:
            while waiting and len(running) < workers:
                number, fault = waiting.pop()
                log = Path(folder) / f"{number}.log"
                pid = _fork(partial(_try, fault), log)
                running[pid], ages[pid] = (fault, log), time.monotonic()
            fault, log = running.pop(_next_to_end(running, ages))
            outcome = _read(fault.name, log)
            suspects.update(outcome.failed)
            say(outcome)
        if not control:
            return
        log = Path(folder) / "control.log"
        os.waitpid(_fork(partial(_control, frozenset(suspects)), log), 0)
        say(_read("", log))


def main(names: Sequence[str]) -> None:
    """Try the named faults, or all."""
    known = {**FAULTS, **ATTACK_FAULTS}
    chosen = [known[name] for name in names] if names else list(FAULTS.values())
    # The attacks, which take long, are tried without a fault elsewhere in the same run.
    control = not ATTACK_FAULTS.keys() >= set(names) or not names

    def say(outcome: Outcome) -> None:
        print(json.dumps(asdict(outcome)), flush=True)

    plant(chosen, say, workers=os.cpu_count() or 1, control=control)


if __name__ == "__main__":
    main(sys.argv[1:])
