"""What other servers' clocks say, for machines whose own clock is wrong."""

from __future__ import annotations

import time
from collections import OrderedDict
from datetime import UTC
from email.utils import parsedate_to_datetime

import httpx

from atproto_oauth_asgi.instrumentation import Events

#: Seconds that a server's clock may differ from ours; no server is believed more than this.
MOST = 300
#: Seconds that mean nothing: `Date` has no fractions, and the answer was under way for a while.
LEAST = 3


class Clocks:
    """Remembers, in memory, by how many seconds the clock of an origin differs from ours.

    Learnt from `Date`, and only after that origin refused a proof of ours (RFC 9449 §11.1). A
    server that lies only gets proofs for itself with the time that it asked for.
    """

    LIMIT = 500

    def __init__(self, events: Events) -> None:
        self._events = events
        self._offsets: OrderedDict[str, int] = OrderedDict()

    def offset(self, origin: str) -> int:
        """Return the seconds to add to our time in a proof for an origin; nearly always 0."""
        return self._offsets.get(origin, 0)

    def learn(self, origin: str, headers: httpx.Headers) -> bool:
        """Take the time from a refusal; say whether the same request may succeed with it."""
        seconds = http_date(headers, "date")
        if seconds is None:
            return False
        offset = round(seconds - time.time())
        if abs(offset - self.offset(origin)) < LEAST:
            return False
        self._events.warning("dpop.clock_skew", origin=origin, seconds=offset)
        if abs(offset) > MOST:
            return False
        self._offsets[origin] = offset
        self._offsets.move_to_end(origin)
        if len(self._offsets) > self.LIMIT:
            self._offsets.popitem(last=False)
        return True


def http_date(headers: httpx.Headers, name: str) -> float | None:
    """Return the date of a header as seconds since 1970; None without exactly one."""
    values = headers.get_list(name)
    if len(values) != 1:
        return None
    try:
        date = parsedate_to_datetime(values[0])
        # RFC 9110 §5.6.7: it is always UTC.
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
