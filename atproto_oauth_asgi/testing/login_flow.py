"""What a browser does for a login and a logout, as steps that any client can carry out."""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import cast

from atproto_oauth_asgi.oauth import ATProtoOAuth
from atproto_oauth_asgi.testing.accounts import Account
from atproto_oauth_asgi.testing.clients import Call, Flow, Reply
from atproto_oauth_asgi.testing.kit_errors import KitError, LoginFailed

#: What a browser sends when the authorization server sends it back.
_BACK = {
    "accept": "text/html",
    "sec-fetch-dest": "document",
    "sec-fetch-mode": "navigate",
    "sec-fetch-site": "cross-site",
}
_NOT_TEXT = re.compile(r"<(style|title|script)\b.*?</\1>|<[^>]*>", re.DOTALL)
_LONGEST = 300


class _Reasons(logging.Handler):
    """Listens to why a login failed, which the page for the person does not say."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.code: str | None = None
        self.why = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "login.failed":
            self.code = getattr(record, "error", None)
            self.why = str(getattr(record, "why", ""))


@contextmanager
def _listening() -> Generator[_Reasons]:
    reasons, logger = _Reasons(), logging.getLogger("atproto_oauth_asgi")
    logger.addHandler(reasons)
    try:
        yield reasons
    finally:
        logger.removeHandler(reasons)


def log_in(
    oauth: ATProtoOAuth,
    account: Account,
    form: Mapping[str, object],
    approve: Callable[[str], str],
) -> Flow[Account]:
    """Begin a login, let the person decide, come back, and look who is signed in.

    Raises:
        LoginFailed: Nobody is, or somebody else.
    """
    with _listening() as reasons:
        reply = yield from _visit(oauth, form, approve, reasons)
        url = f"{oauth.settings.base_url}{oauth.settings.prefix}/session"
        session = yield Call(method="GET", url=url, headers={"accept": "application/json"})
        # Who was signed in before is still, after a login that failed.
        new = f"{oauth.cookies.session}=" in reply.headers.get("set-cookie", "")
        if not new or _object(session).get("did") != account.did:
            raise _failed("The callback made no session", reply, reasons)
        return account


def come_back(
    oauth: ATProtoOAuth, form: Mapping[str, object], decide: Callable[[str], str]
) -> Flow[Reply]:
    """Begin a login, let the person decide, and return what the app answers to that.

    Raises:
        LoginFailed: It could not be begun.
    """
    with _listening() as reasons:
        return (yield from _visit(oauth, form, decide, reasons))


def log_out(oauth: ATProtoOAuth) -> Flow[None]:
    """Post to the logout route as a script of the app's own page does.

    Raises:
        KitError: The app did not answer as the route does.
    """
    url = f"{oauth.settings.base_url}{oauth.settings.prefix}/logout"
    reply = yield Call(method="POST", url=url, json={}, headers=_own_script(oauth))
    if reply.status_code != HTTPStatus.NO_CONTENT:
        raise KitError(_not_ours("POST", url, reply))


def _visit(
    oauth: ATProtoOAuth,
    form: Mapping[str, object],
    decide: Callable[[str], str],
    reasons: _Reasons,
) -> Flow[Reply]:
    url = f"{oauth.settings.base_url}{oauth.settings.prefix}/login"
    begun = yield Call(method="POST", url=url, json=form, headers=_own_script(oauth))
    answer = _object(begun)
    if "error" in answer:
        reasons.code = reasons.code or str(answer["error"])
        raise _failed("The login was not begun", begun, reasons)
    if not isinstance(answer.get("url"), str):
        raise KitError(_not_ours("POST", url, begun))
    try:
        back = decide(str(answer["url"]))
    except ValueError as exc:
        raise KitError(f"The authorization server does not let the login go on: {exc}") from exc
    return (yield Call(method="GET", url=back, headers=_BACK))


def _own_script(oauth: ATProtoOAuth) -> dict[str, str]:
    return {
        "accept": "application/json",
        "origin": oauth.settings.origin,
        "sec-fetch-mode": "cors",
        "sec-fetch-site": "same-origin",
    }


def _object(reply: Reply) -> dict[str, object]:
    if reply.headers.get("content-type", "").partition(";")[0] != "application/json":
        return {}
    document: object = reply.json()
    return cast("dict[str, object]", document) if isinstance(document, dict) else {}


def _failed(what: str, reply: Reply, reasons: _Reasons) -> LoginFailed:
    why = f"{reasons.code}: {reasons.why}".rstrip(": ") if reasons.code else _words(reply)
    return LoginFailed(
        f"{what}; the app answered {reply.status_code}. {why}", code=reasons.code, response=reply
    )


def _not_ours(method: str, url: str, reply: Reply) -> str:
    return (
        f"The app answered {reply.status_code} to {method} {url}, which is not the answer of"
        " ATProtoOAuthMiddleware; is the middleware round this very app, outside of what answered"
        f" there, and under the path of BASE_URL? It said: {_words(reply)}"
    )


def _words(reply: Reply) -> str:
    text = html.unescape(_NOT_TEXT.sub(" ", reply.text))
    return " ".join(text.split())[:_LONGEST]
