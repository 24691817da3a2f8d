"""Frame of the development network's pages: plain HTML that works without JavaScript."""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from html import escape
from urllib.parse import urlsplit

from atproto_oauth_asgi.testing.authorization_requests import Redirection
from atproto_oauth_asgi.testing.web import Answer

STYLE = """
:root{color-scheme:light dark;--ink:#16202e;--soft:#55657a;--paper:#f4f6f9;--card:#fff;
--line:#d5dce5;--edge:#76859a;--blue:#0b62d6;--on:#fff;--red:#b3261e;--tint:#eaf2fd;
--sign:#fff3c4;--sign-ink:#5c4300}
@media(prefers-color-scheme:dark){:root{--ink:#e8edf4;--soft:#9fadc0;--paper:#10161f;--card:#18212d;
--line:#2d3a4b;--edge:#71839b;--blue:#6aa9ff;--on:#0d1520;--red:#ff8a80;--tint:#1c2b40;
--sign:#3b2f0b;--sign-ink:#ffe08a}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
.sign{margin:0;padding:.55rem 1rem;background:var(--sign);color:var(--sign-ink);text-align:center;
font-size:.875rem;line-height:1.4}
.sign span{display:inline-block}
main{max-width:27rem;margin:0 auto;padding:clamp(1rem,6vh,4rem) 1rem 2rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:.9rem;
padding:clamp(1.1rem,5vw,1.75rem);box-shadow:0 1px 3px #0001}
.card+.card{margin-top:1rem}
h1{font-size:1.4rem;line-height:1.25;margin:0;overflow-wrap:anywhere}
h2{font-size:1rem;margin:0 0 .5rem}
p{margin:.5rem 0 0;overflow-wrap:anywhere}
.soft,small{color:var(--soft)}
small{display:block;font-size:.875rem;margin-top:.35rem}
form{margin:0}
label{display:block;font-weight:600;margin:1.1rem 0 .35rem}
label.tick{display:flex;gap:.6rem;align-items:flex-start;font-weight:400;margin:1.1rem 0 0}
input[type=checkbox]{width:1.15rem;height:1.15rem;margin:.2rem 0 0;flex:none;
accent-color:var(--blue)}
input[type=text],input[type=password],input[type=email]{width:100%;font:inherit;color:inherit;
background:transparent;padding:.65rem .8rem;border:1px solid var(--edge);border-radius:.55rem}
input[readonly]{background:var(--tint);border-color:transparent}
button,.button{display:block;width:100%;font:inherit;font-weight:600;text-align:center;
text-decoration:none;color:var(--ink);background:transparent;border:1px solid var(--edge);
border-radius:.55rem;padding:.65rem 1rem;margin-top:.6rem;cursor:pointer;overflow-wrap:anywhere}
button.main{color:var(--on);background:var(--blue);border-color:var(--blue);margin-top:1.4rem}
button.small{width:auto;margin:0;padding:.35rem .75rem;font-weight:400;font-size:.875rem;
flex:none}
button:focus-visible,input:focus-visible,a:focus-visible,summary:focus-visible{
outline:3px solid var(--blue);outline-offset:2px}
a{color:var(--blue)}
ul{list-style:none;margin:1rem 0 0;padding:0}
li{border-top:1px solid var(--line);padding:.75rem 0}
li:last-child{padding-bottom:0}
li ul{margin:.15rem 0 0}
li li{border:0;padding:.15rem 0 0;color:var(--soft);font-size:.875rem}
li>.tick{margin:0}
.row{display:flex;gap:.75rem;align-items:center;justify-content:space-between}
.row>:first-child{min-width:0;flex:1;overflow-wrap:anywhere}
.row button{margin:0}
code{display:inline-block;max-width:100%;font:.9em/1.5 ui-monospace,monospace;
overflow-wrap:anywhere}
details{margin-top:1rem;border-top:1px solid var(--line);padding-top:.75rem}
summary{cursor:pointer;color:var(--soft);font-size:.875rem}
details p{font-size:.875rem}
[role=alert]{margin:1rem 0 0;color:var(--red);border-left:3px solid var(--red);
padding-left:.75rem}
.grave{color:var(--red)}
"""
_SCRIPT = "document.forms[0].submit()"
_SHOWN = 60


def _hash_source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


_STYLE_SOURCE, _SCRIPT_SOURCE = _hash_source(STYLE), _hash_source(_SCRIPT)


def page(
    title: str, body: str, *, status: int = 200, returns_to: str = "", script: str = ""
) -> Answer:
    """Return a page with the sign that says what this network is.

    Args:
        title: Heading, and title of the window.
        body: What stands in the card below the heading; further cards may follow it.
        status: HTTP status.
        returns_to: Where the app wants the person back, if the page has a form.
        script: The one script that is allowed to run.
    """
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)} · development network</title><style>{STYLE}</style></head><body>"
        '<p class="sign" role="note"><span><strong>Development network.</strong></span> '
        "<span>These accounts are not real.</span></p>"
        f'<main><div class="card"><h1>{escape(title)}</h1>{body}</div></main>{script}</body></html>'
    )
    # A form is answered with a redirect to the app, which `'self'` alone would block; the app may
    # be a native one with a scheme of its own.
    scheme = urlsplit(returns_to).scheme
    native = "" if scheme in {"", "http", "https"} else f" {scheme}:"
    policy = (
        f"default-src 'none'; style-src {_STYLE_SOURCE}; script-src {_SCRIPT_SOURCE}; "
        f"form-action 'self' https: http:{native}; frame-ancestors 'none'; base-uri 'none'"
    )
    return Answer(
        status=status,
        headers=(
            ("content-type", "text/html; charset=utf-8"),
            ("cache-control", "no-store"),
            ("content-security-policy", policy),
            ("cross-origin-opener-policy", "same-origin"),
            ("referrer-policy", "same-origin"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
        ),
        body=text.encode(),
    )


def error_page(message: str, *, status: int = 400) -> Answer:
    """Return the page for a person who cannot be sent back to the app."""
    return page(
        "Sign-in cannot go on",
        f'{alert(message)}<p class="soft">Go back to the app and start again.</p>',
        status=status,
    )


def redirect_answer(redirection: Redirection) -> Answer:
    """Send the person back to the app."""
    if redirection.mode != "form_post":
        headers = (("location", redirection.url), ("cache-control", "no-store"))
        return Answer(status=303, headers=headers)
    return page(
        "Back to the app",
        '<p class="soft">You are being sent back.</p>'
        f'<form method="post" action="{escape(redirection.url)}">{redirection.fields()}'
        '<button class="main">Continue</button></form>',
        returns_to=redirection.url,
        script=f"<script>{_SCRIPT}</script>",
    )


def alert(problem: str | None) -> str:
    """Return what went wrong, for everybody to notice."""
    return f'<p role="alert">{escape(problem)}</p>' if problem else ""


def foreign(text: str, *, longest: int = _SHOWN) -> str:
    """Return text of a stranger as HTML that stays one short line in its own direction.

    What would turn the text around it, break lines or show nothing is left out.
    """
    kept = "".join(
        " " if each.isspace() else each
        for each in text[: longest * 8]
        if each.isspace() or unicodedata.category(each)[0] != "C"
    )
    shown = " ".join(kept.split())
    if len(shown) > longest:
        shown = shown[: longest - 1].rstrip() + "…"
    return f"<bdi>{escape(shown)}</bdi>"
