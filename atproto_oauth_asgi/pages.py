"""Our own pages: plain HTML that works without scripts, escaped, and locked down by headers."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from hashlib import sha256
from html import escape
from urllib.parse import urlencode

from starlette.responses import HTMLResponse

_STYLE = """
:root{color-scheme:light dark;--ink:#16202e;--soft:#5b6b80;--paper:#f4f6f9;--card:#fff;
--line:#d5dce5;--blue:#0b62d6;--red:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e8edf4;--soft:#9aa9bd;--paper:#10161f;--card:#18212d;
--line:#2d3a4b;--blue:#6aa9ff;--red:#ff8a80}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:grid;place-items:center;background:var(--paper);
color:var(--ink);font:16px/1.5 system-ui,sans-serif;padding:1rem}
main{width:100%;max-width:25rem;background:var(--card);border:1px solid var(--line);
border-radius:.9rem;padding:2rem;box-shadow:0 1px 3px #0001}
h1{font-size:1.35rem;line-height:1.25;margin:0 0 1rem;overflow-wrap:anywhere}
p{margin:0 0 1.2rem;color:var(--soft)}
.back{margin:1.2rem 0 0;text-align:center;font-size:.9rem}
.back+.back,form:has(.back)+.back{margin-top:.5rem}
label{display:block;font-weight:600;margin-bottom:.35rem}
input[type=text]{width:100%;font:inherit;color:inherit;background:transparent;
padding:.65rem .8rem;border:1px solid var(--line);border-radius:.55rem}
input:focus-visible,button:focus-visible,a:focus-visible{outline:3px solid var(--blue);
outline-offset:2px}
input::placeholder{color:var(--soft);opacity:1}
small{display:block;margin:.6rem 0 1.2rem;color:var(--soft)}
button,.button{display:block;width:100%;font:inherit;font-weight:600;text-align:center;
text-decoration:none;color:var(--card);background:var(--blue);border:0;border-radius:.55rem;
padding:.7rem 1rem;cursor:pointer}
[role=alert]{color:var(--red);border-left:3px solid var(--red);padding-left:.7rem}
b{color:var(--ink);overflow-wrap:anywhere}
a{color:var(--blue)}
"""
_HASH = base64.b64encode(sha256(_STYLE.encode()).digest()).decode("ascii")


def login_page(
    *,
    action: str,
    app: str,
    home: str,
    hidden: Mapping[str, str],
    identifier: str = "",
    sentence: str | None = None,
    confirm: bool = False,
    loopback: bool = False,
    status: int = 200,
) -> HTMLResponse:
    """Return the page that starts a login.

    Args:
        action: Where the form is posted.
        app: What the site is called.
        home: Where somebody goes who does not want to sign in.
        hidden: Fields that the form carries along.
        identifier: What is filled in, or to be confirmed.
        sentence: What went wrong before, if anything.
        confirm: Ask for one click instead of an identifier.
        loopback: Whether the authorization server may be on http.
        status: HTTP status.
    """
    alert = f'<p role="alert">{escape(sentence)}</p>' if sentence else ""
    fields = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in hidden.items()
    )
    if confirm:
        other = f"{action}?{urlencode(hidden)}" if hidden else action
        ask = (
            f"<p>Continue as <b>{escape(identifier)}</b>?</p>"
            f'<input type="hidden" name="identifier" value="{escape(identifier)}">'
            "<button autofocus>Continue</button>"
            f'<p class="back"><a href="{escape(other)}">Use another account</a></p>'
        )
    else:
        ask = (
            '<label for="identifier">Handle</label>'
            '<input type="text" id="identifier" name="identifier" required autofocus'
            ' autocomplete="username" autocapitalize="none" autocorrect="off" spellcheck="false"'
            f' placeholder="you.bsky.social" value="{escape(identifier)}">'
            "<small>Your Bluesky handle, or that of any AT Protocol account. Your password stays"
            " with your own server.</small><button>Sign in</button>"
        )
    body = (
        f"<h1>Sign in to {escape(app)}</h1>{alert}"
        f'<form method="post" action="{escape(action)}">{fields}{ask}</form>{_back(home, app)}'
    )
    return page("Sign in", body, status=status, loopback=loopback)


def message_page(
    title: str,
    sentence: str,
    *,
    home: str,
    status: int,
    app: str | None = None,
    again: str | None = None,
) -> HTMLResponse:
    """Return a page with one sentence, a link to the site, and perhaps one to try again."""
    alert = f'<p role="alert">{escape(sentence)}</p>'
    retry = f'<a class="button" href="{escape(again)}">Try again</a>' if again else ""
    body = f"<h1>{escape(title)}</h1>{alert}{retry}{_back(home, app or _host(home))}"
    return page(title, body, status=status)


def interstitial_page(url: str) -> HTMLResponse:
    """Return a page that goes on by itself, for pages whose policy forbids the redirect."""
    body = (
        "<h1>Off to your server</h1><p>You are being sent to the server of your account.</p>"
        f'<a class="button" href="{escape(url)}">Go on</a>'
    )
    head = f'<meta http-equiv="refresh" content="0;url={escape(url)}">'
    return page("Signing in", body, head=head)


def page(
    title: str, body: str, *, status: int = 200, loopback: bool = False, head: str = ""
) -> HTMLResponse:
    """Return a page of ours, with the headers that all of them have."""
    html = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title>{head}<style>{_STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>"
    )
    # `'self'` alone would block the redirect of the posted form to the authorization server.
    targets = "'self' https: http:" if loopback else "'self' https:"
    return HTMLResponse(
        html,
        status_code=status,
        headers={
            "content-security-policy": (
                f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action {targets};"
                " base-uri 'none'; frame-ancestors 'none'"
            ),
            # With `no-referrer` a browser would post `Origin: null`.
            "referrer-policy": "same-origin",
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
            "x-frame-options": "DENY",
        },
    )


def _back(home: str, name: str) -> str:
    return f'<p class="back"><a href="{escape(home)}">Back to {escape(name)}</a></p>'


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0]
