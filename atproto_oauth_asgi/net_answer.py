"""What another server answered."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterable
from dataclasses import dataclass, field
from typing import cast

import httpx

from atproto_oauth_asgi.errors import BadAnswer, Unreachable

# An answer of single bytes, each a chunk of its own, would cost many times its size in memory and
# seconds of processor time. The frames of a repository export are 60 bytes on average.
_FREE_PARTS = 2048
_BYTES_PER_PART = 32


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


async def collect(chunks: AsyncIterable[bytes], *, limit: int, host: str, status: int) -> bytes:
    """Return a whole body of at most `limit` bytes.

    Raises:
        BadAnswer: It is larger, or comes in crumbs.
    """
    body = bytearray()
    parts = 0
    async for chunk in chunks:
        body += chunk
        parts += 1
        if len(body) > limit or parts > _FREE_PARTS + len(body) // _BYTES_PER_PART:
            message = f"The answer of {host!r} is larger than {limit} bytes or crumbled."
            raise BadAnswer(message, host=host, http_status=status)
    return bytes(body)


async def read_whole(response: httpx.Response, *, limit: int, deadline: float) -> None:
    """Read a response that is not compressed, so that its `content` can be used.

    Args:
        response: It must not have been read yet.
        limit: In bytes.
        deadline: In seconds.

    Raises:
        BadAnswer: It is compressed, larger, or comes in crumbs.
        Unreachable: It did not come to its end in time, or broke off.
    """
    host = response.url.raw_host.decode("ascii")
    if response.headers.get("content-encoding", "identity").lower() not in {"", "identity"}:
        message = f"The answer of {host!r} is compressed, though that was not asked for."
        raise BadAnswer(message, host=host, http_status=response.status_code)
    stream = cast("httpx.AsyncByteStream", response.stream)
    try:
        async with asyncio.timeout(deadline):
            body = await collect(stream, limit=limit, host=host, status=response.status_code)
    except TimeoutError as exc:
        message = f"The answer of {host!r} did not end within {deadline:g} seconds."
        raise Unreachable(message, host=host, sent=True) from exc
    finally:
        await stream.aclose()
    response.stream = httpx.ByteStream(body)
    await response.aread()


def _refuse(constant: str) -> object:
    raise ValueError(constant)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value
