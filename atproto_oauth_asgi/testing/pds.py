from __future__ import annotations

from collections.abc import Awaitable, Callable

from atproto_oauth_asgi.testing.account_methods import AccountMethods
from atproto_oauth_asgi.testing.accounts import Accounts
from atproto_oauth_asgi.testing.dpop_verifier import DPoPRefused, DPoPVerifier, challenge
from atproto_oauth_asgi.testing.record_methods import RecordMethods
from atproto_oauth_asgi.testing.repository import Repository
from atproto_oauth_asgi.testing.request_log import RequestLog, RequestRecord
from atproto_oauth_asgi.testing.sessions import Sessions, TokenRefused
from atproto_oauth_asgi.testing.web import (
    Answer,
    JSONObject,
    Request,
    XRPCRefusal,
    json_answer,
)
from atproto_oauth_asgi.testing.xrpc import Caller, invalid, require_method


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
        records = self._records = RecordMethods(accounts=accounts, clock=clock)
        account = AccountMethods(accounts=accounts, clock=clock)
        self._open: dict[str, _OpenMethod] = {
            "_health": self._health,
            "com.atproto.server.describeServer": self._describe_server,
            "com.atproto.identity.resolveHandle": self._resolve_handle,
            "com.atproto.repo.getRecord": records.get,
            "com.atproto.repo.listRecords": records.list,
            "com.atproto.sync.getBlob": records.get_blob,
        }
        self._closed: dict[str, tuple[str, _ClosedMethod]] = {
            "com.atproto.server.getSession": ("GET", account.get_session),
            "com.atproto.server.getServiceAuth": ("GET", account.get_service_auth),
            "com.atproto.server.deactivateAccount": ("POST", account.deactivate),
            "com.atproto.server.activateAccount": ("POST", account.activate),
            "com.atproto.server.requestEmailUpdate": ("POST", account.email_refused),
            "com.atproto.identity.updateHandle": ("POST", account.update_handle),
            "com.atproto.repo.createRecord": ("POST", records.create),
            "com.atproto.repo.putRecord": ("POST", records.put),
            "com.atproto.repo.deleteRecord": ("POST", records.delete),
            "com.atproto.repo.applyWrites": ("POST", records.apply_writes),
            "com.atproto.repo.uploadBlob": ("POST", records.upload_blob),
        }

    def repository(self, did: str) -> Repository:
        """Return the repository of an account."""
        return self._records.repository(did)

    async def xrpc(self, request: Request) -> Answer:
        """Answer an XRPC call."""
        nsid = request.path.removeprefix("/xrpc/")
        session_id: str | None = None
        error: str | None = None
        try:
            if nsid in self._open:
                require_method(request, "GET")
                answer = await self._open[nsid](request)
            else:
                method, handler = self._closed.get(nsid, (request.method, self._proxy))
                require_method(request, method)
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
        if account is None or account.handle != handle or account.handle_proof == "none":
            raise XRPCRefusal(400, "HandleNotFound", "Unable to resolve handle")
        return json_answer(200, {"did": account.did})

    async def _proxy(self, request: Request, _caller: Caller) -> Answer:
        nsid = request.path.removeprefix("/xrpc/")
        raise invalid(f"No service configured for {nsid}")


_OpenMethod = Callable[[Request], Awaitable[Answer]]
_ClosedMethod = Callable[[Request, Caller], Awaitable[Answer]]
