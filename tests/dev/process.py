"""Starts `atproto-oauth-asgi dev` as a person does, reads what it says, and stops it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    clean = {name: text for name, text in os.environ.items() if "ATPROTO" not in name}
    return subprocess.Popen(
        [sys.executable, "-m", "atproto_oauth_asgi.cli", "dev", *arguments],
        cwd=folder,
        env={**clean, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A group of its own, so that what it leaves behind can be seen.
        start_new_session=True,
    )


@dataclass
class Dev:
    process: subprocess.Popen[str]
    said: str

    @property
    def url(self) -> str:
        return str(re.findall(r"http://127\.0\.0\.1:\d+\S*", self.said)[0])

    @property
    def accounts(self) -> list[tuple[str, str]]:
        return re.findall(r"(\S+\.test) +password (\S+)", self.said)

    def stop(self, end: signal.Signals) -> str:
        """Send a signal to the process alone; return what it said on stderr."""
        self.process.send_signal(end)
        _, errors = self.process.communicate(timeout=120)
        return errors

    def left_behind(self) -> list[str]:
        """Name the processes of its group that are still there."""
        found = subprocess.run(
            ["ps", "-o", "pid=,args=", "-g", str(self.process.pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        return [line for line in found.stdout.splitlines() if "<defunct>" not in line]


@contextmanager
def dev(folder: Path, *arguments: str, **environment: str) -> Generator[Dev]:
    process = start(folder, *arguments, **environment)
    try:
        yield Dev(process, greeting(process))
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def greeting(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C" in line:
            return "".join(lines)
    assert process.stderr is not None
    pytest.fail("it did not start: " + process.stderr.read())
