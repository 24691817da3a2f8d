"""What a person's browser does at the authorization server: sign in, consent, or cancel."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from urllib.parse import parse_qs, urlencode

from atproto_oauth_asgi.testing.accounts import Account
from atproto_oauth_asgi.testing.authorization_requests import (
    AuthorizationRequest,
    Denied,
    Unanswerable,
)
from atproto_oauth_asgi.testing.authorization_server import AuthorizationServer
from atproto_oauth_asgi.testing.pages import (
    consent_page,
    error_page,
    optional,
    redirect_answer,
    sign_in_page,
)
from atproto_oauth_asgi.testing.web import Answer, Request

_COOKIE = "network-device"
_DEVICE = re.compile(r"dev-[0-9a-f]{32}")
#: Errors of a prompt that needs a remembered account; this browser remembers none.
_UNMET = {
    "none": ("login_required", "Login is required"),
    "select_account": ("account_selection_required", "Account selection required"),
}


class Interaction:
    """Answers the pages of one authorization server. Forms are bound to the browser's cookie."""

    def __init__(self, server: AuthorizationServer) -> None:
        self._server = server
        self._secret = secrets.token_bytes(32)
        #: Whether the sign-in page lists the accounts with their passwords, as a demo does.
        self.show_accounts = False

    async def open(self, request: Request) -> Answer:
        """Show the page that a pushed request has come to."""
        problem = _fetch_problem(request)
        if problem is not None:
            return error_page(problem)
        device = self._device(request) or "dev-" + secrets.token_hex(16)
        try:
            pushed = self._server.requests.open(
                request.parameter("request_uri"), request.parameter("client_id"), device=device
            )
        except Unanswerable as exc:
            return error_page(exc.message)
        except Denied as exc:
            return redirect_answer(exc.redirection)
        unmet = _UNMET.get(pushed.parameters.get("prompt", ""))
        if unmet is not None and pushed.did is None:
            return redirect_answer(self._server.requests.deny(pushed, *unmet))
        secure = "; Secure" if self._server.issuer.startswith("https:") else ""
        cookie = f"{_COOKIE}={device}; Path=/oauth/authorize; HttpOnly; SameSite=Lax{secure}"
        return self._show(pushed, device).with_header("set-cookie", cookie)

    async def sign_in(self, request: Request) -> Answer:
        """Check a password."""
        form = request.form()
        found = self._find(request, form)
        if isinstance(found, Answer):
            return found
        pushed, device = found
        account = self._server.accounts.find(form.get("username", ""))
        given = form.get("password", "").encode()
        if account is None or not hmac.compare_digest(account.password.encode(), given):
            return sign_in_page(
                pushed,
                csrf=self._csrf(pushed, device),
                accounts=self._listed(),
                username=form.get("username", ""),
                problem="Invalid identifier or password",
            )
        pushed.did = account.did
        return _back_to(pushed)

    async def consent(self, request: Request) -> Answer:
        """Take the person's decision."""
        form = request.form()
        found = self._find(request, form)
        if isinstance(found, Answer):
            return found
        pushed, _device = found
        decision = form.get("decision")
        if decision == "switch":
            pushed.did = None
            return _back_to(pushed)
        if decision != "allow":
            return redirect_answer(self._server.requests.deny(pushed))
        if pushed.did is None:
            return _back_to(pushed)
        ticked = parse_qs(request.body.decode("utf-8", "replace")).get("scope", [])
        granted = [scope for scope in pushed.scopes if not optional(scope) or scope in ticked]
        return redirect_answer(self._server.accept(pushed, pushed.did, " ".join(granted)))

    def _find(
        self, request: Request, form: dict[str, str]
    ) -> tuple[AuthorizationRequest, str] | Answer:
        device = self._device(request)
        if device is None:
            return error_page("This page needs cookies.", status=403)
        uri = form.get("request_uri")
        wanted = self._csrf_for(uri or "", device)
        if not hmac.compare_digest(wanted.encode(), form.get("csrf", "").encode()):
            return error_page("This form was not sent from its own page.", status=403)
        try:
            client_id = self._server.requests.client_id_of(uri)
            return self._server.requests.open(uri, client_id, device=device), device
        except Unanswerable as exc:
            return error_page(exc.message)
        except Denied as exc:
            return redirect_answer(exc.redirection)

    def _show(self, pushed: AuthorizationRequest, device: str) -> Answer:
        csrf = self._csrf(pushed, device)
        account = self._server.accounts.find(pushed.did or "")
        if account is not None:
            return consent_page(pushed, account, csrf=csrf)
        return sign_in_page(
            pushed,
            csrf=csrf,
            accounts=self._listed(),
            username=pushed.parameters.get("login_hint", ""),
        )

    def _listed(self) -> list[Account]:
        return list(self._server.accounts) if self.show_accounts else []

    def _csrf(self, pushed: AuthorizationRequest, device: str) -> str:
        return self._csrf_for(pushed.uri, device)

    def _csrf_for(self, request_uri: str, device: str) -> str:
        message = f"{device} {request_uri}".encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()

    @staticmethod
    def _device(request: Request) -> str | None:
        value = request.cookie(_COOKIE)
        return value if value is not None and _DEVICE.fullmatch(value) else None


def _back_to(pushed: AuthorizationRequest) -> Answer:
    query = urlencode({"client_id": pushed.client.client_id, "request_uri": pushed.uri})
    return Answer(status=303, headers=(("location", f"/oauth/authorize?{query}"),))


def _fetch_problem(request: Request) -> str | None:
    """Refuse anything but a top-level navigation, where the browser says what it is doing."""
    for name, wanted in (("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")):
        given = request.header(name)
        if given is not None and given != wanted:
            return f'Forbidden {name} header "{given}" (expected "{wanted}")'
    return None
