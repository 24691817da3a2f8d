"""Sessions of one authorization server and their tokens: single-use refresh, no grace period."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from atproto_oauth_asgi.testing.client_authentication import ClientAuth
from atproto_oauth_asgi.testing.web import JSONObject, OAuthRefusal

_DAY = 86_400.0
_PUBLIC_LIFE = 14 * _DAY
_PUBLIC_IDLE = 14 * _DAY
_CONFIDENTIAL_LIFE = 730 * _DAY
_CONFIDENTIAL_IDLE = 91 * _DAY
_MOST = 50_000
_MOST_SPENT = 1_000
_REFRESH_TOKEN = re.compile(r"ref-[0-9a-f]{64}")


class TokenRefused(Exception):
    """Says why an access token is not accepted."""

    def __init__(self, message: str, error: str = "invalid_token") -> None:
        super().__init__(message)
        self.message = message
        self.error = error


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Is whom a code or a session belongs to, or who uses it."""

    client_id: str
    client_auth: ClientAuth
    #: Thumbprint of the DPoP key; `None` where there was no proof.
    jkt: str | None

    def check(self, user: Binding) -> None:
        """Refuse a user to whom this does not belong.

        Raises:
            OAuthRefusal: `invalid_grant`.
        """
        if self.client_id != user.client_id:
            raise OAuthRefusal("invalid_grant", "Token was not issued to this client")
        if self.jkt is not None and user.jkt is None:
            raise OAuthRefusal("invalid_grant", "DPoP proof is required for this request")
        if self.jkt not in {None, user.jkt}:
            raise OAuthRefusal("invalid_grant", "DPoP proof does not match the expected JKT")
        # A client that was public may become confidential, never the other way round.
        if self.client_auth not in {user.client_auth, ClientAuth(method="none")}:
            raise OAuthRefusal(
                "invalid_grant",
                "The session was initiated with a different key than the client assertion "
                "currently used",
            )


@dataclass(slots=True, kw_only=True)
class Session:
    """Is one grant. A refresh changes its tokens, never its bindings."""

    id: str
    did: str
    client_id: str
    client_auth: ClientAuth
    #: Thumbprint of the DPoP key.
    jkt: str
    scope: str
    created: float
    refreshed: float
    access_expires: float
    refreshable: bool
    code: str = field(repr=False)
    #: The browser that the person consented in, if there was one.
    device: str | None = None
    #: Name of the one access token that lives.
    token_id: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)
    spent: deque[str] = field(default_factory=deque[str], repr=False)

    @property
    def binding(self) -> Binding:
        """Return whom the session belongs to."""
        return Binding(client_id=self.client_id, client_auth=self.client_auth, jkt=self.jkt)


class Sessions:
    """Makes, refreshes, checks and ends sessions."""

    def __init__(
        self, *, issuer: Callable[[], str], clock: Callable[[], float], token_life: float
    ) -> None:
        self.token_life = token_life
        self._issuer = issuer
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._sessions: dict[str, Session] = {}
        #: Every refresh token that is known, used ones included → session id.
        self._by_refresh: dict[str, str] = {}
        self._by_code: dict[str, str] = {}
        self._by_token_id: dict[str, str] = {}

    def of(self, did: str | None = None) -> list[Session]:
        """Return the live sessions, of one account if it is given."""
        return [found for found in self._sessions.values() if did in {None, found.did}]

    def start(
        self,
        *,
        did: str,
        client_id: str,
        client_auth: ClientAuth,
        jkt: str,
        scope: str,
        code: str,
        refreshable: bool,
        device: str | None = None,
    ) -> tuple[Session, JSONObject]:
        """Make a session and return it with the body of the token response."""
        while len(self._sessions) >= _MOST:
            self.end(next(iter(self._sessions)))
        now = self._clock()
        session = Session(
            id="tok-" + secrets.token_hex(16),
            did=did,
            client_id=client_id,
            client_auth=client_auth,
            jkt=jkt,
            scope=scope,
            created=now,
            refreshed=now,
            access_expires=now,
            refreshable=refreshable,
            code=code,
            device=device,
        )
        self._sessions[session.id] = session
        self._by_code[code] = session.id
        return session, self._issue(session)

    def find_by_refresh_token(self, token: str) -> Session:
        """Return the session of a refresh token, used or not.

        Raises:
            OAuthRefusal: `invalid_grant`.
        """
        problems: list[str] = []
        if len(token) != 68:
            problems.append("String must contain exactly 68 character(s) at refresh_token")
        if _REFRESH_TOKEN.fullmatch(token) is None:
            problems.append("Invalid refresh token format at refresh_token")
        if problems:
            raise OAuthRefusal("invalid_grant", "Invalid refresh token: " + "; ".join(problems))
        session = self._sessions.get(self._by_refresh.get(token, ""))
        if session is None:
            raise OAuthRefusal("invalid_grant", "Invalid refresh token")
        return session

    def refresh(self, session: Session, *, token: str, by: Binding) -> JSONObject:
        """Rotate the tokens; whatever is wrong ends the session.

        Raises:
            OAuthRefusal: `invalid_grant`.
        """
        try:
            if session.refresh_token != token:
                raise OAuthRefusal("invalid_grant", "Refresh token replayed")
            session.binding.check(by)
            self._check_age(session)
        except OAuthRefusal:
            self.end(session.id)
            raise
        return self._issue(session)

    def find(self, token: str) -> Session | None:
        """Return the session of a refresh or access token."""
        known = self._sessions.get(self._by_refresh.get(token, ""))
        if known is not None:
            return known
        try:
            claims = self._claims(token)
        except TokenRefused:
            return None
        return self._of_access_token(claims)

    def end(self, session_id: str) -> None:
        """Delete a session: its refresh token and its access token die."""
        session = self._sessions.pop(session_id, None)
        if session is None:
            return
        self._by_code.pop(session.code, None)
        self._by_token_id.pop(session.token_id, None)
        for token in (*session.spent, session.refresh_token):
            self._by_refresh.pop(token, None)

    def end_by_code(self, code: str) -> Session | None:
        """Delete the session that a code made (RFC 6749 §4.1.2), and return it."""
        session = self._sessions.get(self._by_code.get(code, ""))
        if session is not None:
            self.end(session.id)
        return session

    def check_access_token(self, token: str) -> Session:
        """Return the session of a live access token.

        Raises:
            TokenRefused: It is forged, of another server, expired, or dead by now.
        """
        claims = self._claims(token)
        if claims.get("iss") != self._issuer():
            raise TokenRefused('unexpected "iss" claim value')
        session = self._of_access_token(claims)
        if session is None:
            raise TokenRefused("Invalid token")
        if session.access_expires <= self._clock():
            raise TokenRefused('"exp" claim timestamp check failed')
        return session

    def expire_access_tokens(self, did: str | None = None) -> None:
        """Let the access tokens of an account, or of all, expire at once; sessions live on."""
        for session in self.of(did):
            session.access_expires = self._clock()

    def _check_age(self, session: Session) -> None:
        public = session.client_auth.method == "none"
        now = self._clock()
        if now - session.created > (_PUBLIC_LIFE if public else _CONFIDENTIAL_LIFE):
            raise OAuthRefusal("invalid_grant", "Session expired")
        if now - session.refreshed > (_PUBLIC_IDLE if public else _CONFIDENTIAL_IDLE):
            raise OAuthRefusal("invalid_grant", "Refresh token expired")

    def _issue(self, session: Session) -> JSONObject:
        now = self._clock()
        session.refreshed = now
        session.access_expires = now + self.token_life
        self._by_token_id.pop(session.token_id, None)
        session.token_id = "tid-" + secrets.token_hex(16)
        self._by_token_id[session.token_id] = session.id
        if session.refresh_token:
            session.spent.append(session.refresh_token)
            if len(session.spent) > _MOST_SPENT:
                self._by_refresh.pop(session.spent.popleft(), None)
        body: JSONObject = {"access_token": self._access_token(session), "token_type": "DPoP"}
        if session.refreshable:
            session.refresh_token = "ref-" + secrets.token_hex(32)
            self._by_refresh[session.refresh_token] = session.id
            body["refresh_token"] = session.refresh_token
        body["scope"] = session.scope
        body["expires_in"] = int(self.token_life)
        body["sub"] = session.did
        return body

    def _access_token(self, session: Session) -> str:
        claims = {
            "iss": self._issuer(),
            "sub": session.did,
            "aud": self._issuer(),
            "jti": session.token_id,
            "scope": session.scope,
            "client_id": session.client_id,
            "cnf": {"jkt": session.jkt},
            "iat": int(session.refreshed),
            "exp": int(session.access_expires),
        }
        signed = f"{_encode({'typ': 'at+jwt', 'alg': 'HS256'})}.{_encode(claims)}"
        return f"{signed}.{self._signature(signed)}"

    def _claims(self, token: str) -> JSONObject:
        signed, _, signature = token.rpartition(".")
        try:
            payload: object = json.loads(_decode(signed.partition(".")[2]))
        except ValueError as exc:
            raise TokenRefused("Malformed token") from exc
        if not isinstance(payload, dict):
            raise TokenRefused("Malformed token")
        claims = cast("JSONObject", payload)
        if not hmac.compare_digest(self._signature(signed).encode(), signature.encode()):
            raise TokenRefused("signature verification failed")
        return claims

    def _of_access_token(self, claims: JSONObject) -> Session | None:
        return self._sessions.get(self._by_token_id.get(str(claims.get("jti")), ""))

    def _signature(self, signed: str) -> str:
        mac = hmac.new(self._secret, signed.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


def _encode(value: object) -> str:
    data = json.dumps(value, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
