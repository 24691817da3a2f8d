"""Our two cookies: an opaque session id, and a secret that binds logins to a browser."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

from atproto_oauth_asgi.settings import Settings

#: Seconds that a browser may take for a login; a sign-up waits for an e-mail.
LOGIN_AGE = 1800

_VALUE = re.compile(rb"[A-Za-z0-9_-]{43}")


def new_secret() -> str:
    """Return 256 random bits for a cookie."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class CookieChange:
    """What becomes of a browser's session cookie at a login."""

    #: What it presented, if it was signed in already.
    presented: str | None = field(repr=False)
    #: What it gets.
    new: str = field(repr=False)


class Cookies:
    """Reads and writes our cookies.

    Over https both have the `__Host-` prefix, so no sibling domain can plant one. In loopback
    development they are plain, and named after the port because cookies cross ports.
    """

    def __init__(self, settings: Settings) -> None:
        name = settings.cookie_name
        self._secure = not settings.loopback
        if self._secure:
            self.session, self.login = f"__Host-{name}", f"__Host-{name}-login"
        else:
            port = settings.base.port
            self.session, self.login = f"{name}-{port}", f"{name}-login-{port}"
        self._session_start = f"{self.session}=".encode()
        self._login_start = f"{self.login}=".encode()

    def read_session(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """Return the session cookie of a request, if it has one of the right form."""
        return _read(headers, self._session_start)

    def read_login(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """Return the login cookie of a request, if it has one of the right form."""
        return _read(headers, self._login_start)

    def set_session(self, value: str, *, max_age: int) -> str:
        """Return the Set-Cookie header that signs a browser in, for `max_age` seconds."""
        return self._header(self.session, value, max_age)

    def set_login(self, value: str) -> str:
        """Return the Set-Cookie header that binds this browser's logins to it."""
        return self._header(self.login, value, LOGIN_AGE)

    def clear_session(self) -> str:
        """Return the Set-Cookie header that forgets the session."""
        return self._header(self.session, "", 0)

    def _header(self, name: str, value: str, max_age: int) -> str:
        # Lax and not Strict: the callback is reached by a navigation from another site.
        header = f"{name}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={max_age}"
        return f"{header}; Secure" if self._secure else header


def _read(headers: Iterable[tuple[bytes, bytes]], start: bytes) -> str | None:
    for name, value in headers:
        if name == b"cookie" and start in value:
            for part in value.split(b";"):
                pair = part.strip()
                if pair.startswith(start):
                    found = pair[len(start) :]
                    return found.decode() if _VALUE.fullmatch(found) else None
    return None
