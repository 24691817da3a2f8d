"""Worker processes that are killed, paused and started again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass

from tests.chaos.app_worker import Options
from tests.chaos.callers import ROOT


@dataclass(frozen=True, slots=True)
class Worker:
    process: asyncio.subprocess.Process
    url: str

    @property
    def pid(self) -> int:
        return self.process.pid


class Workers:
    """Keeps so many processes running, and remembers what was done to whom."""

    def __init__(self, options: Options, count: int, seed: str) -> None:
        self._options = options
        self._count = count
        self._random = random.Random(seed)
        self._paused: set[Worker] = set()
        self.running: list[Worker] = []
        #: From before the kill until the process was gone: whatever it did, it may have done then.
        self.killed: dict[int, tuple[float, float]] = {}
        self.pauses: dict[int, list[tuple[float, float]]] = {}

    async def start(self) -> None:
        """Start what is missing; one that ends at once because the database is away comes again."""
        missing = self._count - len(self.running)
        # To the end of each: what comes up after a failure would be nobody's.
        for came in await asyncio.gather(
            *(self._start() for _ in range(missing)), return_exceptions=True
        ):
            if isinstance(came, BaseException):
                raise came

    async def _start(self) -> None:
        folders = (str(ROOT / part) for part in ("", "stores", "migrations"))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.chaos.app_worker",
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(self._options).encode() + b"\n")
        try:
            port = int(await process.stdout.readline())
        except BaseException:
            # It ended at once, or the chaos ends before it is up.
            await _end(process)
            raise
        self.running.append(Worker(process, f"http://127.0.0.1:{port}"))

    def bury(self) -> None:
        """Forget those that ended by themselves."""
        self.running = [one for one in self.running if one.process.returncode is None]

    def any(self) -> Worker | None:
        return self._random.choice(self.running) if self.running else None

    async def kill(self) -> None:
        worker = self.any()
        if worker is None:
            return
        self.running.remove(worker)
        began = time.time()
        try:
            await _end(worker.process)
        finally:
            self.killed[worker.pid] = (began, time.time())

    async def pause(self, seconds: float) -> None:
        worker = self.any()
        if worker is None or worker in self._paused:
            return
        self._paused.add(worker)
        began = time.time()
        worker.process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                worker.process.send_signal(signal.SIGCONT)
            self.pauses.setdefault(worker.pid, []).append((began, time.time()))
            self._paused.discard(worker)

    async def stop(self) -> None:
        """End every process in good order."""
        for worker in self.running:
            assert worker.process.stdin is not None
            worker.process.stdin.close()
        async with asyncio.timeout(30):
            await asyncio.gather(*(worker.process.wait() for worker in self.running))
        self.running.clear()

    async def close(self) -> None:
        """End what is left, however."""
        for worker in self.running:
            await _end(worker.process)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
    if process.stdin is not None:
        process.stdin.close()
