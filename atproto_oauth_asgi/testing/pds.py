from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import cast

from atproto_oauth_asgi.testing.accounts import Account, Accounts
from atproto_oauth_asgi.testing.dpop_verifier import DPoPRefused, DPoPVerifier, challenge
from atproto_oauth_asgi.testing.permissions import Grants
from atproto_oauth_asgi.testing.repository import Repository
from atproto_oauth_asgi.testing.request_log import RequestLog, RequestRecord
from atproto_oauth_asgi.testing.sessions import Session, Sessions, TokenRefused
from atproto_oauth_asgi.testing.web import (
    Answer,
    JSONObject,
    Request,
    XRPCRefusal,
    json_answer,
)

_MOST_LISTED = 100


class Caller:
    """Is the account on whose behalf a call comes, with what it may do."""

    def __init__(self, session: Session, account: Account) -> None:
        self.session = session
        self.account = account
        self.grants = Grants(session.scope)


class PDS:
    """Answers XRPC calls as a Personal Data Server, for a few methods of `com.atproto`."""

    def __init__(
        self,
        *,
        origin: Callable[[], str],
        accounts: Accounts,
        sessions: Sessions,
        verifier: DPoPVerifier,
        log: RequestLog,
        clock: Callable[[], float],
    ) -> None:
        self.accounts = accounts
        self._origin = origin
        self._sessions = sessions
        self._verifier = verifier
        self._log = log
        self._clock = clock
        self._repositories: dict[str, Repository] = {}
        self._open: dict[str, _OpenMethod] = {
            "_health": self._health,
            "com.atproto.server.describeServer": self._describe_server,
            "com.atproto.identity.resolveHandle": self._resolve_handle,
            "com.atproto.repo.getRecord": self._get_record,
            "com.atproto.repo.listRecords": self._list_records,
            "com.atproto.sync.getBlob": self._get_blob,
        }
        self._closed: dict[str, tuple[str, _ClosedMethod]] = {
            "com.atproto.server.getSession": ("GET", self._get_session),
            "com.atproto.server.getServiceAuth": ("GET", self._get_service_auth),
            "com.atproto.identity.updateHandle": ("POST", self._update_handle),
            "com.atproto.repo.createRecord": ("POST", self._create_record),
            "com.atproto.repo.putRecord": ("POST", self._put_record),
            "com.atproto.repo.deleteRecord": ("POST", self._delete_record),
            "com.atproto.repo.uploadBlob": ("POST", self._upload_blob),
        }

    def repository(self, did: str) -> Repository:
        """Return the repository of an account."""
        return self._repositories.setdefault(did, Repository(did, clock=self._clock))

    async def xrpc(self, request: Request) -> Answer:
        """Answer an XRPC call."""
        nsid = request.path.removeprefix("/xrpc/")
        session_id: str | None = None
        error: str | None = None
        try:
            if nsid in self._open:
                _require_method(request, "GET")
                answer = await self._open[nsid](request)
            else:
                method, handler = self._closed.get(nsid, (request.method, self._proxy))
                _require_method(request, method)
                caller = self._authenticate(request)
                session_id = caller.session.id
                answer = await handler(request, caller)
        except XRPCRefusal as refusal:
            error = refusal.error
            answer = refusal.answer()
        self._log.add(
            RequestRecord(
                time=self._clock(),
                server=self._origin(),
                endpoint="xrpc",
                name=nsid,
                session_id=session_id,
                status=answer.status,
                error=error,
            )
        )
        if (request.header("authorization") or "").lower().startswith("dpop "):
            return answer.with_header("dpop-nonce", self._verifier.nonces.current())
        return answer

    def _authenticate(self, request: Request) -> Caller:
        authorization = request.header("authorization")
        if authorization is None:
            raise XRPCRefusal(401, "AuthMissing", "Authentication Required")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "dpop":
            raise XRPCRefusal(400, "InvalidToken", "Malformed token")
        try:
            proof = self._verifier.check(
                method=request.method,
                url=self._origin() + request.path,
                proofs=request.headers.get("dpop", []),
                access_token=token,
            )
            if proof is None:
                raise DPoPRefused("invalid_dpop_proof", "DPoP proof required")
            session = self._sessions.check_access_token(token)
            if session.jkt != proof.jkt:
                raise TokenRefused("Invalid DPoP key binding")
            account = self.accounts.find(session.did)
            if account is None or not account.usable:
                raise TokenRefused("Invalid token")
        except (DPoPRefused, TokenRefused) as exc:
            header = challenge(exc.error, exc.message)
            raise XRPCRefusal(401, exc.error, exc.message, (header,)) from exc
        return Caller(session, account)

    async def _health(self, _request: Request) -> Answer:
        return json_answer(200, {"version": "development network"})

    async def _describe_server(self, _request: Request) -> Answer:
        body: JSONObject = {
            "did": "did:web:" + self._origin().partition("://")[2].replace(":", "%3A"),
            "availableUserDomains": [".test"],
            "inviteCodeRequired": False,
        }
        return json_answer(200, body)

    async def _resolve_handle(self, request: Request) -> Answer:
        handle = (request.parameter("handle") or "").lower()
        account = self.accounts.find(handle)
        if account is None or account.handle != handle:
            raise XRPCRefusal(400, "InvalidRequest", "Unable to resolve handle")
        return json_answer(200, {"did": account.did})

    async def _get_session(self, _request: Request, caller: Caller) -> Answer:
        account = caller.account
        body: JSONObject = {"did": account.did, "handle": account.handle}
        if caller.grants.allows_email():
            body |= {"email": account.email, "emailConfirmed": False}
        body["active"] = account.status == "active"
        if account.status != "active":
            body["status"] = account.status
        return json_answer(200, body)

    async def _get_service_auth(self, request: Request, caller: Caller) -> Answer:
        method, audience = request.parameter("lxm") or "*", request.parameter("aud") or "*"
        if not caller.grants.allows_rpc(method, audience):
            raise _missing_scope(f"rpc:{method}?aud={audience}")
        raise XRPCRefusal(501, "MethodNotImplemented", "Method Not Implemented")

    async def _update_handle(self, request: Request, caller: Caller) -> Answer:
        if not caller.grants.allows_identity("handle"):
            raise _missing_scope("identity:handle")
        caller.account.handle = _text(_json_body(request), "handle").lower()
        return Answer(status=200)

    async def _create_record(self, request: Request, caller: Caller) -> Answer:
        return self._write(request, caller, ("create",))

    async def _put_record(self, request: Request, caller: Caller) -> Answer:
        return self._write(request, caller, ("create", "update"))

    def _write(self, request: Request, caller: Caller, actions: tuple[str, ...]) -> Answer:
        body = _json_body(request)
        collection, repository = self._target(body, caller, actions)
        rkey = body.get("rkey") or repository.next_tid()
        value = body.get("record")
        if not isinstance(value, dict) or not isinstance(rkey, str):
            raise XRPCRefusal(400, "InvalidRequest", 'Input must have the property "record"')
        record = cast("JSONObject", value)
        kind = record.setdefault("$type", collection)
        if kind != collection:
            raise XRPCRefusal(
                400, "InvalidRequest", f"Invalid $type: expected {collection}, got {kind}"
            )
        try:
            written = repository.put(collection, rkey, record)
        except ValueError as exc:
            raise XRPCRefusal(400, "InvalidRequest", str(exc)) from exc
        answer: JSONObject = {
            "uri": written.uri,
            "cid": written.cid,
            "commit": repository.commit(),
        }
        if collection.startswith("app.bsky."):
            answer["validationStatus"] = "valid"
        return json_answer(200, answer)

    async def _delete_record(self, request: Request, caller: Caller) -> Answer:
        body = _json_body(request)
        collection, repository = self._target(body, caller, ("delete",))
        if not repository.delete(collection, _text(body, "rkey")):
            return json_answer(200, {})
        return json_answer(200, {"commit": repository.commit()})

    def _target(
        self, body: JSONObject, caller: Caller, actions: tuple[str, ...]
    ) -> tuple[str, Repository]:
        collection = _text(body, "collection")
        for action in actions:
            if not caller.grants.allows_repo(collection, action):
                raise _missing_scope(f"repo:{collection}?action={action}")
        _require_active(caller)
        if _text(body, "repo") not in {caller.account.did, caller.account.handle}:
            raise XRPCRefusal(401, "AuthenticationRequired", "Authentication Required")
        return collection, self.repository(caller.account.did)

    async def _upload_blob(self, request: Request, caller: Caller) -> Answer:
        mime = request.content_type or "application/octet-stream"
        if not caller.grants.allows_blob(mime):
            raise _missing_scope(f"blob:{mime}")
        _require_active(caller)
        cid = self.repository(caller.account.did).add_blob(mime, request.body)
        blob = {
            "$type": "blob",
            "ref": {"$link": cid},
            "mimeType": mime,
            "size": len(request.body),
        }
        return json_answer(200, {"blob": blob})

    async def _get_record(self, request: Request) -> Answer:
        repository, collection = self._named(request)
        rkey = request.parameter("rkey") or ""
        record = repository.find(collection, rkey)
        if record is None:
            uri = f"at://{repository.did}/{collection}/{rkey}"
            raise XRPCRefusal(400, "RecordNotFound", f"Could not locate record: {uri}")
        return json_answer(200, record.view())

    async def _list_records(self, request: Request) -> Answer:
        repository, collection = self._named(request)
        limit = request.parameter("limit") or "50"
        if not limit.isdecimal() or not 1 <= int(limit) <= _MOST_LISTED:
            raise XRPCRefusal(400, "InvalidRequest", "Invalid limit")
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

    async def _get_blob(self, request: Request) -> Answer:
        account = self._account(request.parameter("did"))
        blob = self.repository(account.did).blob(request.parameter("cid") or "")
        if blob is None:
            raise XRPCRefusal(400, "BlobNotFound", "Blob not found")
        return Answer(status=200, headers=(("content-type", blob.mime),), body=blob.data)

    async def _proxy(self, request: Request, _caller: Caller) -> Answer:
        nsid = request.path.removeprefix("/xrpc/")
        raise XRPCRefusal(400, "InvalidRequest", f"No service configured for {nsid}")

    def _named(self, request: Request) -> tuple[Repository, str]:
        account = self._account(request.parameter("repo"))
        return self.repository(account.did), request.parameter("collection") or ""

    def _account(self, identifier: str | None) -> Account:
        account = self.accounts.find(identifier or "")
        if account is None:
            raise XRPCRefusal(400, "InvalidRequest", f"Could not find repo: {identifier}")
        return account


_OpenMethod = Callable[[Request], Awaitable[Answer]]
_ClosedMethod = Callable[[Request, Caller], Awaitable[Answer]]


def _require_method(request: Request, method: str) -> None:
    if request.method != method:
        raise XRPCRefusal(
            405, "InvalidRequest", f"Incorrect HTTP method ({request.method}) expected {method}"
        )


def _require_active(caller: Caller) -> None:
    if caller.account.status != "active":
        raise XRPCRefusal(401, "AccountDeactivated", "Account is deactivated")


def _missing_scope(scope: str) -> XRPCRefusal:
    return XRPCRefusal(403, "ScopeMissingError", f'Missing required scope "{scope}"')


def _json_body(request: Request) -> JSONObject:
    if request.content_type != "application/json":
        raise XRPCRefusal(
            400, "InvalidRequest", f"Wrong request encoding (Content-Type): {request.content_type}"
        )
    try:
        value: object = json.loads(request.body)
    except ValueError as exc:
        raise XRPCRefusal(400, "InvalidRequest", "Invalid JSON body") from exc
    if not isinstance(value, dict):
        raise XRPCRefusal(400, "InvalidRequest", "Input must be an object")
    return cast("JSONObject", value)


def _text(body: JSONObject, name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise XRPCRefusal(400, "InvalidRequest", f'Input must have the property "{name}"')
    return value
