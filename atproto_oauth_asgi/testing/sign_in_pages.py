"""Pages that ask who the person is: sign-in, account choice, sign-up, reactivation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from urllib.parse import urlencode, urlsplit

from atproto_oauth_asgi.testing.accounts import Account
from atproto_oauth_asgi.testing.authorization_requests import AuthorizationRequest
from atproto_oauth_asgi.testing.pages import alert, page
from atproto_oauth_asgi.testing.web import Answer

#: What every handle ends with that is made on the sign-up page.
HANDLE_DOMAIN = ".test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Is what the forms of one page carry along."""

    request: AuthorizationRequest
    token: str = field(repr=False)

    def open(self, action: str) -> str:
        """Return the beginning of a form."""
        return (
            f'<form method="post" action="/oauth/authorize/{action}">'
            f'<input type="hidden" name="request_uri" value="{escape(self.request.uri)}">'
            f'<input type="hidden" name="csrf" value="{escape(self.token)}">'
        )

    def link(self, step: str) -> str:
        """Return the address of another page for the same request."""
        query = {"client_id": self.request.client.client_id, "request_uri": self.request.uri}
        return escape(f"/oauth/authorize?{urlencode({**query, 'step': step})}")

    def answer(self, title: str, body: str, *, status: int = 200) -> Answer:
        """Return a page with forms."""
        return page(title, body, status=status, returns_to=self.request.redirect_uri)


CANCEL = (
    '<button formaction="/oauth/authorize/consent" formnovalidate name="decision"'
    ' value="deny">Cancel</button>'
)


def app_name(request: AuthorizationRequest) -> str:
    """Return how an app is called that nobody has vouched for: by its address, as HTML."""
    client = request.client
    shown = request.redirect_uri if client.loopback else client.client_id
    return f"<bdi>{escape(urlsplit(shown).netloc)}</bdi>"


def sign_in_page(
    form: Form,
    *,
    username: str = "",
    fixed: bool = False,
    remembered: bool = False,
    listed: Sequence[Account] = (),
    back: str | None = None,
    problem: str | None = None,
) -> Answer:
    """Return the page that asks for a password.

    Args:
        form: What the page's forms carry along.
        username: Who is asked.
        fixed: Whether it can be nobody else.
        remembered: Whether the tick-box is ticked.
        listed: Accounts that are shown with their passwords.
        back: Step that the person can go back to.
        problem: What was wrong with the last try.
    """
    readonly = " readonly" if fixed else ""
    focus_name, focus_password = ("", " autofocus") if username else (" autofocus", "")
    other = ""
    if back is not None:
        other = f'<a class="button" href="{form.link(back)}">Back</a>'
    elif not fixed:
        other = f'<a class="button" href="{form.link("sign-up")}">Create a new account</a>'
    body = (
        f'<p class="soft">to go on to <strong>{app_name(form.request)}</strong></p>'
        f"{alert(problem)}{form.open('sign-in')}"
        '<label for="username">Handle or e-mail address</label>'
        '<input id="username" name="username" type="text" required autocomplete="username"'
        ' autocapitalize="none" autocorrect="off" spellcheck="false"'
        f' value="{escape(username)}"{readonly}{focus_name}>'
        '<label for="password">Password</label>'
        '<input id="password" name="password" type="password" required maxlength="512"'
        f' autocomplete="current-password"{focus_password}>'
        f"{_tick('remember', 'Remember this account on this device', ticked=remembered)}"
        f'<button class="main">Sign in</button>{other}{CANCEL}</form>'
        f"{_account_list(form, listed)}"
    )
    return form.answer("Sign in", body, status=400 if problem else 200)


def choice_page(form: Form, *, remembered: Sequence[Account]) -> Answer:
    """Return the page that offers the accounts remembered on this device."""
    rows = "".join(
        f'<li><div class="row">{form.open("choose")}'
        f'<button name="did" value="{escape(account.did)}">{escape(account.handle)}</button></form>'
        f"{form.open('forget')}"
        f'<button class="small" name="did" value="{escape(account.did)}"'
        f' aria-label="Forget {escape(account.handle)}">Forget</button></form></div></li>'
        for account in remembered
    )
    more = (
        f'<a class="button" href="{form.link("sign-in")}">Another account</a>'
        f'<a class="button" href="{form.link("sign-up")}">Create a new account</a>'
    )
    body = (
        f'<p class="soft">to go on to <strong>{app_name(form.request)}</strong></p>'
        f"<ul>{rows}</ul>{more}{form.open('consent')}{CANCEL}</form>"
    )
    return form.answer("Choose an account", body)


def handle_page(form: Form, *, name: str = "", problem: str | None = None) -> Answer:
    """Return the first page of the sign-up: what the account is called."""
    body = (
        f'<p class="soft">Step 1 of 2</p>{alert(problem)}{form.open("sign-up")}'
        '<label for="handle">Choose a handle</label>'
        '<input id="handle" name="handle" type="text" required autofocus autocomplete="off"'
        ' autocapitalize="none" autocorrect="off" spellcheck="false" maxlength="253"'
        f' aria-describedby="rules" value="{escape(name)}">'
        f'<small id="rules">3 to 18 letters, numbers or hyphens; {HANDLE_DOMAIN} is added.</small>'
        '<button class="main">Next</button>'
        f'<a class="button" href="{form.link("choose")}">Back</a>{CANCEL}</form>'
    )
    return form.answer("Create an account", body, status=400 if problem else 200)


def credentials_page(
    form: Form, *, handle: str, email: str = "", problem: str | None = None
) -> Answer:
    """Return the second page of the sign-up: how the account is signed in to."""
    body = (
        f'<p class="soft">Step 2 of 2, for <strong>{escape(handle)}</strong></p>'
        f"{alert(problem)}{form.open('sign-up')}"
        f'<input type="hidden" name="handle" value="{escape(handle)}">'
        '<label for="email">E-mail address</label>'
        '<input id="email" name="email" type="email" required autofocus autocomplete="email"'
        f' value="{escape(email)}">'
        '<label for="password">Password</label>'
        '<input id="password" name="password" type="password" required minlength="8"'
        ' maxlength="256" autocomplete="new-password" aria-describedby="rules">'
        '<small id="rules">At least 8 characters, and none that you use elsewhere: the account'
        " ends with this network.</small>"
        '<button class="main">Create the account</button>'
        f'<a class="button" href="{form.link("sign-up")}">Back</a>{CANCEL}</form>'
    )
    return form.answer("Create an account", body, status=400 if problem else 200)


def reactivate_page(form: Form, account: Account) -> Answer:
    """Return the page for an account that its owner has deactivated."""
    body = (
        f"<p><strong>{escape(account.handle)}</strong> is deactivated at the moment.</p>"
        '<p class="soft">Reactivating makes its profile and its posts visible again.</p>'
        f"{form.open('consent')}"
        '<button class="main" name="decision" value="reactivate">Reactivate the account</button>'
        f"{CANCEL}</form>"
    )
    return form.answer("Welcome back", body)


def _account_list(form: Form, accounts: Sequence[Account]) -> str:
    if not accounts:
        return ""
    rows = "".join(
        f'<li><div class="row"><div>{escape(account.handle)}'
        f"<small>password <code>{escape(account.password)}</code></small></div>"
        f"{form.open('sign-in')}{_hidden({'username': account.handle})}"
        f"{_hidden({'password': account.password})}"
        f'<button class="small" aria-label="Continue as {escape(account.handle)}">Use</button>'
        "</form></div></li>"
        for account in accounts
    )
    return f'</div><div class="card"><h2>Accounts to try</h2><ul>{rows}</ul>'


def _tick(name: str, text: str, *, ticked: bool) -> str:
    checked = " checked" if ticked else ""
    return (
        f'<label class="tick"><input type="checkbox" name="{name}" value="yes"{checked}>'
        f"<span>{text}</span></label>"
    )


def _hidden(fields: Mapping[str, str]) -> str:
    return "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in fields.items()
    )
