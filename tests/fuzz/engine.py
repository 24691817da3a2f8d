"""Makes new inputs for a target, and keeps those that reach code which no other input reaches."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import atproto_oauth_asgi
from tests.fuzz.target import Target

_PACKAGE = str(Path(atproto_oauth_asgi.__file__).parent)
_LARGEST = 2048
_TOKENS = (
    b"\0", b"\n", b"\r\n", b"\t", b" ", b",", b";", b'"', b"\\", b"=", b"%00", b"%2e", b"@", b"#",
    b"://", b"..", b"//", b"\xc2\xad", b"\xe2\x80\xae", b"\xef\xbc\x8e", b"\xff", b"null", b"true",
    b"[]", b"{}", b"1e999", b"-1", b"9" * 30, b"did:", b"at://", b"xn--", b"[::1]", b"127.0.0.1",
)  # fmt: skip

Arc = tuple[str, int, int]


class Finding(Exception):
    """Says that an input showed a defect, which is the cause."""

    def __init__(self, data: bytes) -> None:
        super().__init__(repr(data))
        self.data = data


def reached(target: Target, data: bytes) -> frozenset[Arc]:
    """Run a target on an input and return the steps from line to line that the package took.

    Raises:
        Finding: The target failed.
    """
    arcs: set[Arc] = set()

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            arcs.add((frame.f_code.co_filename, last.get(frame, 0), frame.f_lineno))
            last[frame] = frame.f_lineno
        return local

    def calls(frame: FrameType, _: str, __: Any) -> Any:
        return local if frame.f_code.co_filename.startswith(_PACKAGE) else None

    last: dict[FrameType, int] = {}
    with _tracing(calls):
        try:
            target.check(data)
        except Exception as exc:
            raise Finding(data) from exc
    return frozenset(arcs)


@contextmanager
def _tracing(trace: Any) -> Generator[None]:
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def worth_keeping(target: Target, inputs: Iterable[bytes]) -> list[bytes]:
    """Return the inputs, short ones first, that each reach something new.

    Raises:
        Finding: The target failed for one of them.
    """
    kept: list[bytes] = []
    seen: set[Arc] = set()
    for data in sorted(set(inputs), key=lambda one: (len(one), one)):
        if len(data) <= _LARGEST and (arcs := reached(target, data)) - seen:
            seen |= arcs
            kept.append(data)
    return kept


def search(target: Target, corpus: list[bytes], *, seconds: float, seed: int) -> list[bytes]:
    """Mutate inputs for some seconds and return the larger corpus.

    Raises:
        Finding: The target failed.
    """
    choose = random.Random(seed)
    corpus = worth_keeping(target, [*corpus, *target.seeds])
    seen = {arc for data in corpus for arc in reached(target, data)}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = _mutated(choose, corpus)
        new = reached(target, data) - seen
        if new:
            seen |= new
            corpus.append(data)
    return worth_keeping(target, corpus)


def _mutated(choose: random.Random, corpus: list[bytes]) -> bytes:
    data = bytearray(choose.choice(corpus))
    for _ in range(choose.choice((1, 1, 2, 4, 8))):
        at = choose.randrange(len(data) + 1)
        match choose.randrange(7):
            case 0:
                data[at:at] = choose.choice(_TOKENS)
            case 1:
                data[at : at + 1] = bytes((choose.randrange(256),))
            case 2:
                del data[at : at + choose.randrange(1, 9)]
            case 3:
                other = choose.choice(corpus)
                start = choose.randrange(len(other) + 1)
                data[at:at] = other[start : start + choose.randrange(1, 40)]
            case 4:
                data[at:at] = data[max(0, at - choose.randrange(1, 40)) : at] * choose.randrange(4)
            case 5 if at < len(data):
                data[at] ^= 1 << choose.randrange(8)
            case _:
                data[at : at + choose.randrange(4)] = choose.choice(_TOKENS)
    return bytes(data[:_LARGEST])
