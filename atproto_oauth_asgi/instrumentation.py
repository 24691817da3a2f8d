"""What happens, told to the log and to the app: each security-relevant step has a name.

The names and their fields are in docs/events.md; they are part of the public interface. No field
ever holds a token, key, code, `state` or cookie.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from atproto_oauth_asgi.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One step that was taken, or refused."""

    #: Static, such as `login.finished`; it says all that the words of a message would say.
    name: str
    #: A level of the `logging` module.
    level: int
    #: The same as the log record's attributes of these names.
    fields: Mapping[str, object]


OnEvent = Callable[[Event], None]


class Events:
    """Tells each event to the logger `atproto_oauth_asgi.<noun>`, and to the app's hook.

    Args:
        on_event: The app's hook, called whatever the log's level is. It runs in the middle of a
            request, so it should only count or queue. What it raises is logged and goes no
            further.

    Raises:
        ConfigurationError: the hook is a coroutine function, which nobody would await.
    """

    def __init__(self, on_event: OnEvent | None = None) -> None:
        if inspect.iscoroutinefunction(on_event):
            raise ConfigurationError(
                "on_event is a coroutine function, which nobody would await; make it a plain"
                " function, and let it put events into a queue if they are for a task."
            )
        self._on_event = on_event

    def info(self, name: str, /, **fields: object) -> None:
        """Tell of a step that went as it should."""
        self._tell(logging.INFO, name, fields)

    def warning(self, name: str, caught: BaseException | None = None, /, **fields: object) -> None:
        """Tell of a refusal or a passing failure."""
        self._tell(logging.WARNING, name, fields, caught)

    def error(self, name: str, caught: BaseException | None = None, /, **fields: object) -> None:
        """Tell of a defect, or of something an operator must look after."""
        self._tell(logging.ERROR, name, fields, caught)

    def exception(self, name: str, /, **fields: object) -> None:
        """Tell of an exception, from the block that caught it."""
        self._tell(logging.ERROR, name, fields, sys.exception())

    def critical(self, name: str, /, **fields: object) -> None:
        """Tell of a loss."""
        self._tell(logging.CRITICAL, name, fields)

    def _tell(
        self,
        level: int,
        name: str,
        fields: dict[str, object],
        caught: BaseException | None = None,
    ) -> None:
        log = logging.getLogger(f"atproto_oauth_asgi.{name.partition('.')[0]}")
        # The record is to name the line where it happened.
        log.log(level, name, extra=fields, exc_info=caught, stacklevel=3)
        if self._on_event is None:
            return
        try:
            self._on_event(Event(name=name, level=level, fields=MappingProxyType(fields)))
        except Exception:
            # Whoever watches must not change what happens.
            log.exception("on_event.failed", extra={"event": name})
