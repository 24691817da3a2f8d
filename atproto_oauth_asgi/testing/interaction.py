"""What a person's browser does at the authorization server: sign in or up, consent, or cancel."""

from __future__ import annotations

import hmac
from urllib.parse import urlencode

from atproto_oauth_asgi.testing.accounts import Account
from atproto_oauth_asgi.testing.authorization_requests import (
    AuthorizationRequest,
    Denied,
    Unanswerable,
)
from atproto_oauth_asgi.testing.authorization_server import AuthorizationServer
from atproto_oauth_asgi.testing.consent_page import consent_page
from atproto_oauth_asgi.testing.pages import error_page, redirect_answer
from atproto_oauth_asgi.testing.permission_words import explain, optional_scopes
from atproto_oauth_asgi.testing.sign_in_pages import (
    Form,
    choice_page,
    credentials_page,
    handle_page,
    reactivate_page,
    sign_in_page,
)
from atproto_oauth_asgi.testing.sign_up import CreateAccount, SignUp, SignUpRefused, full_handle
from atproto_oauth_asgi.testing.single_sign_on import Remembered, Unmet, hinted, signed_on
from atproto_oauth_asgi.testing.web import Answer, Request

#: What the reference server's page shows a person, whichever of the two is wrong.
_WRONG = "Wrong identifier or password"
_NAVIGATION = {
    "sec-fetch-site": ("same-origin", "same-site", "cross-site", "none"),
    "sec-fetch-mode": ("navigate",),
    "sec-fetch-dest": ("document",),
}
_FORM = {**_NAVIGATION, "sec-fetch-site": ("same-origin",)}


class Interaction:
    """Answers the pages of one authorization server. Forms are bound to the browser's cookie."""

    def __init__(self, server: AuthorizationServer, create_account: CreateAccount) -> None:
        self._server = server
        self._devices = server.devices
        self._sign_up = SignUp(server.accounts, create_account)
        #: Accounts made on the pages: their passwords are their owners'.
        self._own: set[str] = set()
        #: Whether the sign-in page lists the other accounts with their passwords, as a demo does.
        self.show_accounts = False

    async def open(self, request: Request) -> Answer:
        """Show the page that a pushed request has come to."""
        problem = _fetch_problem(request, _NAVIGATION)
        if problem is not None:
            return error_page(problem)
        device = self._devices.find(request) or self._devices.add()
        answer = self._opened(request, device)
        return answer.with_header("set-cookie", self._devices.cookie(device))

    async def sign_in(self, request: Request) -> Answer:
        """Check a password."""
        form = request.form()
        found = self._find(request, form)
        if isinstance(found, Answer):
            return found
        pushed, device = found
        username, remember = form.get("username", ""), "remember" in form
        account = self._server.accounts.find(full_handle(username))
        given = form.get("password", "").encode()
        problem = None
        if account is None or not hmac.compare_digest(account.password.encode(), given):
            problem = _WRONG
        elif account.status == "takendown":
            problem = "Account was taken down"
        if account is None or problem is not None:
            return self._ask_password(pushed, device, username, remember=remember, problem=problem)
        if remember:
            self._devices.remember(device, account.did)
        else:
            self._devices.forget(device, account.did)
        pushed.did = account.did
        return _back_to(pushed)

    async def choose(self, request: Request) -> Answer:
        """Take one of the accounts that are remembered on this device."""
        form = request.form()
        found = self._find(request, form)
        if isinstance(found, Answer):
            return found
        pushed, device = found
        for each in self._remembered(pushed, device):
            if each.account.did == form.get("did"):
                if each.login_required:
                    return self._ask_password(pushed, device, each.account.handle)
                pushed.did = each.account.did
        return _back_to(pushed)

    async def forget(self, request: Request) -> Answer:
        """Forget an account on this device."""
        form = request.form()
        found = self._find(request, form)
        if isinstance(found, Answer):
            return found
        pushed, device = found
        self._devices.forget(device, form.get("did", ""))
        return _back_to(pushed, step="choose")

    async def sign_up(self, request: Request) -> Answer:
        """Make an account, in two steps."""
        form = request.form()
        found = self._find(request, form)
        if isinstance(found, Answer):
            return found
        pushed, device = found
        page = self._form(pushed, device)
        typed = form.get("handle", "")
        try:
            handle = self._sign_up.check_handle(typed)
        except SignUpRefused as exc:
            return handle_page(page, name=typed, problem=exc.sentence)
        email = form.get("email")
        if email is None:
            return credentials_page(page, handle=handle)
        try:
            account = self._sign_up.create(handle, email=email, password=form.get("password", ""))
        except SignUpRefused as exc:
            return credentials_page(page, handle=handle, email=email, problem=exc.sentence)
        self._own.add(account.did)
        pushed.did = account.did
        return _back_to(pushed)

    async def consent(self, request: Request) -> Answer:
        """Take the person's decision."""
        form = request.form()
        found = self._find(request, form)
        if isinstance(found, Answer):
            return found
        pushed, _device = found
        account = self._signed_in(pushed)
        decision = form.get("decision")
        if decision == "switch":
            pushed.did = None
            return _back_to(pushed, step="choose")
        if decision == "reactivate" and account is not None:
            account.status = "active"
            return _back_to(pushed)
        if decision != "allow":
            return redirect_answer(self._server.requests.deny(pushed))
        if account is None:
            return _back_to(pushed)
        kept_back = set[str]() if "email" in form else optional_scopes(pushed.scopes)
        granted = [scope for scope in pushed.scopes if scope not in kept_back]
        return redirect_answer(self._server.accept(pushed, account.did, " ".join(granted)))

    def _find(
        self, request: Request, form: dict[str, str]
    ) -> tuple[AuthorizationRequest, str] | Answer:
        problem = _fetch_problem(request, _FORM)
        if problem is not None:
            return error_page(problem)
        device = self._devices.find(request)
        if device is None:
            return error_page("This page needs cookies.", status=403)
        uri = form.get("request_uri")
        wanted = self._devices.form_token(device, uri or "")
        if not hmac.compare_digest(wanted.encode(), form.get("csrf", "").encode()):
            return error_page("This form was not sent from its own page.", status=403)
        try:
            client_id = self._server.requests.client_id_of(uri)
            return self._server.requests.open(uri, client_id, device=device), device
        except Unanswerable as exc:
            return error_page(exc.message)
        except Denied as exc:
            return redirect_answer(exc.redirection)

    def _opened(self, request: Request, device: str) -> Answer:
        step = request.parameter("step")
        try:
            pushed = self._server.requests.open(
                request.parameter("request_uri"), request.parameter("client_id"), device=device
            )
        except Unanswerable as exc:
            return error_page(exc.message)
        except Denied as exc:
            return redirect_answer(exc.redirection)
        remembered = self._remembered(pushed, device)
        if pushed.did is None and step is None:
            try:
                account = signed_on(pushed, remembered)
            except Unmet as exc:
                denied = self._server.requests.deny(pushed, exc.error, exc.description)
                return redirect_answer(denied)
            if account is not None:
                return redirect_answer(self._server.accept(pushed, account.did))
        return self._show(pushed, device, remembered, step)

    def _show(
        self,
        pushed: AuthorizationRequest,
        device: str,
        remembered: list[Remembered],
        step: str | None,
    ) -> Answer:
        page = self._form(pushed, device)
        if pushed.hint is not None:
            remembered = hinted(pushed, remembered)
            taken = step is None and pushed.prompt not in {"select_account", "create"}
            if taken and remembered and not remembered[0].login_required:
                pushed.did = pushed.did or remembered[0].account.did
        account = self._signed_in(pushed)
        if account is not None and account.status == "deactivated":
            return reactivate_page(page, account)
        if account is not None:
            words = explain(pushed.scopes, included=self._server.included)
            return consent_page(page, account, permissions=words, others=pushed.hint is None)
        if step == "sign-up" or (step is None and pushed.prompt == "create"):
            return handle_page(page)
        if remembered and step != "sign-in" and pushed.hint is None:
            return choice_page(page, remembered=[each.account for each in remembered])
        return self._ask_password(pushed, device, self._shown_hint(pushed))

    def _ask_password(
        self,
        pushed: AuthorizationRequest,
        device: str,
        username: str,
        *,
        remember: bool = False,
        problem: str | None = None,
    ) -> Answer:
        remembered = self._remembered(pushed, device)
        known = any(each.account.handle == full_handle(username) for each in remembered)
        listed = [each for each in self._server.accounts if each.did not in self._own]
        if pushed.hint is not None:
            listed = [each for each in listed if pushed.hint in {each.did, each.handle}]
        return sign_in_page(
            self._form(pushed, device),
            username=username,
            fixed=pushed.hint is not None,
            remembered=remember or (known and problem is None),
            listed=listed if self.show_accounts else (),
            back="choose" if remembered and pushed.hint is None else None,
            problem=problem,
        )

    def _remembered(self, pushed: AuthorizationRequest, device: str) -> list[Remembered]:
        client_id = pushed.client.client_id
        found: list[Remembered] = []
        for did, stale in self._devices.remembered(device).items():
            account = self._server.accounts.find(did)
            if account is not None and account.usable:
                agreed = self._server.consents.covers(did, client_id, pushed.scopes)
                found.append(
                    Remembered(
                        account=account,
                        login_required=stale or pushed.prompt == "login",
                        consent_required=pushed.prompt == "consent" or not agreed,
                    )
                )
        return found

    def _signed_in(self, pushed: AuthorizationRequest) -> Account | None:
        return None if pushed.did is None else self._server.accounts.find(pushed.did)

    def _shown_hint(self, pushed: AuthorizationRequest) -> str:
        """Return the hint as a person knows it: a DID becomes the handle."""
        if pushed.hint is None:
            return ""
        account = self._server.accounts.find(pushed.hint)
        return pushed.hint if account is None else account.handle

    def _form(self, pushed: AuthorizationRequest, device: str) -> Form:
        return Form(request=pushed, token=self._devices.form_token(device, pushed.uri))


def _back_to(pushed: AuthorizationRequest, *, step: str | None = None) -> Answer:
    query = {"client_id": pushed.client.client_id, "request_uri": pushed.uri}
    if step is not None:
        query["step"] = step
    headers = (("location", f"/oauth/authorize?{urlencode(query)}"), ("cache-control", "no-store"))
    return Answer(status=303, headers=headers)


def _fetch_problem(request: Request, allowed: dict[str, tuple[str, ...]]) -> str | None:
    """Refuse anything but a top-level navigation, where the browser says what it is doing.

    Clients that are no browsers say nothing, and hold no cookies that somebody could misuse.
    """
    for name, values in allowed.items():
        given = request.header(name)
        if given is not None and given not in values:
            return f'Forbidden {name} header "{given}" (expected {",".join(values)})'
    return None
