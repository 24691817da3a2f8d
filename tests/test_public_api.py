"""What `import atproto_oauth_asgi` promises; a name more is a promise more."""

from __future__ import annotations

import atproto_oauth_asgi

NAMES = {
    "ATProtoOAuth",
    "ATProtoOAuthError",
    "ATProtoOAuthMiddleware",
    "ClientKeys",
    "Event",
    "Login",
    "LoginRefused",
    "OAuthSession",
    "Store",
    "covers",
    "error_response",
    "requires_scope",
    "session_from",
    "session_or_none",
}


def reexported() -> set[str]:
    """Return the names that belong to other modules; submodules are there by being imported."""
    return {
        name
        for name, value in vars(atproto_oauth_asgi).items()
        if not name.startswith("_") and hasattr(value, "__module__") and name != "annotations"
    }


def test_the_public_names_are_these() -> None:
    assert reexported() == NAMES
    assert len(NAMES) <= 15


def test_every_public_name_is_documented() -> None:
    for name in NAMES:
        assert getattr(atproto_oauth_asgi, name).__doc__, name


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert atproto_oauth_asgi.__version__ == version("atproto-oauth-asgi")
