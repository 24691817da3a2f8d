from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable

from atproto_oauth_asgi.testing.accounts import Accounts
from atproto_oauth_asgi.testing.permissions import needed
from atproto_oauth_asgi.testing.web import Answer, JSONObject, Request, XRPCRefusal, json_answer
from atproto_oauth_asgi.testing.xrpc import Caller, invalid, json_body, missing_scope, text

_MANAGE_STATUS = needed("account", "status", action="manage")
_SERVICE_TOKEN_LIFE = 60


class AccountMethods:
    """Answers `com.atproto.server` and `com.atproto.identity`, for what OAuth sessions may call."""

    def __init__(self, *, accounts: Accounts, clock: Callable[[], float]) -> None:
        self._accounts = accounts
        self._clock = clock

    async def get_session(self, _request: Request, caller: Caller) -> Answer:
        """Answer `getSession`; the e-mail address is there only with its permission."""
        account = caller.account
        body: JSONObject = {"did": account.did, "handle": account.handle}
        if caller.grants.allows_email():
            body |= {"email": account.email, "emailConfirmed": False}
        body["active"] = account.status == "active"
        if account.status != "active":
            body["status"] = account.status
        return json_answer(200, body)

    async def get_service_auth(self, request: Request, caller: Caller) -> Answer:
        """Answer `getServiceAuth`; the token is signed with no key that anybody could check."""
        audience = request.parameter("aud")
        if audience is None:
            raise invalid('Error: Params must have the property "aud"')
        method = request.parameter("lxm")
        if not caller.grants.allows_rpc(method or "*", audience):
            raise missing_scope(needed("rpc", method or "*", aud=audience))
        now = int(self._clock())
        claims: JSONObject = {
            "iat": now,
            "iss": caller.account.did,
            "aud": audience,
            "exp": now + _SERVICE_TOKEN_LIFE,
            "jti": secrets.token_hex(16),
            **({} if method is None else {"lxm": method}),
        }
        parts = [{"typ": "JWT", "alg": "ES256K"}, claims]
        signed = ".".join(_encoded(json.dumps(part).encode()) for part in parts)
        token = f"{signed}.{_encoded(secrets.token_bytes(64))}"
        return json_answer(200, {"token": token})

    async def update_handle(self, request: Request, caller: Caller) -> Answer:
        """Answer `updateHandle`."""
        if not caller.grants.allows_identity("handle"):
            raise missing_scope(needed("identity", "handle"))
        handle = text(json_body(request), "handle").lower()
        taken = self._accounts.find(handle)
        if taken is not None and taken is not caller.account:
            raise XRPCRefusal(400, "HandleNotAvailable", f"Handle already taken: {handle}")
        caller.account.handle = handle
        return Answer(status=200)

    async def deactivate(self, _request: Request, caller: Caller) -> Answer:
        """Answer `deactivateAccount`."""
        if not caller.grants.allows_account("status", "manage"):
            raise missing_scope(_MANAGE_STATUS)
        caller.account.status = "deactivated"
        return Answer(status=200)

    async def activate(self, _request: Request, caller: Caller) -> Answer:
        """Answer `activateAccount`."""
        if not caller.grants.allows_account("status", "manage"):
            raise missing_scope(_MANAGE_STATUS)
        caller.account.status = "active"
        return Answer(status=200)

    async def email_refused(self, _request: Request, _caller: Caller) -> Answer:
        """Answer `requestEmailUpdate`, which no OAuth session may call."""
        raise XRPCRefusal(
            403,
            "Forbidden",
            "Use the account manager interface to update email address associated with an account",
        )


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
