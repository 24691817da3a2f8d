"""Bodies, scopes and refusals that the methods of a PDS have in common (XRPC)."""

from __future__ import annotations

import json
from typing import cast

from atproto_oauth_asgi.testing.accounts import Account
from atproto_oauth_asgi.testing.permissions import Grants
from atproto_oauth_asgi.testing.sessions import Session
from atproto_oauth_asgi.testing.web import JSONObject, Request, XRPCRefusal


class Caller:
    """Is the account on whose behalf a call comes, with what it may do."""

    def __init__(self, session: Session, account: Account) -> None:
        self.session = session
        self.account = account
        self.grants = Grants(session.scope)


def require_method(request: Request, method: str) -> None:
    """Refuse another HTTP method than the lexicon names."""
    if request.method != method:
        raise XRPCRefusal(
            405, "InvalidRequest", f"Incorrect HTTP method ({request.method}) expected {method}"
        )


def require_active(caller: Caller) -> None:
    """Refuse writes of a deactivated account."""
    if caller.account.status != "active":
        raise XRPCRefusal(401, "AccountDeactivated", "Account is deactivated")


def missing_scope(scope: str) -> XRPCRefusal:
    """Return the refusal of a call whose session lacks a permission."""
    return XRPCRefusal(403, "ScopeMissingError", f'Missing required scope "{scope}"')


def invalid(message: str) -> XRPCRefusal:
    """Return the refusal of ill-formed input."""
    return XRPCRefusal(400, "InvalidRequest", message)


def json_body(request: Request) -> JSONObject:
    """Return the JSON object that a procedure was sent."""
    if request.content_type != "application/json":
        raise invalid(f"Wrong request encoding (Content-Type): {request.content_type}")
    try:
        value: object = json.loads(request.body)
    except ValueError as exc:
        raise XRPCRefusal(400, "SyntaxError", f"The body is no JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise invalid("Input must be an object")
    return cast("JSONObject", value)


def text(body: JSONObject, name: str) -> str:
    """Return a string member."""
    value = body.get(name)
    if not isinstance(value, str):
        raise invalid(f'Input must have the property "{name}"')
    return value
