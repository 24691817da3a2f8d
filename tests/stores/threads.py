"""The threads of a driver, of which each connection to a SQLite file has one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def threads_of_drivers() -> int:
    return sum("_connection_worker_thread" in thread.name for thread in threading.enumerate())


def wait_until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.01)
