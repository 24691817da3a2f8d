from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Endpoint = Literal["par", "token", "revoke", "xrpc"]

_MOST = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """Is what a server of the network did with one request. It holds no secret."""

    #: When the answer was decided, by the network's clock, in seconds.
    time: float
    #: Origin of the server.
    server: str
    endpoint: Endpoint
    #: Grant type of a token request, NSID of an XRPC call.
    name: str | None = None
    client_id: str | None = None
    #: Session that the request made, used, ended or asked for.
    session_id: str | None = None
    #: SHA-256 (hex) of the refresh token that was sent.
    refresh_token_sha256: str | None = None
    status: int
    #: The error code of the answer.
    error: str | None = None
    #: Whether the answer was sent; false where a fault dropped the connection after processing.
    delivered: bool = True


class RequestLog:
    """Keeps the newest records in the order in which the requests were decided."""

    def __init__(self) -> None:
        self._records: deque[RequestRecord] = deque(maxlen=_MOST)

    def __iter__(self) -> Iterator[RequestRecord]:
        return iter(tuple(self._records))

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> RequestRecord:
        return self._records[index]

    def add(self, record: RequestRecord) -> None:
        """Add a record."""
        self._records.append(record)

    def clear(self) -> None:
        """Forget what happened so far."""
        self._records.clear()

    def of(self, endpoint: Endpoint, name: str | None = None) -> list[RequestRecord]:
        """Return the records of an endpoint, and of one grant type or NSID where given."""
        return [
            record for record in self if record.endpoint == endpoint and name in {None, record.name}
        ]


def sha256_hex(token: str) -> str:
    """Return the digest under which the log names a token."""
    return hashlib.sha256(token.encode()).hexdigest()
