"""Client ids and client metadata: what is fetched, accepted and refused."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.network.walker import JSON, Key
from tests.parity.client import Client, confidential
from tests.parity.scenario import Rows, scenario
from tests.parity.site import ClientFolder
from tests.parity.world import World

_PUBLIC: JSON = {
    "token_endpoint_auth_method": "none",
    "token_endpoint_auth_signing_alg": None,
    "jwks_uri": None,
}
_LOOPBACK = "http://127.0.0.1/callback"
_K1 = Key("k1")


def _with(**members: object) -> Callable[[ClientFolder], None]:
    return lambda folder: folder.change(**members)


def _public(**members: object) -> Callable[[ClientFolder], None]:
    return lambda folder: folder.change(**{**_PUBLIC, **members})


def _raw(content: bytes) -> Callable[[ClientFolder], None]:
    def change(folder: ClientFolder) -> None:
        folder.raw_metadata = content

    return change


def _status(status: int) -> Callable[[ClientFolder], None]:
    def change(folder: ClientFolder) -> None:
        folder.status = status

    return change


def _elsewhere(folder: ClientFolder) -> None:
    folder.change(redirect_uris=[_LOOPBACK, folder.redirect_uri], **_PUBLIC)
    folder.change(application_type="native")


_CHANGES: dict[str, Callable[[ClientFolder], None]] = {
    "metadata: public web client (none)": _public(),
    "metadata: inline jwks": _with(jwks_uri=None, jwks={"keys": [_K1.published]}),
    "metadata: jwks + jwks_uri": _with(jwks={"keys": [_K1.published]}),
    "metadata: no signing alg": _with(token_endpoint_auth_signing_alg=None),
    "metadata: no dpop_bound": _with(dpop_bound_access_tokens=None),
    "metadata: native + private_key_jwt": _with(application_type="native"),
    "metadata: loopback redirect, web": _public(redirect_uris=[_LOOPBACK]),
    "metadata: loopback redirect, native none": _elsewhere,
    "metadata: client_uri other origin": _with(client_uri="https://other.home.arpa"),
    "metadata: no atproto scope": _with(scope="transition:generic"),
    "metadata: wrong client_id": _with(client_id="https://app.home.arpa/other.json"),
    "metadata: no application_type": _with(application_type=None),
    "metadata: no refresh grant": _with(grant_types=["authorization_code"]),
    "metadata: private key in jwks": _with(jwks_uri=None, jwks={"keys": [_K1.private]}),
    "metadata: granular scopes": _with(
        scope="atproto transition:generic repo:app.bsky.feed.post blob:image/*"
    ),
    "metadata: not JSON": _raw(b"<!doctype html>"),
    "metadata: a JSON array": _raw(b"[]"),
    "metadata: too large": lambda folder: folder.change(client_name="x" * 600_000),
    "metadata: text/html": lambda folder: folder.answer_with("text/html"),
    "metadata: application/json with a charset": lambda folder: folder.answer_with(
        "application/json; charset=utf-8"
    ),
    "metadata: redirect": lambda folder: folder.redirect_to(folder.base + "/other.json"),
    "metadata: status 201": _status(201),
    "metadata: status 500": _status(500),
    "metadata: no redirect_uris": _with(redirect_uris=[]),
    "metadata: no response_types": _with(response_types=None),
    "metadata: response_types token": _with(response_types=["token"]),
    "metadata: unknown grant": _with(grant_types=["authorization_code", "implicit"]),
    "metadata: no grant_types": _with(grant_types=None),
    "metadata: client_secret_basic": _with(token_endpoint_auth_method="client_secret_basic"),
    "metadata: no auth method": _with(token_endpoint_auth_method=None),
    "metadata: signing alg none": _with(token_endpoint_auth_signing_alg="none"),
    "metadata: none with a signing alg": _public(token_endpoint_auth_signing_alg="ES256"),
    "metadata: no keys at all": _with(jwks_uri=None),
    "metadata: duplicate scope": _with(scope="atproto atproto"),
    "metadata: redirect to another https host": _with(
        redirect_uris=["https://other.home.arpa/callback"]
    ),
    "metadata: http redirect": _with(redirect_uris=["http://app.home.arpa/callback"]),
    "metadata: unknown member": _with(colour="green"),
    "metadata: client_name is a number": _with(client_name=5),
    "metadata: scope with two spaces": _with(scope="atproto  transition:generic"),
}


@scenario(*_CHANGES)
async def metadata(world: World, row: Rows) -> None:
    for name, change in _CHANGES.items():
        folder = world.site.folder(_K1)
        client = confidential(world, await world.account("alice.test"), folder, _K1)
        change(folder)
        if folder.metadata and folder.metadata.get("token_endpoint_auth_method") == "none":
            client.client_key = None
        redirects = (folder.metadata or {}).get("redirect_uris")
        if isinstance(redirects, list) and redirects:
            client.redirect_uri = str(redirects[0])  # pyright: ignore[reportUnknownArgumentType]
        row.answer(name, await client.par())


_JWKS: dict[str, tuple[bytes, str]] = {
    "jwks: not JSON": (b"{", "application/json"),
    "jwks: no keys member": (b"{}", "application/json"),
    "jwks: empty": (b'{"keys":[]}', "application/json"),
    "jwks: application/jwk-set+json": (
        json.dumps({"keys": [_K1.published]}).encode(),
        "application/jwk-set+json",
    ),
    "jwks: a private key": (json.dumps({"keys": [_K1.private]}).encode(), "application/json"),
}


@scenario(*_JWKS)
async def key_documents(world: World, row: Rows) -> None:
    for name, (content, kind) in _JWKS.items():
        folder = world.site.folder(_K1)
        client = confidential(world, await world.account("alice.test"), folder, _K1)
        folder.change(jwks_uri=f"{folder.base}/keys.json")
        folder.files["keys.json"] = (content, kind)
        row.answer(name, await client.par())


_CLIENT_IDS = (
    "http://127.0.0.1:44069/client-metadata.json",
    "https://127.0.0.1:44069/client-metadata.json",
    "https://localhost:44069/client-metadata.json",
    "https://app.test:44069/client-metadata.json",
    "http://app.home.arpa:44069/client-metadata.json",
    "https://unresolvable.home.arpa/client-metadata.json",
    "http://localhost/client-metadata.json",
    "https://app.home.arpa:44069/",
    "https://app.example.com/client-metadata.json",
    "https://app.home.arpa",
    "https://app.home.arpa/a/../client-metadata.json",
    "https://user@app.home.arpa/client-metadata.json",
    "https://app.home.arpa/client-metadata.json#x",
    "garbage",
)


@scenario(*(f"client_id {client_id}" for client_id in _CLIENT_IDS))
async def client_ids(world: World, row: Rows) -> None:
    alice = await world.account("alice.test")
    for client_id in _CLIENT_IDS:
        client = Client(world, alice, client_id=client_id)
        row.answer(f"client_id {client_id}", await client.par())
