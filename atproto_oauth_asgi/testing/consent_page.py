"""The page that asks whether an app may do what it wants to do."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from atproto_oauth_asgi.testing.accounts import Account
from atproto_oauth_asgi.testing.authorization_requests import AuthorizationRequest
from atproto_oauth_asgi.testing.pages import foreign
from atproto_oauth_asgi.testing.permission_words import Words
from atproto_oauth_asgi.testing.sign_in_pages import Form, app_name
from atproto_oauth_asgi.testing.web import Answer


def consent_page(
    form: Form, account: Account, *, permissions: Sequence[Words], others: bool
) -> Answer:
    """Return the page.

    Args:
        form: What the page's form carries along.
        account: Whose account it is about.
        permissions: What is asked for.
        others: Whether another account may be taken instead.
    """
    request = form.request
    rows = "".join(map(_row, permissions))
    switch = '<button name="decision" value="switch">Another account</button>' if others else ""
    body = (
        f"<p><strong>{app_name(request)}</strong> asks for access to"
        f" <strong>{escape(account.handle)}</strong>.{_about(request)}</p>"
        f"{form.open('consent')}"
        f'<ul aria-label="What the app may do">{rows}</ul>{_terms(request)}'
        '<button class="main" name="decision" value="allow">Authorize</button>'
        f'<button name="decision" value="deny">Deny access</button>{switch}</form>'
        f"{_details(request)}"
    )
    return form.answer("Authorize", body)


def _row(words: Words) -> str:
    title = f'<span class="grave">{escape(words.title)}</span>' if words.grave else words.title
    lines = "".join(f"<li>{escape(text)}{_name(name)}</li>" for text, name in words.lines)
    below = f"<ul>{lines}</ul>" if lines else ""
    if not words.optional:
        return f"<li>{title}{below}</li>"
    return (
        '<li><label class="tick"><input type="checkbox" name="email" value="yes" checked>'
        f"<span>{title}<small>Untick it to keep it to yourself.</small></span></label>{below}</li>"
    )


def _name(name: str) -> str:
    # Long names break after a dot.
    return f" <code>{escape(name).replace('.', '.<wbr>')}</code>" if name else ""


def _about(request: AuthorizationRequest) -> str:
    """Give the name that the app gives itself, as its own words: nobody has checked it."""
    if request.client.loopback:
        return " It is being developed on this computer."
    name = request.client.name
    return f" It calls itself “{foreign(name)}”." if name else ""


def _terms(request: AuthorizationRequest) -> str:
    links = " and ".join(
        f'<a href="{escape(uri)}" rel="nofollow noopener noreferrer" target="_blank">{text}</a>'
        for text, uri in (
            ("terms of service", request.client.tos_uri),
            ("privacy policy", request.client.policy_uri),
        )
        if uri is not None
    )
    return f"<small>The app has its own {links}.</small>" if links else ""


def _details(request: AuthorizationRequest) -> str:
    scopes = "".join(f"<p><code>{escape(scope)}</code></p>" for scope in request.scopes)
    return (
        "<details><summary>Technical details</summary>"
        f"<p>The app's client id:</p><p><code>{escape(request.client.client_id)}</code></p>"
        f"<p>The scopes it asks for:</p>{scopes}</details>"
    )
