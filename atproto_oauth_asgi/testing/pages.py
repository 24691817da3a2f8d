"""Pages of the development network: plain HTML that works without JavaScript."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from urllib.parse import urlsplit

from atproto_oauth_asgi.testing.accounts import Account
from atproto_oauth_asgi.testing.authorization_requests import AuthorizationRequest, Redirection
from atproto_oauth_asgi.testing.web import Answer

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --accent: #1d5fd1; --on: #fff; --warn: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --accent: #8ab4ff; --on: #10151f; --warn: #ff9d94; } }
* { box-sizing: border-box; }
body { margin: 0; font: 1rem/1.5 system-ui, sans-serif; }
.banner { margin: 0; padding: .5rem 1rem; text-align: center; font-size: .875rem;
  border-bottom: 1px solid var(--line); }
main { max-width: 26rem; margin: 8vh auto 2rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1rem; margin: 2.5rem 0 0; }
label { display: block; margin: 1rem 0 .25rem; font-weight: 600; }
label.choice { font-weight: 400; display: flex; gap: .5rem; align-items: baseline; margin: 0; }
input[type=text], input[type=password] { width: 100%; font: inherit; padding: .6rem .75rem;
  border: 1px solid #888; border-radius: .5rem; }
ul { padding: 0; list-style: none; } li { padding: .5rem 0; border-bottom: 1px solid var(--line); }
code { overflow-wrap: anywhere; font-size: .875rem; }
.buttons { display: flex; gap: .75rem; margin-top: 1.5rem; flex-wrap: wrap; }
button { font: inherit; font-weight: 600; padding: .6rem 1.25rem; border-radius: .5rem;
  border: 1px solid #888; background: transparent; color: inherit; cursor: pointer; }
button.main { background: var(--accent); border-color: var(--accent); color: var(--on); }
button:focus-visible, input:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.error { border-left: 4px solid var(--warn); padding: .25rem .75rem; margin: 1rem 0; }
.quiet { font-size: .875rem; opacity: .8; }
"""
_SCRIPT = "document.forms[0].submit()"

_MEANINGS = {
    "atproto": "Know which account you are",
    "transition:generic": "Read and write most of your account's data, as an app password can",
    "transition:email": "See your e-mail address",
    "transition:chat.bsky": "Read and send your chat messages",
}


def _hash_source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


# The form's answer is a redirect to the app, which `'self'` alone would block.
_POLICY = (
    f"default-src 'none'; style-src {_hash_source(_STYLE)}; script-src {_hash_source(_SCRIPT)}; "
    "form-action 'self' https: http:; frame-ancestors 'none'; base-uri 'none'"
)


def page(title: str, body: str, *, status: int = 200) -> Answer:
    """Return a page with the development banner."""
    text = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)} (development network)</title><style>{_STYLE}</style>"
        '<p class="banner" role="note">Development network: these accounts are not real.</p>'
        f"<main><h1>{html.escape(title)}</h1>{body}</main></html>"
    )
    return Answer(
        status=status,
        headers=(
            ("content-type", "text/html; charset=utf-8"),
            ("cache-control", "no-store"),
            ("content-security-policy", _POLICY),
            ("referrer-policy", "same-origin"),
            ("x-content-type-options", "nosniff"),
        ),
        body=text.encode(),
    )


def error_page(message: str, *, status: int = 400) -> Answer:
    """Return the page for a person who cannot be sent back to the app."""
    return page(
        "Sign-in cannot go on",
        f'<p class="error" role="alert">{html.escape(message)}</p>'
        "<p>Go back to the app and start again.</p>",
        status=status,
    )


def sign_in_page(
    request: AuthorizationRequest,
    *,
    csrf: str,
    accounts: Sequence[Account],
    username: str,
    problem: str | None = None,
) -> Answer:
    """Return the page that asks who the person is."""
    alert = f'<p class="error" role="alert">{html.escape(problem)}</p>' if problem else ""
    focus_name, focus_password = ("", " autofocus") if username else (" autofocus", "")
    body = (
        f"<p>to continue to <strong>{_client_name(request)}</strong></p>{alert}"
        '<form method="post" action="/oauth/authorize/sign-in">'
        f"{_hidden(request, csrf)}"
        '<label for="username">Handle, DID or e-mail address</label>'
        '<input id="username" name="username" type="text" required autocomplete="username" '
        f'autocapitalize="none" spellcheck="false" value="{html.escape(username)}"{focus_name}>'
        '<label for="password">Password</label>'
        '<input id="password" name="password" type="password" required '
        f'autocomplete="current-password"{focus_password}>'
        '<div class="buttons"><button class="main">Sign in</button>'
        '<button formaction="/oauth/authorize/consent" formnovalidate '
        'name="decision" value="deny">Cancel</button></div></form>'
        f"{_account_list(accounts)}"
    )
    return page("Sign in", body, status=400 if problem else 200)


def consent_page(request: AuthorizationRequest, account: Account, *, csrf: str) -> Answer:
    """Return the page that asks whether the app may do what it wants to do."""
    rows = "".join(_scope_row(scope) for scope in request.scopes)
    body = (
        f"<p><strong>{_client_name(request)}</strong> asks for access to "
        f"<strong>{html.escape(account.handle)}</strong>.</p>"
        f'<p class="quiet">{_client_detail(request)}</p>'
        '<form method="post" action="/oauth/authorize/consent">'
        f"{_hidden(request, csrf)}<ul>{rows}</ul>"
        '<div class="buttons">'
        '<button class="main" name="decision" value="allow">Authorize</button>'
        '<button name="decision" value="deny">Deny</button>'
        '<button name="decision" value="switch">Another account</button></div></form>'
    )
    return page("Authorize", body)


def redirect_answer(redirection: Redirection) -> Answer:
    """Send the person back to the app."""
    if redirection.mode != "form_post":
        headers = (("location", redirection.url), ("cache-control", "no-store"))
        return Answer(status=303, headers=headers)
    return page(
        "Back to the app",
        f'<form method="post" action="{html.escape(redirection.url)}">{redirection.fields()}'
        f'<div class="buttons"><button class="main">Continue</button></div></form>'
        f"<script>{_SCRIPT}</script>",
    )


def optional(scope: str) -> bool:
    """Say whether the person may untick a scope."""
    return scope == "transition:email" or scope.startswith("account:")


def _scope_row(scope: str) -> str:
    known = _MEANINGS.get(scope)
    meaning = "" if known is None else f"{html.escape(known)}<br>"
    detail = f"<code>{html.escape(scope)}</code>"
    if not optional(scope):
        return f"<li>{meaning}{detail}</li>"
    return (
        '<li><label class="choice"><input type="checkbox" name="scope" checked '
        f'value="{html.escape(scope)}"><span>{meaning}{detail}</span></label></li>'
    )


def _account_list(accounts: Sequence[Account]) -> str:
    if not accounts:
        return ""
    rows = "".join(
        f"<li><code>{html.escape(account.handle)}</code> · password "
        f"<code>{html.escape(account.password)}</code></li>"
        for account in accounts
    )
    return f'<h2>Accounts of this network</h2><ul class="quiet">{rows}</ul>'


def _client_name(request: AuthorizationRequest) -> str:
    client = request.client
    shown = request.redirect_uri if client.loopback else client.client_id
    return html.escape(urlsplit(shown).netloc)


def _client_detail(request: AuthorizationRequest) -> str:
    if request.client.loopback:
        return "An app in development, on this computer."
    return f"<code>{html.escape(request.client.client_id)}</code>"


def _hidden(request: AuthorizationRequest, csrf: str) -> str:
    return (
        f'<input type="hidden" name="request_uri" value="{html.escape(request.uri)}">'
        f'<input type="hidden" name="csrf" value="{html.escape(csrf)}">'
    )
