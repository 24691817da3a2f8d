from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from atproto_oauth_asgi.testing.accounts import Accounts
from atproto_oauth_asgi.testing.authorization_requests import (
    AuthorizationRequest,
    AuthorizationRequests,
    Redirection,
)
from atproto_oauth_asgi.testing.client_authentication import ClientAuth, ClientAuthenticator
from atproto_oauth_asgi.testing.client_metadata import ClientMetadata
from atproto_oauth_asgi.testing.client_registry import ClientRegistry
from atproto_oauth_asgi.testing.consents import Consents
from atproto_oauth_asgi.testing.devices import Devices
from atproto_oauth_asgi.testing.dpop_verifier import DPoPRefused, DPoPVerifier, Proof, challenge
from atproto_oauth_asgi.testing.faults import Faults
from atproto_oauth_asgi.testing.permission_sets import PermissionSets
from atproto_oauth_asgi.testing.replay_cache import ReplayCache
from atproto_oauth_asgi.testing.request_log import Endpoint, RequestLog, RequestRecord, sha256_hex
from atproto_oauth_asgi.testing.request_validation import (
    check_authorization_request,
    check_authorization_syntax,
    check_credentials,
    check_token_request,
    read_form,
)
from atproto_oauth_asgi.testing.sessions import Binding, Session, Sessions
from atproto_oauth_asgi.testing.web import (
    Answer,
    ConnectionDropped,
    JSONObject,
    OAuthRefusal,
    Request,
    json_answer,
)

_CODE = re.compile(r"cod-[0-9a-f]{64}")
_CHALLENGE_LIFE = 86_400.0


@dataclass(slots=True, kw_only=True)
class _Trace:
    """Gathers what the log says of one request while it is processed."""

    grant: str | None = None
    client_id: str | None = None
    session_id: str | None = None
    refresh_token: str | None = None


_Endpoint = Callable[[Request, dict[str, str], _Trace], Awaitable[JSONObject]]


class AuthorizationServer:
    """Answers PAR, token and revocation requests (RFC 9126, RFC 6749, RFC 7009, RFC 9449)."""

    def __init__(
        self,
        *,
        issuer: Callable[[], str],
        accounts: Accounts,
        registry: ClientRegistry,
        verifier: DPoPVerifier,
        faults: Faults,
        log: RequestLog,
        permission_sets: PermissionSets,
        clock: Callable[[], float],
        token_life: float,
    ) -> None:
        self.accounts = accounts
        self.requests = AuthorizationRequests(issuer=issuer, clock=clock)
        self.sessions = Sessions(issuer=issuer, clock=clock, token_life=token_life)
        self.registry = registry
        self.consents = Consents()
        self.devices = Devices(issuer=issuer, clock=clock)
        self._issuer = issuer
        self._verifier = verifier
        self._faults = faults
        self._log = log
        self._permission_sets = permission_sets
        self._clock = clock
        self._authenticator = ClientAuthenticator(registry=registry, issuer=issuer, clock=clock)
        self._challenges = ReplayCache(clock)

    @property
    def issuer(self) -> str:
        """Return the issuer identifier."""
        return self._issuer()

    async def par(self, request: Request) -> Answer:
        """Answer a pushed authorization request."""
        return await self._answer("par", request, self._par)

    async def token(self, request: Request) -> Answer:
        """Answer a token request."""
        return await self._answer("token", request, self._token)

    async def revoke(self, request: Request) -> Answer:
        """Answer a revocation request: 200 whatever happens to the token."""
        return await self._answer("revoke", request, self._revoke)

    def accept(
        self, request: AuthorizationRequest, did: str, scope: str | None = None
    ) -> Redirection:
        """Give out a code as if the person had consented to `scope`, by default to all of it."""
        account = self.accounts.find(did)
        if account is None or account.status == "takendown":
            return self.requests.deny(request, description="This account is not available")
        if account.status == "deactivated":
            return self.requests.deny(request, description="This account has been deactivated")
        allowed = request.scopes if scope is None else tuple(scope.split())
        granted = [value for value in request.scopes if value in allowed]
        if "atproto" not in granted:
            return self.requests.deny(request, description='The "atproto" scope is required')
        self.consents.add(request, did)
        return self.requests.accept(request, did, " ".join(self._permission_sets.expand(granted)))

    def included(self, scope: str) -> tuple[str, ...]:
        """Return the scopes that an `include:` scope stands for."""
        return tuple(self._permission_sets.expand([scope]))

    async def _par(self, request: Request, form: dict[str, str], _trace: _Trace) -> JSONObject:
        check_credentials(form)
        check_authorization_syntax(form)
        proof = self._check_proof(request)
        client, auth = await self._authenticator.authenticate(form)
        redirect_uri = check_authorization_request(
            form, client, resolves=self._permission_sets.__contains__
        )
        stated = form.get("dpop_jkt")
        if proof is not None and stated not in {None, proof.jkt}:
            problem = "Invalid DPoP key binding"
            header = challenge("invalid_token", problem)
            raise OAuthRefusal("invalid_token", problem, status=401, headers=(header,))
        pushed = self.requests.push(
            client=client,
            client_auth=auth,
            redirect_uri=redirect_uri,
            parameters=form,
            jkt=stated if proof is None else proof.jkt,
        )
        return {"request_uri": pushed.uri, "expires_in": self.requests.seconds_left(pushed)}

    async def _token(self, request: Request, form: dict[str, str], trace: _Trace) -> JSONObject:
        grant = trace.grant = form.get("grant_type")
        check_credentials(form)
        check_token_request(form)
        proof = self._check_proof(request)
        await self._faults.before(grant)
        try:
            body = await self._grant(form, proof, trace)
        except OAuthRefusal:
            await self._faults.after(grant, succeeded=False)
            raise
        await self._faults.after(grant, succeeded=True)
        return body

    async def _grant(self, form: dict[str, str], proof: Proof | None, trace: _Trace) -> JSONObject:
        client, auth = await self._authenticator.authenticate(form)
        if proof is None:
            raise self._refused_proof(DPoPRefused("invalid_dpop_proof", "DPoP proof required"))
        if form["grant_type"] not in {"authorization_code", "refresh_token"}:
            raise OAuthRefusal(
                "invalid_grant",
                f'Grant type "{form["grant_type"]}" is not supported by the server',
            )
        if form["grant_type"] not in client.grant_types:
            raise OAuthRefusal(
                "invalid_grant", f'"{form["grant_type"]}" is not allowed for this client'
            )
        if form["grant_type"] == "authorization_code":
            return self._exchange(form, client, auth, proof.jkt, trace)
        token = form["refresh_token"]
        session = self.sessions.find_by_refresh_token(token)
        trace.session_id = session.id
        return self.sessions.refresh(
            session,
            token=token,
            by=Binding(client_id=client.client_id, client_auth=auth, jkt=proof.jkt),
        )

    def _exchange(
        self,
        form: dict[str, str],
        client: ClientMetadata,
        auth: ClientAuth,
        jkt: str,
        trace: _Trace,
    ) -> JSONObject:
        code = form["code"]
        problems: list[str] = []
        if len(code) != 68:
            problems.append("String must contain exactly 68 character(s) at code")
        if _CODE.fullmatch(code) is None:
            problems.append("Invalid code format at code")
        if problems:
            raise OAuthRefusal("invalid_grant", "Invalid code: " + "; ".join(problems))
        request = self.requests.take_code(code)
        if request is None:
            replayed = self.sessions.end_by_code(code)
            if replayed is not None:
                trace.session_id = replayed.id
                # Whoever has the code may have been at the browser too.
                self.devices.forget(replayed.device, replayed.did)
            raise OAuthRefusal("invalid_grant", "Invalid code")
        self._check_exchange(request, form, client, auth, jkt)
        session, body = self.sessions.start(
            did=request.did or "",
            client_id=client.client_id,
            client_auth=auth,
            jkt=jkt,
            scope=request.scope,
            code=code,
            refreshable="refresh_token" in client.grant_types,
            device=request.device,
        )
        trace.session_id = session.id
        return body

    def _check_exchange(
        self,
        request: AuthorizationRequest,
        form: dict[str, str],
        client: ClientMetadata,
        auth: ClientAuth,
        jkt: str,
    ) -> None:
        if request.expires <= self._clock():
            raise OAuthRefusal("invalid_grant", "This code has expired")
        bound = Binding(
            client_id=request.client.client_id, client_auth=request.client_auth, jkt=request.jkt
        )
        bound.check(Binding(client_id=client.client_id, client_auth=auth, jkt=jkt))
        if form["redirect_uri"] != request.redirect_uri:
            raise OAuthRefusal(
                "invalid_grant",
                "The redirect_uri parameter must match the one used in the authorization request",
            )
        if not form.get("code_verifier"):
            raise OAuthRefusal("invalid_grant", "code_verifier is required")
        wanted = request.parameters["code_challenge"]
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge_made = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if not hmac.compare_digest(wanted, challenge_made):
            raise OAuthRefusal("invalid_grant", "Invalid code_verifier")
        if not self._challenges.first_use(wanted, seconds=_CHALLENGE_LIFE):
            raise OAuthRefusal("invalid_grant", "Code challenge already used")

    async def _revoke(self, request: Request, form: dict[str, str], trace: _Trace) -> JSONObject:
        check_credentials(form)
        if not form.get("token"):
            raise OAuthRefusal(
                "invalid_request",
                "Invalid request payload: Required at body.token, or Required at body.token",
            )
        proof = self._check_proof(request)
        session: Session | None = self.sessions.find(form["token"])
        try:
            client, auth = await self._authenticator.authenticate(form)
            if session is not None:
                jkt = None if proof is None else proof.jkt
                session.binding.check(
                    Binding(client_id=client.client_id, client_auth=auth, jkt=jkt)
                )
                trace.session_id = session.id
                self.sessions.end(session.id)
        except OAuthRefusal:
            # The reference server logs this and says nothing: the token lives on.
            return {}
        return {}

    def _check_proof(self, request: Request) -> Proof | None:
        try:
            return self._verifier.check(
                method=request.method,
                url=self._issuer() + request.path,
                proofs=request.headers.get("dpop", []),
            )
        except DPoPRefused as refused:
            raise self._refused_proof(refused) from refused

    @staticmethod
    def _refused_proof(refused: DPoPRefused) -> OAuthRefusal:
        if refused.error == "use_dpop_nonce":
            return OAuthRefusal(refused.error, refused.message)
        header = challenge(refused.error, refused.message)
        return OAuthRefusal(refused.error, refused.message, status=401, headers=(header,))

    async def _answer(self, endpoint: Endpoint, request: Request, handler: _Endpoint) -> Answer:
        trace = _Trace()
        delivered = True
        status, error = 201 if endpoint == "par" else 200, None
        try:
            form = read_form(request)
            trace.client_id = form.get("client_id")
            if endpoint != "par":
                trace.refresh_token = form.get("refresh_token", form.get("token"))
            answer = json_answer(status, await handler(request, form, trace))
        except OAuthRefusal as refused:
            status, error = refused.status, refused.error
            answer = refused.answer()
        except ConnectionDropped:
            delivered = False
            raise
        finally:
            self._log.add(
                RequestRecord(
                    time=self._clock(),
                    server=self._issuer(),
                    endpoint=endpoint,
                    name=trace.grant,
                    client_id=trace.client_id,
                    session_id=trace.session_id,
                    refresh_token_sha256=trace.refresh_token and sha256_hex(trace.refresh_token),
                    status=status,
                    error=error,
                    delivered=delivered,
                )
            )
        kept = replace(answer, headers=(*answer.headers, ("cache-control", "no-store")))
        return kept.with_header("dpop-nonce", self._verifier.nonces.current())
