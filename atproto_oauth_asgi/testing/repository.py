from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from atproto_oauth_asgi.testing.cid import blob_cid, record_cid
from atproto_oauth_asgi.testing.web import JSONObject

_TID_ALPHABET = "234567abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Is one record of a repository."""

    uri: str
    cid: str
    value: JSONObject

    def view(self) -> JSONObject:
        """Return the record as `getRecord` and `listRecords` show it."""
        return {"uri": self.uri, "cid": self.cid, "value": self.value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """Is an uploaded file."""

    mime: str
    data: bytes


class Repository:
    """Holds the records and blobs of one account in memory."""

    def __init__(self, did: str, *, clock: Callable[[], float] = time.time) -> None:
        self.did = did
        self._clock = clock
        self._last = 0
        self._records: dict[str, dict[str, Record]] = {}
        self._blobs: dict[str, Blob] = {}

    def put(self, collection: str, rkey: str, value: JSONObject) -> Record:
        """Write a record.

        Raises:
            ValueError: The value is not in the AT Protocol data model.
        """
        uri = f"at://{self.did}/{collection}/{rkey}"
        record = Record(uri=uri, cid=record_cid(value), value=value)
        self._records.setdefault(collection, {})[rkey] = record
        return record

    def find(self, collection: str, rkey: str) -> Record | None:
        """Return a record."""
        return self._records.get(collection, {}).get(rkey)

    def delete(self, collection: str, rkey: str) -> bool:
        """Delete a record; say whether there was one."""
        return self._records.get(collection, {}).pop(rkey, None) is not None

    def list(
        self, collection: str, *, limit: int, cursor: str | None, reverse: bool
    ) -> list[tuple[str, Record]]:
        """Return records by key, newest first unless reversed, after the cursor."""
        found = sorted(self._records.get(collection, {}).items(), reverse=not reverse)
        if cursor is not None:
            found = [pair for pair in found if (pair[0] > cursor) == reverse and pair[0] != cursor]
        return found[:limit]

    def add_blob(self, mime: str, data: bytes) -> str:
        """Keep a blob and return its CID."""
        cid = blob_cid(data)
        self._blobs[cid] = Blob(mime=mime, data=data)
        return cid

    def blob(self, cid: str) -> Blob | None:
        """Return a blob."""
        return self._blobs.get(cid)

    def commit(self) -> JSONObject:
        """Return a commit as a write's answer names it; its CID stands for no real commit."""
        rev = self.next_tid()
        return {"cid": record_cid({"did": self.did, "rev": rev}), "rev": rev}

    def next_tid(self) -> str:
        """Return a record key that is later than all before (atproto: TID)."""
        number = max(int(self._clock() * 1_000_000) << 10, self._last + 1)
        self._last = number
        return "".join(_TID_ALPHABET[number >> shift & 31] for shift in range(60, -1, -5))
