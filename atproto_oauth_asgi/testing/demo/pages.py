"""How the demo looks: plain HTML without scripts; everything from outside is escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from hashlib import sha256
from html import escape

from starlette.responses import HTMLResponse

from atproto_oauth_asgi import ATProtoOAuth

_STYLE = """
:root{color-scheme:light dark;--ink:#16202e;--soft:#55657a;--paper:#f4f6f9;--card:#fff;
--line:#d5dce5;--edge:#76859a;--blue:#0b62d6;--on:#fff;--red:#b3261e;--tint:#eaf2fd}
@media(prefers-color-scheme:dark){:root{--ink:#e8edf4;--soft:#9fadc0;--paper:#10161f;--card:#18212d;
--line:#2d3a4b;--edge:#71839b;--blue:#6aa9ff;--on:#0d1520;--red:#ff8a80;--tint:#1c2b40}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,sans-serif;
padding:clamp(1rem,6vh,4rem) 1rem}
main{max-width:36rem;margin:0 auto;display:grid;gap:1rem;grid-template-columns:minmax(0,1fr)}
section{background:var(--card);border:1px solid var(--line);border-radius:.9rem;
padding:clamp(1.1rem,4vw,1.75rem);box-shadow:0 1px 3px #0001}
header{display:flex;align-items:center;justify-content:space-between;gap:1rem}
h1{font-size:1.5rem;line-height:1.2;margin:0;overflow-wrap:anywhere}
h2{font-size:1.05rem;margin:0 0 .75rem}
p{margin:.5rem 0 0}
.soft,small{color:var(--soft)}
label{display:block;font-weight:600;margin:1.25rem 0 .35rem}
h2 label{margin:0}
input[type=text],textarea{width:100%;font:inherit;color:inherit;background:transparent;
padding:.65rem .8rem;border:1px solid var(--edge);border-radius:.55rem}
::placeholder{color:var(--soft);opacity:1}
.note{margin-top:1rem;font-size:.875rem}
textarea{min-height:5.5rem;resize:vertical;display:block}
button{font:inherit;font-weight:600;color:var(--on);background:var(--blue);border:1px solid
var(--blue);border-radius:.55rem;padding:.6rem 1.1rem;cursor:pointer}
button.quiet{color:var(--ink);background:transparent;border-color:var(--edge)}
button.small{padding:.3rem .7rem;font-size:.875rem;font-weight:400}
input:focus-visible,textarea:focus-visible,button:focus-visible,a:focus-visible{
outline:3px solid var(--blue);outline-offset:2px}
a{color:var(--blue)}
.row{display:flex;align-items:center;justify-content:space-between;gap:1rem;margin-top:.75rem}
.row form{flex:none}
.below{margin-top:1.25rem}
.row>:first-child{min-width:0;overflow-wrap:anywhere}
.bar{display:flex;gap:.6rem}
.bar input{flex:1;min-width:0}
[role=alert]{margin:0;color:var(--red);background:var(--card);border:1px solid currentColor;
border-radius:.7rem;padding:.7rem 1rem}
[role=status]{margin:0;background:var(--tint);border-radius:.7rem;padding:.7rem 1rem}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.45rem 1.25rem;
margin:1.1rem 0 0}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
code{font:.9em/1.5 ui-monospace,monospace;background:var(--tint);border-radius:.35rem;
padding:.1rem .35rem;overflow-wrap:anywhere;-webkit-box-decoration-break:clone;
box-decoration-break:clone}
ol,ul{list-style:none;margin:0;padding:0}
li{padding:.8rem 0;border-top:1px solid var(--line)}
li:first-child{border-top:0;padding-top:0}
li:last-child{padding-bottom:0}
li .row{margin:0}
ol p{margin:0;white-space:pre-wrap;overflow-wrap:anywhere}
@media(max-width:30rem){dl{grid-template-columns:minmax(0,1fr);gap:0}dd{margin-bottom:.6rem}}
"""
_HASH = base64.b64encode(sha256(_STYLE.encode()).digest()).decode("ascii")


def welcome_page(
    oauth: ATProtoOAuth,
    *,
    accounts: Sequence[tuple[str, str]] = (),
    sign_up: str | None = None,
    others: str = "",
    problem: str | None = None,
) -> HTMLResponse:
    """Return the page for somebody who is not signed in.

    Args:
        oauth: Who logs people in.
        accounts: Handle and password of accounts to try.
        sign_up: Address of a server where an account can be made.
        others: Section with accounts that are signed in, but not shown.
        problem: Why somebody is here who may not expect it.
    """
    example = accounts[0][0] if accounts else "you.bsky.social"
    create = ""
    if sign_up is not None:
        fields = {"identifier": sign_up, "prompt": "create"}
        create = (
            '<div class="row below"><small>No account yet?</small>'
            f"{form(login(oauth), 'Create an account', fields, kind='quiet small')}</div>"
        )
    body = f"""{alert(problem)}
<section>
<h1>Post to your own server</h1>
<p class="soft">Sign in with your AT Protocol account: Bluesky, or any other server. Your password
stays there.</p>
<form method="post" action="{escape(login(oauth))}">
<label for="identifier">Handle</label>
<div class="bar">
<input type="text" id="identifier" name="identifier" required autofocus autocomplete="username"
 autocapitalize="none" autocorrect="off" spellcheck="false" placeholder="{escape(example)}">
<button>Sign in</button>
</div>
</form>{create}
</section>{others}
"""
    if accounts:
        rows = "".join(_account_to_try(oauth, *account) for account in accounts)
        body += (
            f"<section><h2>Accounts to try</h2><ol>{rows}</ol>"
            '<p class="note soft">They are made up and live on servers beside this page. Nothing'
            " leaves your computer.</p></section>"
        )
    return page(oauth, "Sign in", body)


def message_page(oauth: ATProtoOAuth, title: str, sentence: str, *, status: int) -> HTMLResponse:
    """Return a page with one sentence and the way home."""
    home = escape(oauth.settings.base_url)
    body = (
        f'<section><h1>{escape(title)}</h1><p>{escape(sentence)}</p><p><a href="{home}">'
        "Back to the start</a></p></section>"
    )
    return page(oauth, title, body, status=status)


def page(oauth: ATProtoOAuth, title: str, body: str, *, status: int = 200) -> HTMLResponse:
    """Return a page of the demo."""
    html = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>"
    )
    # The sign-in form is answered with a redirect to the person's server, which `'self'` alone
    # would block.
    targets = "'self' https: http:" if oauth.settings.loopback else "'self' https:"
    return HTMLResponse(
        html,
        status_code=status,
        headers={
            "content-security-policy": (
                f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action {targets};"
                " base-uri 'none'; frame-ancestors 'none'"
            ),
            "referrer-policy": "same-origin",
            "x-content-type-options": "nosniff",
        },
    )


def login(oauth: ATProtoOAuth) -> str:
    """Return where a login form is posted to."""
    return f"{oauth.settings.base_url}{oauth.settings.prefix}/login"


def form(
    action: str, button: str, fields: Mapping[str, str], *, kind: str = "", label: str = ""
) -> str:
    """Return a form that is one button."""
    hidden = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in fields.items()
    )
    named = f' aria-label="{escape(label)}"' if label else ""
    return (
        f'<form method="post" action="{escape(action)}">{hidden}'
        f'<button class="{kind}"{named}>{escape(button)}</button></form>'
    )


def alert(problem: str | None) -> str:
    """Return what went wrong, for everybody to notice."""
    return f'<p role="alert">{escape(problem)}</p>' if problem else ""


def _account_to_try(oauth: ATProtoOAuth, handle: str, password: str) -> str:
    use = form(
        login(oauth), "Use", {"identifier": handle}, kind="quiet small", label=f"Use {handle}"
    )
    return (
        f'<li><div class="row"><span><code>{escape(handle)}</code> with password'
        f" <code>{escape(password)}</code></span>{use}</div></li>"
    )
