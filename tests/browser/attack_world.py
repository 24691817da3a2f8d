"""An app over https, its network, and an attacker's pages: elsewhere, and on a sibling host."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Generator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.sync_api import Browser, BrowserContext, Page, Playwright
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from atproto_oauth_asgi import ATProtoOAuth, ATProtoOAuthMiddleware, session_from, session_or_none
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.testing.servers import PDS_ORIGIN
from tests.browser.chromium import SECONDS, chromium
from tests.browser.serving import Served, serving

APP = "https://app.birdsong.dev"
SIBLING = "https://evil.birdsong.dev"
EVIL = "https://attacker.example"
#: The site is trusted by its key: what comes with an error of its certificate is never cached.
_TRUST = "--ignore-certificate-errors-spki-list"
#: What an app may be called; every page of ours shows it.
NAME = '"><script>pwned=1</script><img src=x onerror=pwned=1>'


async def _who(request: Request) -> Response:
    session = session_or_none(request)
    return JSONResponse({"did": session.did if session else None})


async def _private(request: Request) -> Response:
    session = session_from(request)
    return HTMLResponse(
        f"<h1>Private page of {session.did}</h1>"
        '<form method="post" action="/oauth/logout"><button>Sign out</button></form>'
    )


async def _home(_request: Request) -> Response:
    return HTMLResponse("<h1>Home</h1>")


async def _socket(websocket: WebSocket) -> None:
    session = session_or_none(websocket)
    await websocket.accept()
    await websocket.send_text(session.did if session else "nobody")
    await websocket.close()


def _key_hash(issued: trustme.LeafCert) -> str:
    certificate = x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(sha256(key).digest()).decode()


@dataclass
class Attacker:
    """Serves whatever page a test wants, and remembers what came."""

    html: str = ""
    cookies: list[str] = field(default_factory=list[str])
    redirect: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if self.redirect is not None and scope["path"] == "/redirect":
            response: Response = RedirectResponse(self.redirect, status_code=302)
        else:
            response = HTMLResponse(self.html)
        for cookie in self.cookies:
            response.headers.append("set-cookie", cookie)
        await response(scope, receive, send)


@dataclass
class Stage:
    """Where an attack takes place."""

    network: Network
    oauth: ATProtoOAuth
    attacker: Attacker
    browser: Browser
    #: Whom the app took the sender of each POST to /post for.
    posted: list[str | None]

    @contextlib.contextmanager
    def person(self) -> Generator[Victim]:
        """Give a browser window with no history."""
        context = self.browser.new_context()
        context.set_default_timeout(SECONDS)
        try:
            yield Victim(self, context)
        finally:
            context.close()
            self.attacker.html = ""
            self.attacker.cookies = []
            self.attacker.redirect = None


class Victim:
    """Is a person with a browser window; attackers may have one too."""

    def __init__(self, stage: Stage, context: BrowserContext) -> None:
        self.stage = stage
        self.context = context
        self.page = context.new_page()

    def begin(self, handle: str = "alice.test", *, page: Page | None = None, next: str = "") -> str:  # noqa: A002
        """Begin a login on our own page; return the authorization URL it leads to."""
        page = page or self.page
        page.goto(f"{APP}/oauth/login" + (f"?next={next}" if next else ""))
        page.get_by_label("Handle").fill(handle)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{PDS_ORIGIN}/**")
        return page.url

    def approved(self, handle: str = "alice.test", *, page: Page | None = None) -> str:
        """Begin a login and consent; return the callback URL, not opened yet."""
        return self.stage.network.approve(self.begin(handle, page=page), handle)

    def login(self, handle: str = "alice.test") -> str:
        """Log in; return the DID."""
        self.page.goto(self.approved(handle))
        return self.did(handle)

    def did(self, handle: str = "alice.test") -> str:
        return self.stage.network.account(handle).did

    def who(self) -> str | None:
        """Return who a page of the app says is signed in, in this browser."""
        page = self.context.new_page()
        page.goto(f"{APP}/who")
        text = page.evaluate("JSON.parse(document.body.innerText).did")
        page.close()
        return None if text is None else str(text)

    def visit(self, html: str, origin: str = EVIL, *, path: str = "/") -> Page:
        """Open a page of the attacker's."""
        self.stage.attacker.html = html
        self.page.goto(f"{origin}{path}")
        return self.page


@contextlib.contextmanager
def stage(playwright: Playwright, folder: Path) -> Generator[Stage]:
    network = Network()
    oauth = ATProtoOAuth(
        APP,
        store="memory://",
        client_name=NAME,
        secret_keys=(b"k" * 32,),
        net_policy=network.policy(),
    )
    posted: list[str | None] = []

    async def post(request: Request) -> Response:
        session = session_or_none(request)
        posted.append(session.did if session else None)
        return JSONResponse({"posted_as": posted[-1]})

    inner = Starlette(
        routes=[
            Route("/", _home),
            Route("/who", _who),
            Route("/private", _private),
            Route("/post", post, methods=["POST"]),
            WebSocketRoute("/ws", _socket),
        ]
    )
    app: ASGIApp = ATProtoOAuthMiddleware(inner, oauth=oauth)
    network.register_client_app(APP, app)
    attacker = Attacker()
    hosts = [url.removeprefix("https://") for url in (APP, SIBLING, EVIL, PDS_ORIGIN)]
    certificate = folder / "sites.pem"
    issued = trustme.CA().issue_cert(*hosts)
    issued.private_key_and_cert_chain_pem.write_to_path(str(certificate))
    site = Served(app=app, certificate=certificate)
    evil = Served(app=attacker, certificate=certificate)
    server = Served(app=network.host.app, certificate=certificate)
    ports = [site.port, evil.port, evil.port, server.port]
    rules = ",".join(
        f"MAP {host}:443 127.0.0.1:{port}" for host, port in zip(hosts, ports, strict=True)
    )
    with (
        serving(site, evil, server),
        chromium(
            playwright, f"--host-resolver-rules={rules}", f"{_TRUST}={_key_hash(issued)}"
        ) as browser,
    ):
        yield Stage(network, oauth, attacker, browser, posted)
