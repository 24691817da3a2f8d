"""The page for somebody who is signed in; it shows no token, because it has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

from starlette.responses import HTMLResponse

from atproto_oauth_asgi import ATProtoOAuth, OAuthSession, covers
from atproto_oauth_asgi.testing.demo.pages import alert, form, page
from atproto_oauth_asgi.testing.demo.posts import DELETE_SCOPE, EMAIL_SCOPE, POST_SCOPE, Post


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedIn:
    """Is an account that is signed in, in this browser."""

    did: str
    name: str
    active: bool
    usable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Is what the page says beside the account itself."""

    #: None when they cannot be had right now.
    posts: Sequence[Post] | None = None
    email: str | None = None
    accounts: Sequence[SignedIn] = ()
    #: Whether there are servers to play tricks with.
    tricks: bool = False
    text: str = ""
    problem: str | None = None
    notice: str | None = None
    status: int = 200


def home_page(oauth: ATProtoOAuth, session: OAuthSession, shown: Shown) -> HTMLResponse:
    """Return the page."""
    notice = f'<p role="status">{escape(shown.notice)}</p>' if shown.notice else ""
    body = (
        alert(shown.problem)
        + notice
        + _account(oauth, session, shown.email)
        + _new_post(oauth, session, shown.text)
        + _posts(oauth, session, shown.posts)
        + accounts_section(oauth, shown.accounts)
        + (_tricks(oauth) if shown.tricks else "")
    )
    return page(oauth, session.handle or session.did, body, status=shown.status)


def accounts_section(oauth: ATProtoOAuth, accounts: Sequence[SignedIn]) -> str:
    """Return the accounts that are signed in, and the way to one more."""
    if not accounts:
        return ""
    rows = "".join(f"<li>{_signed_in(oauth, account)}</li>" for account in accounts)
    add = oauth.login_url(next="/", add=True)
    return (
        f'<section><h2>Accounts</h2><ul>{rows}</ul><p class="note">'
        f'<a href="{escape(add)}">Add another account</a></p></section>'
    )


def _account(oauth: ATProtoOAuth, session: OAuthSession, email: str | None) -> str:
    if email is not None:
        address = escape(email)
    elif covers(session.scopes, EMAIL_SCOPE):
        address = "cannot be shown right now"
    else:
        address = f"you did not share it. {_ask(oauth, session, EMAIL_SCOPE, 'Ask me again')}"
    scopes = " ".join(f"<code>{escape(scope)}</code>" for scope in sorted(session.scopes))
    out = form(
        f"{oauth.settings.base_url}{oauth.settings.prefix}/logout", "Sign out", {}, kind="quiet"
    )
    return f"""<section>
<header><h1>{escape(session.handle or session.did)}</h1>{out}</header>
<dl>
<dt>DID</dt><dd><code>{escape(session.did)}</code></dd>
<dt>Server</dt><dd>{escape(session.pds)}</dd>
<dt>E-mail</dt><dd>{address}</dd>
<dt>Scopes</dt><dd>{scopes}</dd>
<dt>Token</dt><dd>{escape(_expiry(session.access_expires_at))}</dd>
</dl>
</section>
"""


def _new_post(oauth: ATProtoOAuth, session: OAuthSession, text: str) -> str:
    if not covers(session.scopes, POST_SCOPE):
        ask = _ask(oauth, session, POST_SCOPE, "Ask me again")
        return (
            "<section><h2>New post</h2><p>This sign-in does not include the permission to write"
            f" posts. {ask}</p></section>"
        )
    return f"""<section>
<form method="post" action="{escape(oauth.settings.base_url)}/post">
<h2><label for="text">New post</label></h2>
<textarea id="text" name="text" required maxlength="300"
 placeholder="What is going on?">{escape(text)}</textarea>
<div class="row"><small>Up to 300 characters</small><button>Post</button></div>
</form>
</section>
"""


def _posts(oauth: ATProtoOAuth, session: OAuthSession, posts: Sequence[Post] | None) -> str:
    if not posts:
        instead = "Nothing here yet." if posts is not None else "They cannot be shown right now."
        return f'<section><h2>Newest posts</h2><p class="soft">{instead}</p></section>'
    may_delete = covers(session.scopes, DELETE_SCOPE)
    rows = "".join(_post(oauth, post, may_delete=may_delete) for post in posts)
    more = ""
    if not may_delete:
        ask = _ask(oauth, session, DELETE_SCOPE, "Allow it")
        more = f'<p class="note soft">The demo may not delete posts. {ask}</p>'
    return f"<section><h2>Newest posts</h2><ol>{rows}</ol>{more}</section>"


def _post(oauth: ATProtoOAuth, post: Post, *, may_delete: bool) -> str:
    delete = ""
    if may_delete and post.key:
        url = f"{oauth.settings.base_url}/delete"
        delete = form(url, "Delete", {"key": post.key}, kind="quiet small")
    return (
        f'<li><p>{escape(post.text)}</p><div class="row"><small>{escape(_moment(post.created))}'
        f"</small>{delete}</div></li>"
    )


def _signed_in(oauth: ATProtoOAuth, account: SignedIn) -> str:
    name = f"<span>{escape(account.name)}</span>"
    if account.active:
        end = "<small>shown now</small>"
    elif account.usable:
        url = f"{oauth.settings.base_url}/switch"
        label = f"Switch to {account.name}"
        end = form(url, "Switch", {"did": account.did}, kind="quiet small", label=label)
    else:
        again = oauth.login_url(identifier=account.did, next="/", add=True)
        end = f'<a href="{escape(again)}">Sign in again</a>'
    return f'<div class="row">{name}{end}</div>'


def _tricks(oauth: ATProtoOAuth) -> str:
    url = f"{oauth.settings.base_url}/trick"
    buttons = "".join(
        f'<li><div class="row"><span>{text}</span>'
        f"{form(url, button, {'what': what}, kind='quiet small')}</div></li>"
        for what, button, text in (
            ("expire", "Expire it", "The access token ends before its time"),
            ("revoke", "Revoke it", "The sign-in is ended at the account's server"),
        )
    )
    return f"<section><h2>See what happens</h2><ul>{buttons}</ul></section>"


def _ask(oauth: ATProtoOAuth, session: OAuthSession, scope: str, text: str) -> str:
    """Return a link to a login that asks for one more permission and keeps the rest."""
    url = oauth.login_url(
        identifier=session.handle or session.did,
        next="/",
        scope=oauth.scope_for([scope], session.scopes),
    )
    return f'<a href="{escape(url)}">{escape(text)}</a>'


def _moment(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{moment.astimezone(UTC):%d %B %Y, %H:%M} UTC" if moment.tzinfo else text


def _expiry(when: datetime) -> str:
    left = (when - datetime.now(UTC)).total_seconds()
    if left <= 0:
        return "renewed with the next call"
    shown = f"{left / 60:.0f} minutes" if left >= 90 else f"{left:.0f} seconds"
    return f"expires {when:%H:%M:%S} UTC, in {shown}; renewed before that without asking you"
