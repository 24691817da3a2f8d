"""A session without a login: a row in the store, and its cookie in the client."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, overload
from urllib.parse import urlsplit

from joserfc import jwk

from atproto_oauth_asgi.cookies import new_secret
from atproto_oauth_asgi.core import Core
from atproto_oauth_asgi.dpop import DPoPKey
from atproto_oauth_asgi.keys import ClientKeys
from atproto_oauth_asgi.oauth import ATProtoOAuth
from atproto_oauth_asgi.scopes import canonical
from atproto_oauth_asgi.sessions import cookie_hash, unended
from atproto_oauth_asgi.store import BrowserLogin, NewSession
from atproto_oauth_asgi.testing.client_authentication import ClientAuth
from atproto_oauth_asgi.testing.clients import AsyncClient, SyncClient, is_async
from atproto_oauth_asgi.testing.finding import network_of, prepare
from atproto_oauth_asgi.testing.kit_errors import KitError
from atproto_oauth_asgi.testing.network import Network
from atproto_oauth_asgi.testing.offline import ISSUER, PDS, offline
from atproto_oauth_asgi.tokens import Tokens
from atproto_oauth_asgi.vault import Owner

# As after a login whose server gives tokens for an hour.
_LIFE_MS = 3_600_000
_REFRESH_AFTER_MS = 10_000


@overload
def signed_in(
    client: SyncClient,
    *,
    did: str,
    handle: str | None = ...,
    scopes: str | Iterable[str] | None = ...,
    add: bool = ...,
    oauth: ATProtoOAuth | None = ...,
) -> None: ...
@overload
def signed_in(
    client: AsyncClient,
    *,
    did: str,
    handle: str | None = ...,
    scopes: str | Iterable[str] | None = ...,
    add: bool = ...,
    oauth: ATProtoOAuth | None = ...,
) -> Awaitable[None]: ...
def signed_in(
    client: SyncClient | AsyncClient,
    *,
    did: str,
    handle: str | None = None,
    scopes: str | Iterable[str] | None = None,
    add: bool = False,
    oauth: ATProtoOAuth | None = None,
) -> Awaitable[None] | None:
    """Sign a client in without a login; await it for an asynchronous client.

    Nothing is asked and nothing is sent: `on_login` does not run, so make what it would have made.
    Without an attached network the app reaches nothing until the end of the test, its sessions
    are kept in memory, and a call to the PDS fails the test with a sentence. With one, the
    account's tokens are live.

    Args:
        client: As for `login`.
        did: The account; on an attached network it must be one of its accounts.
        handle: Its handle; None is a handle that could not be verified.
        scopes: What was granted; None is the app's SCOPE.
        add: Whether accounts that are signed in already stay.
        oauth: Which `ATProtoOAuth` is meant, where the app does not show it.

    Raises:
        KitError: Something is missing in the set-up; the message says what to do.
    """
    if not did.startswith("did:"):
        raise KitError(
            f"{did!r} is not a DID, which signed_in() needs because it looks nothing up; write"
            ' it like did="did:plc:ewvi7nxzyoun6zhxrhs64oiz", or use login() with a handle.'
        )
    oauth = prepare(client, oauth)
    network = network_of(oauth)
    if network is None:
        offline(oauth)
    if scopes is None:
        scopes = oauth.settings.scope
    granted = canonical(["atproto", *([scopes] if isinstance(scopes, str) else scopes)])
    cookie = new_secret()
    existing: str | None = client.cookies.get(oauth.cookies.session)

    async def make() -> None:
        await oauth.open()
        await _write(oauth.core, network, did, handle, granted, cookie, existing if add else None)
        host = urlsplit(oauth.settings.origin).hostname or ""
        # The cookie jar of the standard library knows a host without a dot by this name.
        domain = host if "." in host else f"{host}.local"
        client.cookies.set(oauth.cookies.session, cookie, domain=domain, path="/")

    if is_async(client):
        return make()
    _run(client, make)
    return None


async def _write(
    core: Core,
    network: Network | None,
    did: str,
    handle: str | None,
    scope: str,
    cookie: str,
    presented: str | None,
) -> None:
    key = DPoPKey.generate()
    issuer, tokens = _granted(core, network, did, scope, key)
    owner = Owner(
        session_id=secrets.token_urlsafe(16),
        did=did,
        issuer=issuer,
        client_id=core.client.client_id,
    )
    lifetime_ms = core.settings.session_max_age * 1000
    loaded = await core.store.load(cookie_hash(presented)) if presented else None
    replaced = [
        row.id
        for row in (await unended(core.store, loaded.browser_id) if loaded else [])
        if row.did == did
    ]
    browser = BrowserLogin(
        id=loaded.browser_id if loaded else secrets.token_urlsafe(16),
        cookie_hash=cookie_hash(cookie),
        lifetime_ms=lifetime_ms,
        presented=cookie_hash(presented) if loaded and presented else None,
    )
    session = NewSession(
        id=owner.session_id,
        client_id=owner.client_id,
        did=did,
        issuer=issuer,
        handle=handle,
        scope=scope,
        pds=tokens.pds,
        client_kid=core.settings.client_keys.signing_kid if core.settings.client_keys else None,
        sealed_dpop_key=core.vault.seal_key(owner, key),
        sealed_tokens=core.vault.seal_tokens(owner, tokens),
        sealed_key=core.vault.key_id,
        sent_ago_ms=0,
        life_ms=_LIFE_MS,
        refresh_after_ms=_REFRESH_AFTER_MS,
        lifetime_ms=lifetime_ms,
    )
    await core.store.create_session(session, browser=browser, replaces=replaced)


def _granted(
    core: Core, network: Network | None, did: str, scope: str, key: DPoPKey
) -> tuple[str, Tokens]:
    """Return issuer and tokens, live ones where there is a server for the account."""
    if network is None:
        return ISSUER, Tokens(access_token="none", refresh_token="none", pds=PDS)
    for host in network.hosts:
        account = host.accounts.find(did)
        if account is None:
            continue
        server = host.authorization_server
        _, body = server.sessions.start(
            did=did,
            client_id=core.client.client_id,
            client_auth=_client_auth(core.settings.client_keys),
            jkt=key.thumbprint,
            scope=scope,
            code=secrets.token_hex(32),
            refreshable=True,
        )
        tokens = Tokens(
            access_token=str(body["access_token"]),
            refresh_token=str(body["refresh_token"]),
            pds=account.pds,
        )
        return server.issuer, tokens
    known = ", ".join(account.did for host in network.hosts for account in host.accounts)
    raise KitError(
        f"The attached network has no account {did}, only {known}; make one with"
        ' account = atproto_network.add_account("carol.test") and use account.did.'
    )


def _client_auth(keys: ClientKeys | None) -> ClientAuth:
    if keys is None:
        return ClientAuth(method="none")
    documents: Any = keys.public_jwks()["keys"]
    (document,) = [each for each in documents if each["kid"] == keys.signing_kid]
    thumbprint = jwk.import_key(document).thumbprint()
    return ClientAuth(
        method="private_key_jwt", kid=keys.signing_kid, algorithm="ES256", jkt=thumbprint
    )


def _run(client: SyncClient | AsyncClient, make: Callable[[], Awaitable[None]]) -> None:
    portal: Any = getattr(client, "portal", None)
    if portal is not None:
        # `with TestClient(app)` has an event loop: the app's.
        portal.call(make)
        return

    async def main() -> None:
        await make()

    # A thread of its own, since this one may be running an event loop.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, main()).result()
