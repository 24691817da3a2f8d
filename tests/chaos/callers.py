"""Worker processes that call a PDS together, round after round."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import cast

from tests.chaos.caller import Command, Place

ROOT = Path(__file__).parents[2]
PROCESSES = 4
CALLS = 50


class Callers:
    """Four processes; blocking, for the servers run in processes or threads of their own."""

    def __init__(self, processes: list[subprocess.Popen[str]]) -> None:
        self._processes = processes

    @contextlib.contextmanager
    def at(self, place: Place) -> Generator[None]:
        """Let every process open a database, until the end of the block."""
        self._ask({"open": place})
        try:
            yield
        finally:
            self._ask({"close": True})

    def round(self) -> list[int | str]:
        """Let every process see that its session is stale, and then call at the same moment."""
        self._ask({"look": True})
        answers = self._ask({"calls": CALLS, "at": time.time() + 0.05})
        return [answer for some in answers for answer in cast("list[int | str]", some)]

    def _ask(self, command: Command) -> list[object]:
        for process in self._processes:
            print(json.dumps(command), file=process.stdin, flush=True)
        answers: list[object] = []
        for process in self._processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, f"a worker process ended with {process.wait()}"
            answers.append(json.loads(line))
        return answers


@contextlib.contextmanager
def started(clocks: tuple[float, ...] = (0.0,) * PROCESSES) -> Generator[Callers]:
    """Start the processes, and end them at the end of the block.

    Args:
        clocks: By how many seconds the clock of each is ahead.
    """
    folders = (str(ROOT / part) for part in ("", "stores", "migrations"))
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.caller", str(ahead)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for ahead in clocks
    ]
    try:
        yield Callers(processes)
    finally:
        for process in processes:
            # A closed stdin ends a worker in good order.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=10)
            process.kill()
            # Closes the pipes, too.
            process.communicate()
