"""Finding the `ATProtoOAuth` of an app, and the network that it reaches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast
from urllib.parse import urlsplit

from atproto_oauth_asgi.middleware import ATProtoOAuthMiddleware
from atproto_oauth_asgi.oauth import ATProtoOAuth
from atproto_oauth_asgi.testing.clients import AsyncClient, SyncClient, app_of
from atproto_oauth_asgi.testing.kit_errors import KitError
from atproto_oauth_asgi.testing.names import Names
from atproto_oauth_asgi.testing.network import Network

_DEEPEST = 50


def oauths_in(app: object) -> list[ATProtoOAuth]:
    """Return the `ATProtoOAuth`s of the middleware round an app, and in its mounts."""
    found: list[ATProtoOAuth] = []
    for each in _layers(app, _DEEPEST):
        if each not in found:
            found.append(each)
    return found


def _layers(app: object, depth: int) -> Iterator[ATProtoOAuth]:
    if app is None or depth == 0:
        return
    if isinstance(app, ATProtoOAuthMiddleware):
        yield app.oauth
    # Starlette and FastAPI build their middleware at the first request; until then it is a list.
    for added in cast("list[object]", getattr(app, "user_middleware", None) or []):
        given = cast("dict[str, object]", getattr(added, "kwargs", {})).get("oauth")
        if isinstance(given, ATProtoOAuth):
            yield given
    for route in cast("list[object]", getattr(app, "routes", None) or []):
        yield from _layers(getattr(route, "app", None), depth - 1)
    yield from _layers(getattr(app, "app", None), depth - 1)


def prepare(client: SyncClient | AsyncClient, oauth: ATProtoOAuth | None) -> ATProtoOAuth:
    """Return the `ATProtoOAuth` behind a client, and point the client to BASE_URL's origin.

    Starlette's default is `http://testserver`, where a client silently drops `__Host-` cookies.

    Raises:
        KitError: It cannot be told which it is, or the client goes somewhere else.
    """
    app = app_of(client)
    if oauth is None:
        found = oauths_in(app)
        if not found:
            what = "the client calls no app in this process" if app is None else f"{app!r} has none"
            raise KitError(
                f"No ATProtoOAuthMiddleware was found: {what}. Add it to the app, or name the"
                " object that logs people in: login(client, …, oauth=oauth)."
            )
        if len(found) > 1:
            origins = ", ".join(each.settings.base_url for each in found)
            raise KitError(
                f"This app has more than one ATProtoOAuth ({origins}); say which one is meant:"
                " login(client, …, oauth=oauth)."
            )
        oauth = found[0]
    origin = oauth.settings.origin
    if app is not None:
        if _origin(str(client.base_url)) != origin:
            client.base_url = origin  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  # the setter takes more than the getter gives
    elif _origin(str(client.base_url)) != origin:
        raise KitError(
            f"The client talks to {client.base_url} over a socket, but BASE_URL is"
            f" {oauth.settings.base_url}, the only address that cookies are for; serve the app"
            " there, or call it in this process with TestClient(app)."
        )
    return oauth


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def network_of(oauth: ATProtoOAuth) -> Network | None:
    """Return the network that an `ATProtoOAuth` reaches in this process, if it is one."""
    names = oauth.core.policy.apps
    return names.network if isinstance(names, Names) else None
