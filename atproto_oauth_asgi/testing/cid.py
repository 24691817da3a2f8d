"""Content identifiers of records and blobs (CIDv1, SHA-256; DAG-CBOR and raw)."""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import cast

_RAW = 0x55
_DAG_CBOR = 0x71
_LINK_TAG = b"\xd8\x2a"


def record_cid(record: object) -> str:
    """Return the CID of a JSON value in the AT Protocol data model.

    Raises:
        ValueError: The value has no DAG-CBOR form.
    """
    return _cid(_DAG_CBOR, _encode(record))


def blob_cid(data: bytes) -> str:
    """Return the CID of a blob."""
    return _cid(_RAW, data)


def _cid(codec: int, data: bytes) -> str:
    binary = bytes((1, codec, 0x12, 0x20)) + hashlib.sha256(data).digest()
    return "b" + base64.b32encode(binary).decode().lower().rstrip("=")


def _encode(value: object) -> bytes:
    match value:
        case None:
            return b"\xf6"
        case bool():
            return b"\xf5" if value else b"\xf4"
        case int():
            return _head(0, value) if value >= 0 else _head(1, -1 - value)
        case str():
            data = value.encode()
            return _head(3, len(data)) + data
        case list():
            items = cast("list[object]", value)
            return _head(4, len(items)) + b"".join(_encode(item) for item in items)
        case dict():
            return _encode_map(cast("dict[str, object]", value))
        case _:
            raise ValueError("Records hold no floating-point numbers.")


def _encode_map(value: dict[str, object]) -> bytes:
    link, data = value.get("$link"), value.get("$bytes")
    if len(value) == 1 and isinstance(link, str):
        padded = link[1:].upper() + "=" * (-len(link[1:]) % 8)
        binary = b"\x00" + base64.b32decode(padded)
        return _LINK_TAG + _head(2, len(binary)) + binary
    if len(value) == 1 and isinstance(data, str):
        binary = base64.b64decode(data + "=" * (-len(data) % 4))
        return _head(2, len(binary)) + binary
    # DAG-CBOR orders keys by their length first (RFC 7049 §3.9).
    pairs = sorted(
        ((name.encode(), item) for name, item in value.items()),
        key=lambda pair: (len(pair[0]), pair[0]),
    )
    return _head(5, len(pairs)) + b"".join(
        _head(3, len(name)) + name + _encode(item) for name, item in pairs
    )


def _head(major: int, number: int) -> bytes:
    first = major << 5
    if number < 24:
        return bytes((first | number,))
    for extra, size, form in ((24, 1, ">B"), (25, 2, ">H"), (26, 4, ">I"), (27, 8, ">Q")):
        if number < 1 << (8 * size):
            return bytes((first | extra,)) + struct.pack(form, number)
    raise ValueError("Records hold no integers of more than 64 bits.")
