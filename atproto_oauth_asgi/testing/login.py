"""Logging a test client in, through the app's own routes and the network's pages."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import overload

from atproto_oauth_asgi.oauth import ATProtoOAuth
from atproto_oauth_asgi.testing.accounts import Account
from atproto_oauth_asgi.testing.clients import AsyncClient, Reply, SyncClient, carry_out
from atproto_oauth_asgi.testing.finding import network_of, prepare
from atproto_oauth_asgi.testing.kit_errors import KitError
from atproto_oauth_asgi.testing.login_flow import come_back, log_in, log_out
from atproto_oauth_asgi.testing.network import Network


@overload
def login(
    client: SyncClient,
    identifier: str,
    *,
    account: str | None = ...,
    scope: str | None = ...,
    granted: str | None = ...,
    add: bool = ...,
    oauth: ATProtoOAuth | None = ...,
) -> Account: ...
@overload
def login(
    client: AsyncClient,
    identifier: str,
    *,
    account: str | None = ...,
    scope: str | None = ...,
    granted: str | None = ...,
    add: bool = ...,
    oauth: ATProtoOAuth | None = ...,
) -> Awaitable[Account]: ...
def login(
    client: SyncClient | AsyncClient,
    identifier: str,
    *,
    account: str | None = None,
    scope: str | None = None,
    granted: str | None = None,
    add: bool = False,
    oauth: ATProtoOAuth | None = None,
) -> Account | Awaitable[Account]:
    """Log a person in as their browser would; await it for an asynchronous client.

    Login, consent and callback all happen, `on_login` with them, and the client ends up on
    BASE_URL's origin with the app's cookies.

    Args:
        client: `TestClient(app)`, or `httpx.AsyncClient` with an `ASGITransport`.
        identifier: What is typed into the login form: a handle, a DID, or a server's address.
        account: Who signs in at the server, where that is not who was typed.
        scope: What the app asks for, within SCOPE and OPTIONAL_SCOPE; None asks for SCOPE.
        granted: What the person leaves ticked of it; None grants all.
        add: Whether accounts that are signed in already stay.
        oauth: Which `ATProtoOAuth` is meant, where the app does not show it.

    Returns:
        The account of the network that signed in.

    Raises:
        LoginFailed: The login ended without a session.
        KitError: Something is missing in the set-up; the message says what to do.
    """
    oauth, network = _prepared(client, oauth)
    who = _account(network, account or identifier)
    form = _form(identifier, scope=scope, add=add)

    def approve(url: str) -> str:
        return network.approve(url, who.did, scope=granted)

    return carry_out(client, log_in(oauth, who, form, approve))


@overload
def deny(
    client: SyncClient,
    identifier: str,
    *,
    scope: str | None = ...,
    add: bool = ...,
    oauth: ATProtoOAuth | None = ...,
) -> Reply: ...
@overload
def deny(
    client: AsyncClient,
    identifier: str,
    *,
    scope: str | None = ...,
    add: bool = ...,
    oauth: ATProtoOAuth | None = ...,
) -> Awaitable[Reply]: ...
def deny(
    client: SyncClient | AsyncClient,
    identifier: str,
    *,
    scope: str | None = None,
    add: bool = False,
    oauth: ATProtoOAuth | None = None,
) -> Reply | Awaitable[Reply]:
    """Begin a login and press Cancel at the server; return what the app shows then.

    Args and errors are those of `login`.
    """
    oauth, network = _prepared(client, oauth)
    if "://" not in identifier:
        _account(network, identifier)
    form = _form(identifier, scope=scope, add=add)
    return carry_out(client, come_back(oauth, form, network.deny))


@overload
def sign_out(client: SyncClient, *, oauth: ATProtoOAuth | None = ...) -> None: ...
@overload
def sign_out(client: AsyncClient, *, oauth: ATProtoOAuth | None = ...) -> Awaitable[None]: ...
def sign_out(
    client: SyncClient | AsyncClient, *, oauth: ATProtoOAuth | None = None
) -> Awaitable[None] | None:
    """Sign the active account out, here and at its server.

    Raises:
        KitError: The app did not do it.
    """
    return carry_out(client, log_out(prepare(client, oauth)))


def _prepared(
    client: SyncClient | AsyncClient, oauth: ATProtoOAuth | None
) -> tuple[ATProtoOAuth, Network]:
    oauth = prepare(client, oauth)
    network = network_of(oauth)
    if network is None:
        raise KitError(
            f"The app at {oauth.settings.base_url} is attached to no network, so nobody can log"
            " in; use the atproto_network fixture, and call atproto_network.attach(oauth) first."
        )
    return oauth, network


def _account(network: Network, identifier: str) -> Account:
    try:
        return network.account(identifier.strip().removeprefix("@").removeprefix("at://"))
    except ValueError as exc:
        known = ", ".join(account.handle for host in network.hosts for account in host.accounts)
        what = "an address of a server" if "://" in identifier else f"no account, like {known}"
        mend = (
            'say who signs in there: login(client, …, account="alice.test")'
            if "://" in identifier
            else f"make it with atproto_network.add_account({identifier!r})"
        )
        raise KitError(f"{identifier!r} is {what}; {mend}.") from exc


def _form(identifier: str, *, scope: str | None, add: bool) -> dict[str, object]:
    form: dict[str, object] = {"identifier": identifier, "add": add}
    return form if scope is None else {**form, "scope": scope}
