"""Authorization requests from PAR to the code: what a person is asked, and what becomes of it."""

from __future__ import annotations

import html
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

from atproto_oauth_asgi.testing.client_authentication import ClientAuth
from atproto_oauth_asgi.testing.client_metadata import ClientMetadata
from atproto_oauth_asgi.testing.permissions import is_understood

PREFIX = "urn:ietf:params:oauth:request_uri:"

#: Seconds that a request lives from PAR, from each page view, and that a code lives.
LIFE = 300.0
_KEPT_AFTER_EXPIRY = 3600.0
_MOST = 10_000
_ID = re.compile(r"req-[0-9a-f]{32}")


class Unanswerable(Exception):
    """Says why a person gets a page of the server's own and is not sent back to the app."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirection:
    """Is how a person is sent back to the app."""

    redirect_uri: str
    mode: str
    parameters: Mapping[str, str] = field(repr=False)

    @property
    def url(self) -> str:
        """Return the URL to open; for `form_post` the URL that the same fields are posted to."""
        if self.mode == "form_post":
            return self.redirect_uri
        if self.mode == "fragment":
            return f"{self.redirect_uri}#{urlencode(self.parameters)}"
        mark = "&" if "?" in self.redirect_uri else "?"
        return f"{self.redirect_uri}{mark}{urlencode(self.parameters)}"

    def fields(self) -> str:
        """Return the parameters as hidden form fields."""
        return "".join(
            f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">'
            for name, value in self.parameters.items()
        )


@dataclass(slots=True, kw_only=True)
class AuthorizationRequest:
    """Is one pushed request."""

    id: str
    client: ClientMetadata
    client_auth: ClientAuth
    redirect_uri: str
    parameters: Mapping[str, str] = field(repr=False)
    expires: float
    #: Thumbprint of the DPoP key of the PAR, when it had a proof.
    jkt: str | None
    #: The browser that opened the request first.
    device: str | None = None
    #: The account that signed in on the page.
    did: str | None = None
    code: str | None = field(default=None, repr=False)
    scope: str = ""

    @property
    def uri(self) -> str:
        """Return the `request_uri`."""
        return PREFIX + self.id

    @property
    def scopes(self) -> tuple[str, ...]:
        """Return the scopes asked for that the server knows, each once."""
        asked = dict.fromkeys(self.parameters.get("scope", "atproto").split(" "))
        return tuple(scope for scope in asked if is_understood(scope))

    @property
    def prompt(self) -> str | None:
        """Return the prompt that counts: public clients are made to ask for consent each time."""
        given = self.parameters.get("prompt")
        return given if self.client.auth_method != "none" or given == "create" else "consent"

    @property
    def hint(self) -> str | None:
        """Return the handle or DID that the app expects to sign in."""
        return self.parameters.get("login_hint", "").lower() or None


class Denied(Exception):
    """Says that the person is sent back with an error; the request is gone."""

    def __init__(self, redirection: Redirection) -> None:
        super().__init__()
        self.redirection = redirection


class AuthorizationRequests:
    """Holds the requests of one authorization server."""

    def __init__(self, *, issuer: Callable[[], str], clock: Callable[[], float]) -> None:
        self._issuer = issuer
        self._clock = clock
        self._requests: dict[str, AuthorizationRequest] = {}

    def push(
        self,
        *,
        client: ClientMetadata,
        client_auth: ClientAuth,
        redirect_uri: str,
        parameters: Mapping[str, str],
        jkt: str | None,
    ) -> AuthorizationRequest:
        """Keep a request whose parameters were checked."""
        self._prune()
        request = AuthorizationRequest(
            id="req-" + secrets.token_hex(16),
            client=client,
            client_auth=client_auth,
            redirect_uri=redirect_uri,
            parameters=dict(parameters),
            expires=self._clock() + LIFE,
            jkt=jkt,
        )
        self._requests[request.id] = request
        return request

    def seconds_left(self, request: AuthorizationRequest) -> int:
        """Return the `expires_in` of a request."""
        return int(request.expires - self._clock())

    def open(
        self, request_uri: str | None, client_id: str | None, *, device: str | None = None
    ) -> AuthorizationRequest:
        """Find the request that a person's browser brings, and let it live on.

        Raises:
            Unanswerable: There is no such request.
            Denied: The request may not be used any more, or not by this client or browser.
        """
        identifier = (request_uri or "").removeprefix(PREFIX)
        if _ID.fullmatch(identifier) is None or request_uri == identifier:
            raise Unanswerable("Invalid request_uri")
        request = self._requests.get(identifier)
        if request is None:
            raise Unanswerable("This sign-in session has expired")
        if client_id is None:
            raise Unanswerable("Invalid client_id")
        if request.code is not None:
            self._refuse(request, "This request was already authorized")
        if request.expires <= self._clock():
            self._refuse(request, "This request has expired")
        if request.client.client_id != client_id:
            self._refuse(request, "This request was initiated for another client")
        if device is not None:
            if request.device not in {None, device}:
                self._refuse(request, "This request was initiated from another device")
            request.device = device
        request.expires = self._clock() + LIFE
        return request

    def client_id_of(self, request_uri: str | None) -> str | None:
        """Return whose request this is."""
        request = self._requests.get((request_uri or "").removeprefix(PREFIX))
        return None if request is None else request.client.client_id

    def accept(self, request: AuthorizationRequest, did: str, scope: str) -> Redirection:
        """Give out a code for an account and a granted scope."""
        request.did = did
        request.scope = scope
        request.code = "cod-" + secrets.token_hex(32)
        request.expires = self._clock() + LIFE
        return self._redirection(request, {"code": request.code})

    def deny(
        self,
        request: AuthorizationRequest,
        error: str = "access_denied",
        description: str = "The user rejected the request",
    ) -> Redirection:
        """End a request with an error."""
        self._requests.pop(request.id, None)
        return self._redirection(request, {"error": error, "error_description": description})

    def take_code(self, code: str) -> AuthorizationRequest | None:
        """Return the request of a code and forget both: whatever follows, the code is used."""
        for request in self._requests.values():
            if request.code == code:
                return self._requests.pop(request.id)
        return None

    def _refuse(self, request: AuthorizationRequest, description: str) -> None:
        raise Denied(self.deny(request, description=description))

    def _redirection(
        self, request: AuthorizationRequest, parameters: Mapping[str, str]
    ) -> Redirection:
        state = request.parameters.get("state")
        known = {} if state is None else {"state": state}
        return Redirection(
            redirect_uri=request.redirect_uri,
            mode=request.parameters.get("response_mode", "query"),
            parameters={**known, "iss": self._issuer(), **parameters},
        )

    def _prune(self) -> None:
        # Oldest first: page views only ever move an expiry a little.
        limit = self._clock() - _KEPT_AFTER_EXPIRY
        while self._requests:
            oldest = next(iter(self._requests.values()))
            if oldest.expires > limit and len(self._requests) < _MOST:
                return
            del self._requests[oldest.id]
