from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping
from typing import Any, Self

from tests.reference.install import Installed, compile_cache

_START_SECONDS = 50.0
_STOP_SECONDS = 5.0


class NodeFailed(Exception):
    """A server ended or was silent instead of becoming ready; carries the end of its stderr."""


class NodeProcess:
    """One server script under node, from its ready line until it is stopped.

    The server's life hangs on the stdin pipe held here: it ends when this process ends, however
    that happens.
    """

    def __init__(self, process: subprocess.Popen[bytes], facts: dict[str, Any]) -> None:
        self._process = process
        self.facts = facts

    @classmethod
    def start(
        cls,
        installed: Installed,
        script: str,
        options: Mapping[str, object],
        environment: Mapping[str, str],
    ) -> Self:
        """Start `script` with `options` and wait up to 50 s for its ready line.

        Raises `NodeFailed` otherwise.
        """
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                [installed.node, installed.scripts / script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **compile_cache(installed.scripts.parent), **environment},
            )
            try:
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(json.dumps(options).encode() + b"\n")
                    process.stdin.flush()
                line = _first_line(process)
                if not line.endswith(b"\n"):
                    _end(process, 0)
                    errors.seek(0)
                    tail = errors.read()[-2000:].decode(errors="replace")
                    raise NodeFailed(f"{script} did not become ready: {tail.strip() or 'silence'}")
                return cls(process, json.loads(line))
            except BaseException:
                _end(process, 0)
                raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """Let the server end in good order, for up to 5 s."""
        _end(self._process, _STOP_SECONDS)

    def kill(self) -> None:
        """End the server as a crash would."""
        _end(self._process, 0)


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    deadline = time.monotonic() + _START_SECONDS
    line = b""
    while not line.endswith(b"\n"):
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not select.select([process.stdout], [], [], remaining)[0]:
            break
        piece = os.read(process.stdout.fileno(), 65536)
        if not piece:
            break
        line += piece
    return line


def _end(process: subprocess.Popen[bytes], grace: float) -> None:
    if grace:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    process.kill()
    process.wait(_STOP_SECONDS)
    # Only now: to the server a closed stdin means that nobody cleans up behind it.
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
