"""Cases of confidential clients as recorded on the reference server, by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from atproto_oauth_asgi.testing import Network
from tests.network.walker import JSON, Clock, Key, Walker

pytestmark = pytest.mark.anyio

ORIGIN = "https://app.home.arpa"
CLIENT_ID = f"{ORIGIN}/client-metadata.json"
REDIRECT_URI = f"{ORIGIN}/callback"


class Client:
    """Is a client's web site; its documents can be changed or taken away."""

    def __init__(self, *keys: Key) -> None:
        self.metadata: JSON | None = {
            "client_id": CLIENT_ID,
            "redirect_uris": [REDIRECT_URI],
            "scope": "atproto transition:generic",
            "response_types": ["code"],
            "grant_types": ["authorization_code", "refresh_token"],
            "application_type": "web",
            "token_endpoint_auth_method": "private_key_jwt",
            "token_endpoint_auth_signing_alg": "ES256",
            "dpop_bound_access_tokens": True,
            "jwks_uri": f"{ORIGIN}/jwks.json",
        }
        self.publish(*keys)
        self.media_type = "application/json"

    def publish(self, *keys: Key) -> None:
        self.jwks: JSON | None = {"keys": [key.published for key in keys]}

    def change(self, **members: object) -> None:
        merged = {**(self.metadata or {}), **members}
        self.metadata = {name: value for name, value in merged.items() if value is not None}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self.jwks if scope["path"] == "/jwks.json" else self.metadata
        status = 404 if found is None else 200
        headers = [(b"content-type", self.media_type.encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(found).encode()})


@pytest.fixture
def keys() -> tuple[Key, Key]:
    return Key("k1"), Key("k2")


@pytest.fixture
def client(network: Network, keys: tuple[Key, Key]) -> Client:
    site = Client(keys[0])
    network.register_client_app(ORIGIN, site)
    return site


@pytest.fixture
def confidential(
    network: Network,
    http: httpx.AsyncClient,
    clock: Clock,
    client: Client,
    keys: tuple[Key, Key],
) -> Walker:
    return Walker(
        network,
        http,
        clock=clock,
        client_id=CLIENT_ID,
        client_key=keys[0],
        redirect_uri=REDIRECT_URI,
    )


def refusal(answer: httpx.Response) -> tuple[str, str]:
    assert answer.status_code == 400
    body = cast("dict[str, str]", answer.json())
    return body["error"], body["error_description"]


async def test_a_confidential_client_logs_in_refreshes_and_revokes(
    confidential: Walker, network: Network
) -> None:
    tokens = await confidential.login()
    refreshed = (await confidential.refresh(tokens["refresh_token"])).json()
    session = await confidential.get_session(refreshed["access_token"])
    await confidential.revoke(refreshed["refresh_token"])

    assert session.status_code == 200
    assert network.sessions() == []


FAILED = 'Validation of "client_assertion" failed: '
ASSERTIONS: dict[str, tuple[dict[str, object], str]] = {
    "assertion aud=token endpoint": (
        {"aud": "https://pds.example/oauth/token"},
        'unexpected "aud" claim value',
    ),
    "assertion wrong aud": ({"aud": "https://other.example"}, 'unexpected "aud" claim value'),
    "assertion wrong sub": ({"sub": "x"}, 'unexpected "sub" claim value'),
    "assertion wrong iss": ({"iss": "x"}, 'unexpected "iss" claim value'),
    "assertion iat -5min": (
        {"iat": 1_800_000_000 - 300},
        '"iat" claim timestamp check failed (too far in the past)',
    ),
    "assertion iat +1s": (
        {"iat": 1_800_000_001},
        '"iat" claim timestamp check failed (it should be in the past)',
    ),
    "assertion expired": ({"exp": 1_800_000_000}, '"exp" claim timestamp check failed'),
    "assertion without jti": ({"jti": None}, 'missing required "jti" claim'),
}


async def push(walker: Walker, **assertion: object) -> httpx.Response:
    await walker.par()
    return await walker.post("/oauth/par", walker.request_form(), assertion=assertion)


@pytest.mark.parametrize("name", ASSERTIONS)
@pytest.mark.spec("E21", "E22", "E23")
async def test_refused_assertions(name: str, confidential: Walker) -> None:
    claims, reason = ASSERTIONS[name]

    assert refusal(await push(confidential, **claims)) == ("invalid_client", FAILED + reason)


@pytest.mark.parametrize(
    "claims",
    [{"exp": 1_800_003_600}, {"aud": ["https://pds.example", "https://other.example"]}],
    ids=["assertion exp +1h", "assertion aud list"],
)
async def test_accepted_assertions(claims: Mapping[str, object], confidential: Walker) -> None:
    assert (await push(confidential, **claims)).status_code == 201


async def test_assertion_jti_reused(confidential: Walker) -> None:
    first = await push(confidential, jti="once")
    second = await push(confidential, jti="once")

    assert first.status_code == 201
    assert refusal(second) == ("invalid_grant", "private_key_jwt jti reused")


async def test_assertions_of_other_keys(confidential: Walker) -> None:
    await confidential.par()
    form = confidential.request_form()
    forged = await confidential.post("/oauth/par", form, client_key=Key("k1"))
    unknown = await confidential.post("/oauth/par", form, client_key=Key("k9"))

    assert refusal(forged) == ("invalid_client", FAILED + "signature verification failed")
    assert refusal(unknown) == (
        "invalid_client",
        FAILED + "no applicable key found in the JSON Web Key Set",
    )


async def test_assertion_without_kid(confidential: Walker, keys: tuple[Key, Key]) -> None:
    keys[0].kid = None
    answer = await confidential.par()

    assert refusal(answer) == ("invalid_client", '"kid" required in client_assertion')


async def test_no_assertion(confidential: Walker) -> None:
    confidential.client_key = None

    assert refusal(await confidential.par()) == (
        "invalid_request",
        'client authentication method "private_key_jwt" required a "client_assertion"',
    )


OTHER_KEY = (
    "invalid_grant",
    "The session was initiated with a different key than the client assertion currently used",
)


@pytest.mark.spec("E26", "J10")
async def test_a_session_dies_when_refreshed_with_another_published_key(
    confidential: Walker, client: Client, keys: tuple[Key, Key]
) -> None:
    client.publish(keys[1], keys[0])
    tokens = await confidential.login()
    other = await confidential.refresh(tokens["refresh_token"], client_key=keys[1])
    right = await confidential.refresh(tokens["refresh_token"])

    assert refusal(other) == OTHER_KEY
    assert refusal(right) == ("invalid_grant", "Invalid refresh token")


async def test_a_code_cannot_be_exchanged_with_another_key_than_par(
    confidential: Walker, client: Client, keys: tuple[Key, Key]
) -> None:
    client.publish(*keys)
    code = await confidential.code()

    assert refusal(await confidential.exchange(code, client_key=keys[1])) == OTHER_KEY


async def test_a_removed_key_refuses_refresh_but_keeps_the_session(
    confidential: Walker, client: Client, keys: tuple[Key, Key], network: Network
) -> None:
    tokens = await confidential.login()
    client.publish(keys[1])
    network.forget_clients()
    refused = await confidential.refresh(tokens["refresh_token"])
    revoked = await confidential.revoke(tokens["refresh_token"])
    access = await confidential.get_session(tokens["access_token"])
    client.publish(*keys)
    network.forget_clients()

    assert refusal(refused) == (
        "invalid_client",
        FAILED + "no applicable key found in the JSON Web Key Set",
    )
    assert (revoked.status_code, revoked.json()) == (200, {})
    assert access.status_code == 200
    assert (await confidential.refresh(tokens["refresh_token"])).status_code == 200


async def test_revoking_with_another_key_says_yes_and_does_nothing(
    confidential: Walker, client: Client, keys: tuple[Key, Key], network: Network
) -> None:
    client.publish(*keys)
    tokens = await confidential.login()
    answer = await confidential.revoke(tokens["refresh_token"], client_key=keys[1])

    assert (answer.status_code, answer.json()) == (200, {})
    assert len(network.sessions()) == 1


async def test_keys_and_metadata_are_cached_for_ten_minutes(
    confidential: Walker, client: Client, keys: tuple[Key, Key], clock: Clock
) -> None:
    await confidential.par()
    client.publish(keys[1])
    clock.advance(599)
    confidential.nonce = None
    still = await confidential.par()
    confidential.client_key = keys[1]
    early = await confidential.par()
    clock.advance(2)
    confidential.client_key = keys[1]
    late = await confidential.par()

    assert still.status_code == 201
    assert early.json()["error"] == "invalid_client"
    assert late.status_code == 201


async def test_missing_documents(confidential: Walker, client: Client, network: Network) -> None:
    tokens = await confidential.login()
    metadata, jwks = client.metadata, client.jwks
    client.jwks = None
    network.forget_clients()
    no_keys = await confidential.par()
    client.jwks, client.metadata = jwks, None
    network.forget_clients()
    no_metadata = await confidential.refresh(tokens["refresh_token"])
    client.metadata = metadata
    back = await confidential.refresh(tokens["refresh_token"])

    assert refusal(no_keys) == (
        "invalid_client_metadata",
        f'Unable to obtain jwks from "{ORIGIN}/jwks.json" for "{CLIENT_ID}": Not Found',
    )
    assert refusal(no_metadata) == (
        "invalid_client_metadata",
        f'Unable to obtain client metadata for "{CLIENT_ID}": Not Found',
    )
    assert back.status_code == 200


async def test_documents_must_be_json(confidential: Walker, client: Client) -> None:
    client.media_type = "application/jwk-set+json"

    assert (await confidential.par()).json()["error"] == "invalid_client_metadata"


NONE: JSON = {
    "token_endpoint_auth_method": "none",
    "token_endpoint_auth_signing_alg": None,
    "jwks_uri": None,
}
LOOPBACK = "http://127.0.0.1/callback"
INVALID = "invalid_client_metadata"
METADATA: dict[str, tuple[JSON, str, str]] = {
    "metadata: jwks + jwks_uri": (
        {"jwks": {"keys": []}},
        INVALID,
        "jwks_uri and jwks are mutually exclusive",
    ),
    "metadata: no signing alg": (
        {"token_endpoint_auth_signing_alg": None},
        INVALID,
        "Missing token_endpoint_auth_signing_alg client metadata",
    ),
    "metadata: no dpop_bound": (
        {"dpop_bound_access_tokens": None},
        INVALID,
        '"dpop_bound_access_tokens" must be true',
    ),
    "metadata: native + private_key_jwt": (
        {"application_type": "native"},
        INVALID,
        'Native clients must authenticate using "none" method',
    ),
    "metadata: loopback redirect, web": (
        {**NONE, "redirect_uris": [LOOPBACK]},
        "invalid_redirect_uri",
        "Loopback redirect URIs are only allowed for native apps",
    ),
    "metadata: client_uri other origin": (
        {"client_uri": "https://other.home.arpa"},
        INVALID,
        "client_uri must have the same origin as the client_id",
    ),
    "metadata: no atproto scope": (
        {"scope": "transition:generic"},
        INVALID,
        'Missing "atproto" scope',
    ),
    "metadata: wrong client_id": (
        {"client_id": f"{ORIGIN}/other.json"},
        INVALID,
        "client_id does not match",
    ),
    "metadata: private key in jwks": (
        {"jwks_uri": None, "jwks": {"keys": [Key("k1").private]}},
        INVALID,
        "private_key_jwt auth method requires at least one key in jwks",
    ),
}


@pytest.mark.parametrize("name", METADATA)
async def test_refused_metadata(name: str, confidential: Walker, client: Client) -> None:
    members, error, description = METADATA[name]
    client.change(**members)

    assert refusal(await confidential.par()) == (error, description)


ACCEPTED: dict[str, JSON] = {
    "metadata: public web client (none)": NONE,
    "metadata: loopback redirect, native none": {
        **NONE,
        "application_type": "native",
        "redirect_uris": [LOOPBACK, REDIRECT_URI],
    },
    "metadata: no application_type": {"application_type": None},
    "metadata: no refresh grant": {"grant_types": ["authorization_code"]},
    "metadata: granular scopes": {
        "scope": "atproto transition:generic repo:app.bsky.feed.post blob:image/*"
    },
}


@pytest.mark.parametrize("name", ACCEPTED)
async def test_accepted_metadata(name: str, confidential: Walker, client: Client) -> None:
    client.change(**ACCEPTED[name])
    if ACCEPTED[name].get("token_endpoint_auth_method") == "none":
        confidential.client_key = None

    assert (await confidential.par()).status_code == 201


async def test_inline_keys(confidential: Walker, client: Client, keys: tuple[Key, Key]) -> None:
    client.change(jwks_uri=None, jwks={"keys": [keys[0].published]})

    assert (await confidential.par()).status_code == 201


async def test_without_the_refresh_grant_there_is_no_refresh_token(
    confidential: Walker, client: Client
) -> None:
    client.change(grant_types=["authorization_code"])

    assert "refresh_token" not in await confidential.login()


@pytest.mark.parametrize(
    ("client_id", "error", "description"),
    [
        ("http://127.0.0.1:1/client.json", INVALID, 'Invalid client ID "{}"'),
        ("https://127.0.0.1:1/client.json", INVALID, 'Invalid client ID "{}"'),
        ("https://localhost:1/client.json", INVALID, 'Invalid client ID "{}"'),
        ("http://app.home.arpa:1/client.json", INVALID, 'Invalid client ID "{}"'),
        ("https://app.home.arpa/", INVALID, 'Invalid client ID "{}"'),
        (
            "https://app.test/client.json",
            "invalid_client_id",
            "The client_id's TLD must not be a local hostname",
        ),
        (
            "https://unknown.home.arpa/client.json",
            INVALID,
            'Unable to obtain client metadata for "{}": Invalid hostname',
        ),
        (
            "https://app.example.com/client.json",
            INVALID,
            'Unable to obtain client metadata for "{}": Forbidden hostname',
        ),
    ],
)
@pytest.mark.spec("C4")
async def test_client_ids(client_id: str, error: str, description: str, walker: Walker) -> None:
    walker.client_id = client_id

    assert refusal(await walker.par()) == (error, description.format(client_id))


async def test_silent_login_needs_a_remembered_account(
    confidential: Walker, network: Network
) -> None:
    url = await confidential.authorize_url(prompt="none")
    answer = await confidential.http.get(url)

    assert answer.status_code == 303
    assert "error=login_required" in answer.headers["location"]
