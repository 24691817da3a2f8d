"""What the test kit raises: assertion errors, so that a test that meets one fails by name."""

from __future__ import annotations

from atproto_oauth_asgi.testing.clients import Reply


class KitError(AssertionError):
    """Says what is missing or wrong in a test's set-up, and what to do about it."""


class LoginFailed(KitError):
    """Says why a login ended without a session; tests of refusals expect it."""

    def __init__(self, message: str, *, code: str | None, response: Reply) -> None:
        super().__init__(message)
        #: The stable code of the library's error, such as `login_refused`, where there was one.
        self.code = code
        #: What the app answered.
        self.response = response
