"""The app's SQLite file, for putting a session into a state that would take an hour to reach."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path
from typing import Any

HOUR = 3600


class Rows:
    """Edits and reads rows as an operator would; every time is in seconds from now.

    A running app keeps a session's token life in mind, so change that while none runs.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.store_url = f"sqlite:///{path}"

    def token_life(self, remaining: float, *, life: float = HOUR) -> None:
        """Make the app believe that its access tokens have `remaining` of `life` left."""
        now = time.time()
        self._change(
            "UPDATE atproto_oauth_session SET access_expires = ?, refreshed = ?, refresh_after = 0",
            round((now + remaining) * 1000),
            round((now + remaining - life) * 1000),
        )

    def allow_refresh(self) -> None:
        """Let the least interval between two refreshes, or a backoff, be over."""
        self._change("UPDATE atproto_oauth_session SET refresh_after = 0")

    def expire_attempts(self) -> None:
        """Let every login that is under way have begun too long ago."""
        self._change("UPDATE atproto_oauth_one_time SET expires = created")

    def session(self) -> dict[str, Any]:
        """Return the newest session."""
        with contextlib.closing(sqlite3.connect(self._path)) as connection:
            connection.row_factory = sqlite3.Row
            row: sqlite3.Row = connection.execute(
                "SELECT * FROM atproto_oauth_session ORDER BY created DESC, id LIMIT 1"
            ).fetchone()
        return dict(row)

    def _change(self, statement: str, *values: int) -> None:
        with contextlib.closing(sqlite3.connect(self._path, timeout=10)) as connection:
            assert connection.execute(statement, values).rowcount
            connection.commit()
