"""How the demo looks: plain HTML without scripts; everything from outside is escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from html import escape

from starlette.responses import HTMLResponse

from atproto_oauth_asgi import ATProtoOAuth, OAuthSession

_STYLE = """
:root{color-scheme:light dark;--ink:#16202e;--soft:#55657a;--paper:#f4f6f9;--card:#fff;
--line:#d5dce5;--blue:#0b62d6;--on:#fff;--red:#b3261e;--tint:#eaf2fd}
@media(prefers-color-scheme:dark){:root{--ink:#e8edf4;--soft:#9fadc0;--paper:#10161f;--card:#18212d;
--line:#2d3a4b;--blue:#6aa9ff;--on:#0d1520;--red:#ff8a80;--tint:#1c2b40}}
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
padding:.65rem .8rem;border:1px solid var(--line);border-radius:.55rem}
::placeholder{color:var(--soft);opacity:1}
.note{margin-top:1rem;font-size:.875rem}
textarea{min-height:5.5rem;resize:vertical;display:block}
button{font:inherit;font-weight:600;color:var(--on);background:var(--blue);border:1px solid
var(--blue);border-radius:.55rem;padding:.6rem 1.1rem;cursor:pointer}
button.quiet{color:var(--ink);background:transparent;border-color:var(--line)}
input:focus-visible,textarea:focus-visible,button:focus-visible,a:focus-visible{
outline:3px solid var(--blue);outline-offset:2px}
a{color:var(--blue)}
.row{display:flex;align-items:center;justify-content:space-between;gap:1rem;margin-top:.75rem}
.bar{display:flex;gap:.6rem}
.bar input{flex:1;min-width:0}
[role=alert]{margin:0;color:var(--red);background:var(--card);border:1px solid currentColor;
border-radius:.7rem;padding:.7rem 1rem}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.45rem 1.25rem;
margin:1.1rem 0 0}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
code{font:.9em/1.5 ui-monospace,monospace;background:var(--tint);border-radius:.35rem;
padding:.1rem .35rem;overflow-wrap:anywhere;-webkit-box-decoration-break:clone;
box-decoration-break:clone}
ol{list-style:none;margin:0;padding:0}
ol li{padding:.8rem 0;border-top:1px solid var(--line)}
ol li:first-child{border-top:0;padding-top:0}
ol li:last-child{padding-bottom:0}
ol code{white-space:nowrap}
ol p{margin:0;white-space:pre-wrap;overflow-wrap:anywhere}
@media(max-width:30rem){dl{grid-template-columns:minmax(0,1fr);gap:0}dd{margin-bottom:.6rem}}
"""
_HASH = base64.b64encode(sha256(_STYLE.encode()).digest()).decode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """One post, as its PDS gave it."""

    text: str
    created: str


def welcome_page(
    oauth: ATProtoOAuth,
    *,
    accounts: Sequence[tuple[str, str]] = (),
    problem: str | None = None,
) -> HTMLResponse:
    """Return the page for somebody who is not signed in."""
    example = accounts[0][0] if accounts else "you.bsky.social"
    try_these = "".join(
        f"<li><code>{escape(handle)}</code> with password <code>{escape(password)}</code></li>"
        for handle, password in accounts
    )
    body = f"""{_alert(problem)}
<section>
<h1>Post to your own server</h1>
<p class="soft">Sign in with your AT Protocol account: Bluesky, or any other server. Your password
stays there.</p>
<form method="post" action="{escape(_url(oauth, "/login"))}">
<label for="identifier">Handle</label>
<div class="bar">
<input type="text" id="identifier" name="identifier" required autofocus autocomplete="username"
 autocapitalize="none" autocorrect="off" spellcheck="false" placeholder="{escape(example)}">
<button>Sign in</button>
</div>
</form>
</section>
"""
    if accounts:
        body += (
            "<section><h2>Accounts to try</h2>"
            f'<ol>{try_these}</ol><p class="note soft">They are made up and live on servers beside'
            " this page. Nothing leaves your computer.</p></section>"
        )
    return _page(oauth, "Sign in", body)


def home_page(
    oauth: ATProtoOAuth,
    session: OAuthSession,
    *,
    posts: Sequence[Post] | None,
    may_post: bool,
    text: str = "",
    problem: str | None = None,
    status: int = 200,
) -> HTMLResponse:
    """Return the page for somebody who is signed in; it shows no token, because it has none."""
    name = session.handle or session.did
    scopes = " ".join(f"<code>{escape(scope)}</code>" for scope in sorted(session.scopes))
    written = "".join(
        f"<li><p>{escape(post.text)}</p><small>{escape(_moment(post.created))}</small></li>"
        for post in posts or ()
    )
    instead = "Nothing here yet." if posts is not None else "They cannot be shown right now."
    body = f"""{_alert(problem)}
<section>
<header>
<h1>{escape(name)}</h1>
<form method="post" action="{escape(_url(oauth, "/logout"))}">
<button class="quiet">Sign out</button>
</form>
</header>
<dl>
<dt>DID</dt><dd><code>{escape(session.did)}</code></dd>
<dt>Server</dt><dd>{escape(session.pds)}</dd>
<dt>Scopes</dt><dd>{scopes}</dd>
<dt>Token</dt><dd>{escape(_expiry(session.access_expires_at))}</dd>
</dl>
</section>
"""
    if may_post:
        body += f"""<section>
<form method="post" action="{escape(oauth.settings.base_url)}/post">
<h2><label for="text">New post</label></h2>
<textarea id="text" name="text" required maxlength="300"
 placeholder="What is going on?">{escape(text)}</textarea>
<div class="row"><small>Up to 300 characters</small><button>Post</button></div>
</form>
</section>
"""
    else:
        body += (
            "<section><h2>New post</h2><p>This sign-in does not include the permission to write"
            " posts.</p></section>"
        )
    body += (
        "<section><h2>Newest posts</h2>"
        + (f"<ol>{written}</ol>" if written else f'<p class="soft">{instead}</p>')
        + "</section>"
    )
    return _page(oauth, name, body, status=status)


def _page(oauth: ATProtoOAuth, title: str, body: str, *, status: int = 200) -> HTMLResponse:
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


def _url(oauth: ATProtoOAuth, path: str) -> str:
    return f"{oauth.settings.base_url}{oauth.settings.prefix}{path}"


def _alert(problem: str | None) -> str:
    return f'<p role="alert">{escape(problem)}</p>' if problem else ""


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
