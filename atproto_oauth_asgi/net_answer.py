"""What another server answered."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

import httpx

from atproto_oauth_asgi.errors import BadAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Is a complete answer of another server, whatever its status."""

    #: HTTP status.
    status: int
    #: Headers, by any spelling of their names.
    headers: httpx.Headers = field(repr=False)
    #: The body, within the limit that was asked for.
    body: bytes = field(repr=False)
    #: Host that answered.
    host: str = ""

    def json(self) -> object:
        """Return the parsed body; numbers are finite and texts are valid Unicode.

        Raises:
            BadAnswer: The body is not such JSON.
        """
        try:
            text = self.body.decode("utf-8")
            value: object = json.loads(text, parse_constant=_refuse, parse_float=_finite)
            if "\\u" in text:
                # A lone surrogate would only fail later, where it is stored or sent.
                json.dumps(value, ensure_ascii=False).encode("utf-8")
        except (ValueError, RecursionError):
            # Not chained: the parser's error holds the whole body, which may be tokens.
            message = f"The answer of {self.host!r} is not valid JSON."
            raise BadAnswer(message, host=self.host, http_status=self.status) from None
        return value


def _refuse(constant: str) -> object:
    raise ValueError(constant)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value
