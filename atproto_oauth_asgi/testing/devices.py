"""Browsers that came to one authorization server, and the accounts remembered on each."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable

from atproto_oauth_asgi.testing.web import Request

#: Seconds after which a remembered account has to type its password again.
LOGIN_LIFE = 7 * 86_400.0
_COOKIE_LIFE = 365 * 86_400
_MOST = 10_000
_PATH = "/oauth/authorize"


class Devices:
    """Knows each browser by a cookie that says nothing but who it is."""

    def __init__(self, *, issuer: Callable[[], str], clock: Callable[[], float]) -> None:
        self._issuer = issuer
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        #: Device → DID → when that account typed its password here.
        self._remembered: dict[str, dict[str, float]] = {}

    def find(self, request: Request) -> str | None:
        """Return the device of a request if this server gave it its name."""
        device = request.cookie(self._cookie_name)
        return device if device in self._remembered else None

    def add(self) -> str:
        """Name a browser that has not been here."""
        if len(self._remembered) >= _MOST:
            del self._remembered[next(iter(self._remembered))]
        device = "dev-" + secrets.token_hex(16)
        self._remembered[device] = {}
        return device

    def cookie(self, device: str) -> str:
        """Return the value of `Set-Cookie` for a device."""
        secure = "; Secure" if self._issuer().startswith("https:") else ""
        return (
            f"{self._cookie_name}={device}; Path={_PATH}; Max-Age={_COOKIE_LIFE}; HttpOnly;"
            f" SameSite=Lax{secure}"
        )

    def remember(self, device: str, did: str) -> None:
        """Remember an account that typed its password just now."""
        self._remembered[device].pop(did, None)
        self._remembered[device][did] = self._clock()

    def forget(self, device: str | None, did: str) -> None:
        """Forget an account; nothing happens if it was not remembered."""
        self._remembered.get(device or "", {}).pop(did, None)

    def remembered(self, device: str) -> dict[str, bool]:
        """Return the remembered accounts, and whether each has to type its password again."""
        now = self._clock()
        return {did: now - then > LOGIN_LIFE for did, then in self._remembered[device].items()}

    def form_token(self, device: str, request_uri: str) -> str:
        """Return what a form of a page must bring back, against forms of other sites."""
        message = f"{device} {request_uri}".encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()

    @property
    def _cookie_name(self) -> str:
        # Cookies cross ports, and every server of a network is on localhost.
        port = self._issuer().rpartition(":")[2]
        return f"network-device-{port}" if port.isdecimal() else "network-device"
