from __future__ import annotations

from collections.abc import Callable
from typing import cast

from atproto_oauth_asgi.testing.accounts import Account, Accounts
from atproto_oauth_asgi.testing.permissions import needed
from atproto_oauth_asgi.testing.repository import Record, Repository
from atproto_oauth_asgi.testing.web import (
    Answer,
    JSONObject,
    Request,
    XRPCRefusal,
    json_answer,
)
from atproto_oauth_asgi.testing.xrpc import (
    Caller,
    invalid,
    json_body,
    missing_scope,
    require_active,
    text,
)

_MOST_LISTED = 100
_MOST_WRITES = 200
_WRITE = "com.atproto.repo.applyWrites#"


class RecordMethods:
    """Answers `com.atproto.repo` and what reads blobs."""

    def __init__(self, *, accounts: Accounts, clock: Callable[[], float]) -> None:
        self._accounts = accounts
        self._clock = clock
        self._repositories: dict[str, Repository] = {}

    def repository(self, did: str) -> Repository:
        """Return the repository of an account."""
        return self._repositories.setdefault(did, Repository(did, clock=self._clock))

    async def create(self, request: Request, caller: Caller) -> Answer:
        """Answer `createRecord`."""
        return self._write(request, caller, ("create",))

    async def put(self, request: Request, caller: Caller) -> Answer:
        """Answer `putRecord`, which may create or update."""
        return self._write(request, caller, ("create", "update"))

    async def delete(self, request: Request, caller: Caller) -> Answer:
        """Answer `deleteRecord`."""
        body = json_body(request)
        collection = text(body, "collection")
        _require_repo(caller, collection, "delete")
        repository = self._own(body, caller)
        if not repository.delete(collection, text(body, "rkey")):
            return json_answer(200, {})
        return json_answer(200, {"commit": repository.commit()})

    async def apply_writes(self, request: Request, caller: Caller) -> Answer:
        """Answer `applyWrites`: all permissions are looked at before anything is written."""
        body = json_body(request)
        writes = [_write_of(item) for item in _items(body.get("writes"))]
        for action, collection, _ in writes:
            _require_repo(caller, collection, action)
        repository = self._own(body, caller)
        results: list[JSONObject] = []
        for action, collection, item in writes:
            result: JSONObject = {"$type": f"{_WRITE}{action}Result"}
            if action == "delete":
                repository.delete(collection, text(item, "rkey"))
            else:
                rkey = item.get("rkey") or repository.next_tid()
                written = _put(repository, collection, rkey, item.get("value"))
                result |= _written(collection, written)
            results.append(result)
        return json_answer(200, {"commit": repository.commit(), "results": results})

    async def upload_blob(self, request: Request, caller: Caller) -> Answer:
        """Answer `uploadBlob`, which a deactivated account may call too."""
        mime = request.content_type or "application/octet-stream"
        if not caller.grants.allows_blob(mime):
            raise missing_scope(needed("blob", mime))
        cid = self.repository(caller.account.did).add_blob(mime, request.body)
        blob = {
            "$type": "blob",
            "ref": {"$link": cid},
            "mimeType": mime,
            "size": len(request.body),
        }
        return json_answer(200, {"blob": blob})

    async def get(self, request: Request) -> Answer:
        """Answer `getRecord`."""
        repository, collection = self._named(request)
        rkey = request.parameter("rkey") or ""
        record = repository.find(collection, rkey)
        if record is None:
            uri = f"at://{repository.did}/{collection}/{rkey}"
            raise XRPCRefusal(400, "RecordNotFound", f"Could not locate record: {uri}")
        return json_answer(200, record.view())

    async def list(self, request: Request) -> Answer:
        """Answer `listRecords`."""
        repository, collection = self._named(request)
        limit = request.parameter("limit") or "50"
        if not limit.isdecimal() or not 1 <= int(limit) <= _MOST_LISTED:
            raise invalid("Invalid limit")
        found = repository.list(
            collection,
            limit=int(limit),
            cursor=request.parameter("cursor"),
            reverse=request.parameter("reverse") == "true",
        )
        body: JSONObject = {"records": [record.view() for _, record in found]}
        if len(found) == int(limit):
            body["cursor"] = found[-1][0]
        return json_answer(200, body)

    async def get_blob(self, request: Request) -> Answer:
        """Answer `com.atproto.sync.getBlob`."""
        account = self._account(request.parameter("did"))
        blob = self.repository(account.did).blob(request.parameter("cid") or "")
        if blob is None:
            raise XRPCRefusal(400, "BlobNotFound", "Blob not found")
        return Answer(status=200, headers=(("content-type", blob.mime),), body=blob.data)

    def _write(self, request: Request, caller: Caller, actions: tuple[str, ...]) -> Answer:
        body = json_body(request)
        collection = text(body, "collection")
        for action in actions:
            _require_repo(caller, collection, action)
        repository = self._own(body, caller)
        rkey = body.get("rkey") or repository.next_tid()
        written = _put(repository, collection, rkey, body.get("record"))
        return json_answer(200, {**_written(collection, written), "commit": repository.commit()})

    def _own(self, body: JSONObject, caller: Caller) -> Repository:
        require_active(caller)
        if text(body, "repo") not in {caller.account.did, caller.account.handle}:
            raise XRPCRefusal(401, "AuthenticationRequired", "Authentication Required")
        return self.repository(caller.account.did)

    def _named(self, request: Request) -> tuple[Repository, str]:
        account = self._account(request.parameter("repo"))
        return self.repository(account.did), request.parameter("collection") or ""

    def _account(self, identifier: str | None) -> Account:
        account = self._accounts.find(identifier or "")
        if account is None:
            raise invalid(f"Could not find repo: {identifier}")
        return account


def _require_repo(caller: Caller, collection: str, action: str) -> None:
    if not caller.grants.allows_repo(collection, action):
        raise missing_scope(needed("repo", collection, action=action))


def _put(repository: Repository, collection: str, rkey: object, value: object) -> Record:
    if not isinstance(value, dict) or not isinstance(rkey, str):
        raise invalid('Input must have the property "record"')
    record = cast("JSONObject", value)
    kind = record.setdefault("$type", collection)
    if kind != collection:
        raise invalid(f"Invalid $type: expected {collection}, got {kind}")
    try:
        return repository.put(collection, rkey, record)
    except ValueError as exc:
        raise invalid(str(exc)) from exc


def _written(collection: str, record: Record) -> JSONObject:
    # No lexicon is looked at: that of Bluesky's records is known to every PDS.
    status = "valid" if collection.startswith("app.bsky.") else "unknown"
    return {"uri": record.uri, "cid": record.cid, "validationStatus": status}


def _items(value: object) -> list[object]:
    if not isinstance(value, list):
        raise invalid('Input must have the property "writes"')
    items = cast("list[object]", value)
    if len(items) > _MOST_WRITES:
        raise invalid("Too many writes. Max: 200")
    return items


def _write_of(item: object) -> tuple[str, str, JSONObject]:
    if not isinstance(item, dict):
        raise invalid("Input/writes must hold objects")
    write = cast("JSONObject", item)
    action = str(write.get("$type", "")).removeprefix(_WRITE)
    if action not in {"create", "update", "delete"}:
        raise invalid("Input/writes must be one of create, update and delete")
    return action, text(write, "collection"), write
