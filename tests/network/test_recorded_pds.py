"""PDS cases as recorded on the reference server, by name."""

from __future__ import annotations

import pytest

from atproto_oauth_asgi.testing import Network
from tests.network.walker import Clock, Key, Walker, loopback_client_id

pytestmark = pytest.mark.anyio

NSID = "com.atproto.server.getSession"
REFUSED: dict[str, tuple[dict[str, object], str, str]] = {
    "pds wrong nonce": ({"nonce": "x"}, "use_dpop_nonce", 'DPoP "nonce" mismatch'),
    "pds no nonce": (
        {"nonce": None},
        "use_dpop_nonce",
        "Authorization server requires nonce in DPoP proof",
    ),
    "pds wrong ath": ({"ath": "x"}, "invalid_dpop_proof", 'DPoP "ath" mismatch'),
    "pds no ath": ({"ath": None}, "invalid_dpop_proof", 'DPoP "ath" mismatch'),
    "pds wrong htm": ({"htm": "POST"}, "invalid_dpop_proof", 'DPoP "htm" mismatch'),
    "pds wrong htu": (
        {"htu": "https://pds.example/"},
        "invalid_dpop_proof",
        'DPoP "htu" mismatch',
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_bad_proofs(name: str, walker: Walker) -> None:
    claims, error, message = REFUSED[name]
    tokens = await walker.login()
    answer = await walker.xrpc(NSID, tokens["access_token"], claims=claims)
    header = answer.headers["www-authenticate"]

    assert answer.status_code == 401
    assert answer.json() == {"error": error, "message": message}
    assert header.startswith('DPoP algs="')
    assert f'error="{error}"' in header
    assert ("error_description" in header) == ('"' not in message)
    assert "dpop-nonce" in answer.headers


@pytest.mark.parametrize(
    ("seconds", "status"), [(-3600, 401), (-150, 200), (150, 200), (3600, 401)]
)
async def test_proof_age(seconds: int, status: int, walker: Walker, clock: Clock) -> None:
    tokens = await walker.login()
    claims = {"iat": int(clock.now) + seconds}

    assert (await walker.xrpc(NSID, tokens["access_token"], claims=claims)).status_code == status


async def test_jti_replay(walker: Walker) -> None:
    tokens = await walker.login()
    first = await walker.xrpc(NSID, tokens["access_token"], claims={"jti": "once"})
    second = await walker.xrpc(NSID, tokens["access_token"], claims={"jti": "once"})

    assert first.status_code == 200
    assert second.status_code == 401
    assert second.json() == {"error": "invalid_dpop_proof", "message": "DPoP proof replayed"}


async def test_other_dpop_key(walker: Walker) -> None:
    tokens = await walker.login()
    answer = await walker.xrpc(NSID, tokens["access_token"], key=Key())

    assert answer.status_code == 401
    assert answer.json() == {"error": "invalid_token", "message": "Invalid DPoP key binding"}


async def test_bearer_scheme_with_dpop_token(walker: Walker) -> None:
    tokens = await walker.login()
    answer = await walker.xrpc(NSID, tokens["access_token"], scheme="Bearer")

    assert answer.status_code == 400
    assert answer.json() == {"error": "InvalidToken", "message": "Malformed token"}


async def test_no_proof(walker: Walker) -> None:
    tokens = await walker.login()
    answer = await walker.xrpc(NSID, tokens["access_token"], dpop=None)

    assert answer.status_code == 401
    assert answer.json() == {"error": "invalid_dpop_proof", "message": "DPoP proof required"}


async def test_tampered_token(walker: Walker) -> None:
    tokens = await walker.login()
    answer = await walker.xrpc(NSID, str(tokens["access_token"])[:-4] + "AAAA")

    assert answer.status_code == 401
    assert answer.json() == {
        "error": "invalid_token",
        "message": "signature verification failed",
    }


async def test_no_auth(walker: Walker) -> None:
    answer = await walker.http.get(walker.url(f"/xrpc/{NSID}"))

    assert answer.status_code == 401
    assert answer.json() == {"error": "AuthMissing", "message": "Authentication Required"}
    assert "www-authenticate" not in answer.headers


async def test_records_are_written_listed_read_and_deleted(
    walker: Walker, network: Network
) -> None:
    token = (await walker.login())["access_token"]
    did = network.account("alice.test").did
    first = (await walker.create_post(token, "one")).json()
    second = (await walker.create_post(token, "two")).json()
    rkey = first["uri"].rpartition("/")[2]
    where = {"repo": did, "collection": "app.bsky.feed.post"}
    url = walker.url("/xrpc/com.atproto.repo.listRecords")
    listed = (await walker.http.get(url, params={**where, "limit": "1"})).json()
    more = (await walker.http.get(url, params={**where, "cursor": listed["cursor"]})).json()
    read = await walker.http.get(
        walker.url("/xrpc/com.atproto.repo.getRecord"), params={**where, "rkey": rkey}
    )
    gone = await walker.xrpc(
        "com.atproto.repo.deleteRecord", token, method="POST", body={**where, "rkey": rkey}
    )
    missing = await walker.http.get(
        walker.url("/xrpc/com.atproto.repo.getRecord"), params={**where, "rkey": rkey}
    )

    assert first["uri"].startswith(f"at://{did}/app.bsky.feed.post/")
    assert first["cid"].startswith("bafyrei")
    assert len(first["cid"]) == 59
    assert first["validationStatus"] == "valid"
    assert [item["uri"] for item in listed["records"]] == [second["uri"]]
    assert [item["uri"] for item in more["records"]] == [first["uri"]]
    assert read.json()["value"]["text"] == "one"
    assert "commit" in gone.json()
    assert (missing.status_code, missing.json()["error"]) == (400, "RecordNotFound")


async def test_a_blob_comes_back(walker: Walker, network: Network) -> None:
    token = (await walker.login())["access_token"]
    answer = await walker.xrpc(
        "com.atproto.repo.uploadBlob", token, method="POST", data=b"png", content_type="image/png"
    )
    blob = answer.json()["blob"]
    query = {"did": network.account("alice.test").did, "cid": blob["ref"]["$link"]}
    back = await walker.http.get(walker.url("/xrpc/com.atproto.sync.getBlob"), params=query)

    assert blob["$type"] == "blob"
    assert blob["mimeType"] == "image/png"
    assert blob["size"] == 3
    assert blob["ref"]["$link"].startswith("bafkrei")
    assert back.content == b"png"


async def test_a_known_record_has_its_known_cid() -> None:
    from atproto_oauth_asgi.testing.cid import blob_cid, record_cid

    assert blob_cid(b"") == "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
    assert record_cid({}) == "bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua"


MISSING: dict[str, tuple[str, str, dict[str, object], str]] = {
    "scope atproto: createRecord": (
        "atproto",
        "com.atproto.repo.createRecord",
        {"collection": "app.bsky.feed.post"},
        "repo:app.bsky.feed.post?action=create",
    ),
    "repo create: other collection": (
        "atproto repo:app.bsky.feed.post?action=create",
        "com.atproto.repo.createRecord",
        {"collection": "app.bsky.feed.like"},
        "repo:app.bsky.feed.like?action=create",
    ),
    "repo create: delete": (
        "atproto repo:app.bsky.feed.post?action=create",
        "com.atproto.repo.deleteRecord",
        {"collection": "app.bsky.feed.post"},
        "repo:app.bsky.feed.post?action=delete",
    ),
    "scope atproto: updateHandle": (
        "atproto",
        "com.atproto.identity.updateHandle",
        {"handle": "alicia.test"},
        "identity:handle",
    ),
}


@pytest.mark.parametrize("name", MISSING)
async def test_missing_scopes(name: str, walker: Walker, network: Network) -> None:
    scope, nsid, fields, missing = MISSING[name]
    walker.scope = scope
    walker.client_id = loopback_client_id(scope=scope)
    tokens = await walker.login()
    body: dict[str, object] = {
        "repo": network.account("alice.test").did,
        "rkey": "x",
        "record": {},
        **fields,
    }
    answer = await walker.xrpc(nsid, tokens["access_token"], method="POST", body=body)

    assert answer.status_code == 403
    assert answer.json() == {
        "error": "ScopeMissingError",
        "message": f'Missing required scope "{missing}"',
    }
    assert "www-authenticate" not in answer.headers


@pytest.mark.parametrize(
    ("scope", "mime", "status"),
    [
        ("atproto", "image/png", 403),
        ("atproto blob:image/*", "text/plain", 403),
        ("atproto blob:image/*", "image/png", 200),
        ("atproto blob?accept=image/png&accept=text/plain", "text/plain", 200),
    ],
)
async def test_blob_scopes(scope: str, mime: str, status: int, walker: Walker) -> None:
    walker.scope = scope
    walker.client_id = loopback_client_id(scope=scope)
    tokens = await walker.login()
    answer = await walker.xrpc(
        "com.atproto.repo.uploadBlob",
        tokens["access_token"],
        method="POST",
        data=b"x",
        content_type=mime,
    )

    assert answer.status_code == status
    if status == 403:
        assert answer.json()["message"] == f'Missing required scope "blob:{mime}"'


@pytest.mark.parametrize("scope", ["transition:email", "account:email"])
async def test_the_address_is_shown_only_with_its_scope(scope: str, walker: Walker) -> None:
    walker.scope = f"atproto {scope}"
    walker.client_id = loopback_client_id(scope=walker.scope)
    granted = await walker.login()
    shown = (await walker.get_session(granted["access_token"])).json()
    denied = await walker.login(scope="atproto")
    hidden = (await walker.get_session(denied["access_token"])).json()

    assert (shown["email"], shown["emailConfirmed"]) == ("alice@mail.test", False)
    assert denied["scope"] == "atproto"
    assert "email" not in hidden


async def test_proxied_calls_have_no_service(walker: Walker) -> None:
    tokens = await walker.login()
    answer = await walker.xrpc("app.bsky.actor.getProfile", tokens["access_token"])

    assert answer.status_code == 400
    assert answer.json() == {
        "error": "InvalidRequest",
        "message": "No service configured for app.bsky.actor.getProfile",
    }


async def test_ill_formed_scopes_are_dropped_without_a_word(walker: Walker) -> None:
    walker.scope = "atproto foo:bar repo:not_an_nsid rpc:*?aud=* repo:app.bsky.feed.post"
    walker.client_id = loopback_client_id(scope=walker.scope)

    assert (await walker.login())["scope"] == "atproto repo:app.bsky.feed.post"


async def test_permission_sets_are_expanded_and_atproto_is_last(
    walker: Walker, network: Network
) -> None:
    network.add_permission_set("arpa.home.app.basic", ["repo:arpa.home.app.post"])
    walker.scope = "atproto include:arpa.home.app.basic"
    walker.client_id = loopback_client_id(scope=walker.scope)

    assert (await walker.login())["scope"] == "repo:arpa.home.app.post atproto"


async def test_unknown_permission_sets_are_refused_at_par(walker: Walker) -> None:
    walker.scope = "atproto include:arpa.home.app.none"
    walker.client_id = loopback_client_id(scope=walker.scope)
    answer = await walker.par()

    assert answer.json() == {
        "error": "invalid_scope",
        "error_description": "Could not resolve Lexicon for NSID (arpa.home.app.none)",
    }


async def test_a_token_of_one_host_is_refused_by_another(walker: Walker, network: Network) -> None:
    other = network.add_host()
    tokens = await walker.login()
    walker.origin = other.origin
    await walker.get_session(tokens["access_token"])
    answer = await walker.get_session(tokens["access_token"])
    refreshed = await walker.refresh(tokens["refresh_token"])

    assert answer.status_code == 401
    assert answer.json()["message"] == 'unexpected "iss" claim value'
    assert refreshed.json()["error"] == "invalid_grant"
