"""The client that scenarios use: the walker of tests/network, which meets any nonce challenge."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import cast
from urllib.parse import urlencode

import httpx

from tests.network.walker import (
    JSON,
    REDIRECT_URI,
    SCOPE,
    Key,
    Walker,
    loopback_client_id,
    parameters,
)
from tests.parity.site import ClientFolder
from tests.parity.world import Account, World

POST = "app.bsky.feed.post"


class Client(Walker):
    """Is a client of one world. `account` is who signs in."""

    def __init__(
        self,
        world: World,
        account: Account,
        *,
        scope: str = SCOPE,
        client_id: str | None = None,
        client_key: Key | None = None,
        redirect_uri: str = REDIRECT_URI,
    ) -> None:
        super().__init__(
            None,
            world.http,
            clock=world.now,
            client_id=client_id or loopback_client_id(redirect_uri, scope),
            client_key=client_key,
            redirect_uri=redirect_uri,
            scope=scope,
            origin=world.issuer,
        )
        self.world = world
        self.person = account

    async def post(
        self,
        path: str,
        form: Mapping[str, str | None],
        *,
        key: Key | None = None,
        client_key: Key | None = None,
        assertion: Mapping[str, object] | None = None,
        dpop: str | None = "fresh",
        claims: Mapping[str, object] | None = None,
    ) -> httpx.Response:
        """Post a form; a nonce challenge that was not asked for is met once."""
        for again in (True, False):
            answer = await super().post(
                path,
                form,
                key=key,
                client_key=client_key,
                assertion=assertion,
                dpop=dpop,
                claims=claims,
            )
            if not again or "nonce" in (claims or {}) or dpop != "fresh" or not challenged(answer):
                return answer
        raise AssertionError

    async def xrpc(
        self,
        nsid: str,
        token: object,
        *,
        method: str = "GET",
        body: JSON | None = None,
        data: bytes | None = None,
        content_type: str = "application/octet-stream",
        query: Mapping[str, str] | None = None,
        scheme: str = "DPoP",
        key: Key | None = None,
        dpop: str | None = "fresh",
        claims: Mapping[str, object] | None = None,
    ) -> httpx.Response:
        """Call the PDS; a nonce challenge that was not asked for is met once."""
        for again in (True, False):
            answer = await super().xrpc(
                nsid,
                token,
                method=method,
                body=body,
                data=data,
                content_type=content_type,
                query=query,
                scheme=scheme,
                key=key,
                dpop=dpop,
                claims=claims,
            )
            if not again or "nonce" in (claims or {}) or dpop != "fresh" or not challenged(answer):
                return answer
        raise AssertionError

    async def par(self, *, dpop: str | None = "fresh", **fields: str | None) -> httpx.Response:
        """Push a request with a new state and verifier."""
        self.verifier = secrets.token_urlsafe(48)
        self.state = secrets.token_urlsafe(12)
        if dpop == "fresh" and self.nonce is None:
            await super().post("/oauth/par", {"response_type": "code"})
        return await self.post("/oauth/par", {**self.request_form(), **fields}, dpop=dpop)

    async def code(self, account: str = "", scope: str | None = None) -> str:
        """Log in as the client's account up to the code."""
        del account
        url = await self.authorize_url()
        return parameters(await self.world.approve(url, self.person, scope=scope))["code"]

    async def grant(self, scope: str | None = None) -> Grant:
        """Log in, and return the tokens."""
        return Grant(self, await self.login(scope=scope))

    def request_url(self, request_uri: str, client_id: str | None = None) -> str:
        """Return the authorization URL of any request_uri."""
        query = {"client_id": client_id or self.client_id, "request_uri": request_uri}
        return f"{self.url('/oauth/authorize')}?{urlencode(query)}"

    async def create_record(self, token: object, collection: str = POST) -> httpx.Response:
        """Write a record."""
        record = {"$type": collection, "text": "hello", "createdAt": "2026-01-01T00:00:00.000Z"}
        body: JSON = {"repo": self.person.did, "collection": collection, "record": record}
        return await self.xrpc("com.atproto.repo.createRecord", token, method="POST", body=body)


class Grant:
    """Is a session of a client, with the tokens it holds now."""

    def __init__(self, client: Client, tokens: JSON) -> None:
        self.client = client
        self.tokens = tokens

    @property
    def access(self) -> str:
        """Return the access token."""
        return str(self.tokens["access_token"])

    @property
    def refresh(self) -> str:
        """Return the refresh token."""
        return str(self.tokens["refresh_token"])

    async def renew(self, **options: Key) -> httpx.Response:
        """Refresh, and keep the new tokens if there are any."""
        answer = await self.client.refresh(self.refresh, **options)
        if answer.status_code == 200:
            self.tokens = cast("JSON", answer.json())
        return answer

    async def session(self) -> httpx.Response:
        """Ask the PDS who is signed in."""
        return await self.client.get_session(self.access)

    async def lives(self) -> dict[str, bool]:
        """Tell whether the access token, then the refresh token, are good; the latter is used."""
        access = (await self.session()).status_code == 200
        return {"access": access, "refresh": (await self.renew()).status_code == 200}


def confidential(world: World, account: Account, folder: ClientFolder, key: Key) -> Client:
    """Return the client that a folder of the site describes."""
    return Client(
        world,
        account,
        client_id=folder.client_id,
        client_key=key,
        redirect_uri=folder.redirect_uri,
    )


def challenged(answer: httpx.Response) -> bool:
    """Tell whether an answer asks for a DPoP nonce."""
    if answer.status_code == 401:
        return "use_dpop_nonce" in answer.headers.get("www-authenticate", "")
    return answer.status_code == 400 and '"use_dpop_nonce"' in answer.text
