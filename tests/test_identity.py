from __future__ import annotations

from collections.abc import Sequence

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from atproto_oauth_asgi.errors import (
    AddressRefused,
    ATProtoOAuthError,
    DIDNotFound,
    HandleNotVerified,
    IdentityUnavailable,
    InvalidDIDDocument,
    InvalidIdentifier,
    UnsupportedDID,
)
from atproto_oauth_asgi.identity import IdentityResolver
from atproto_oauth_asgi.net import Net, NetPolicy
from tests.identity_documents import (
    DID,
    HANDLE,
    ORIGINS,
    OTHER,
    PDS,
    PLC,
    Web,
    document,
    failure,
    resolve,
    resolver_for,
    service,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def web() -> Web:
    web = Web()
    web.put_account()
    return web


@pytest.mark.spec("A11")
@pytest.mark.parametrize(
    "names",
    [
        [],
        None,
        "at://alice.example.com",
        ["at://mallory.example.com", f"at://{HANDLE}"],
        [f"https://{HANDLE}"],
        [f"at://{HANDLE}/path"],
        [f"at://{HANDLE}\n"],
        [HANDLE],
        [7, {"at": 1}],
    ],
)
async def test_handle_that_the_account_does_not_claim_first_is_refused(
    web: Web, names: object
) -> None:
    web.put_did(DID)
    web.put(f"{PLC}/{DID}", document(alsoKnownAs=names))

    assert isinstance(await failure(web), HandleNotVerified)


@pytest.mark.spec("A11")
async def test_first_well_formed_claim_counts_in_any_case(web: Web) -> None:
    web.put_did(DID)
    names = ["https://x", 1, "at://no_handle", "at://", "at://Alice.Example.com", "at://b.com"]
    web.put(f"{PLC}/{DID}", document(alsoKnownAs=names))

    assert (await resolve(web)).handle == HANDLE


@pytest.mark.spec("A12")
@pytest.mark.parametrize("dns", [OSError("down"), [f"did={OTHER}".encode()], []])
async def test_did_is_accepted_without_its_handle(web: Web, dns: list[bytes] | OSError) -> None:
    web.txt[f"_atproto.{HANDLE}"] = dns

    identity = await resolve(web, DID)

    assert (identity.did, identity.handle, identity.pds) == (DID, None, PDS)


@pytest.mark.spec("A12")
async def test_did_with_a_confirmed_handle_shows_it(web: Web) -> None:
    web.put_did(DID)

    assert (await resolve(web, DID)).handle == HANDLE


@pytest.mark.spec("A3", "A12")
async def test_reserved_name_in_a_did_document_is_never_looked_up(web: Web) -> None:
    web.put_account(handle="handle.invalid")

    assert (await resolve(web, DID)).handle is None
    assert web.asked == [f"{PLC}/{DID}"]


async def test_locating_an_account_leaves_its_handle_alone(web: Web) -> None:
    async with resolver_for(web) as resolver:
        assert await resolver.locate(DID) == PDS

    assert web.asked == [f"{PLC}/{DID}"]


@pytest.mark.spec("A13")
async def test_bad_syntax_unknown_method_and_failure_are_three_errors(web: Web) -> None:
    web.put(f"{PLC}/{OTHER}", PlainTextResponse("", 500))

    assert isinstance(await failure(web, "did:plc:"), InvalidIdentifier)
    assert isinstance(await failure(web, "did:key:z"), UnsupportedDID)
    assert isinstance(await failure(web, OTHER), IdentityUnavailable)


@pytest.mark.spec("A13")
@pytest.mark.parametrize("did", ["did:key:zQ3sh", "did:web:ex.com:u:a", "did:plc:short"])
async def test_handle_that_points_to_an_unsupported_did_says_so(web: Web, did: str) -> None:
    web.put_did(did)

    assert isinstance(await failure(web), UnsupportedDID)


@pytest.mark.spec("A4", "A14", "P7")
@pytest.mark.parametrize("media_type", ["application/json", "application/did+ld+json"])
async def test_plc_document_may_have_either_media_type(web: Web, media_type: str) -> None:
    web.put(f"{PLC}/{DID}", JSONResponse(document(), media_type=media_type))

    assert (await resolve(web, DID)).pds == PDS


@pytest.mark.spec("A14", "N4")
@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (PlainTextResponse("", 404), DIDNotFound),
        (PlainTextResponse("", 410), DIDNotFound),
        (PlainTextResponse("", 429), IdentityUnavailable),
        (PlainTextResponse("", 500), IdentityUnavailable),
        (RedirectResponse(f"https://web.example.com/{DID}", 302), IdentityUnavailable),
        (PlainTextResponse("{}"), InvalidDIDDocument),
        (JSONResponse([]), InvalidDIDDocument),
    ],
)
async def test_plc_answers_map_to_typed_errors(
    web: Web, page: Response, expected: type[ATProtoOAuthError]
) -> None:
    web.put(f"{PLC}/{DID}", page)
    web.put(f"https://web.example.com/{DID}", document())

    error = await failure(web, DID)

    assert type(error) is expected
    assert error.retryable is (expected is IdentityUnavailable)


@pytest.mark.spec("N4")
async def test_plc_out_of_reach_is_a_passing_failure(web: Web) -> None:
    assert isinstance(await failure(web, DID, origins=()), IdentityUnavailable)


@pytest.mark.spec("A4", "A15")
async def test_did_web_is_fetched_from_its_host(web: Web) -> None:
    did = "did:web:web.example.com"
    web.put("https://web.example.com/.well-known/did.json", document(did))

    assert (await resolve(web, did)).did == did


@pytest.mark.spec("A15")
async def test_did_web_of_localhost_works_in_development_only(web: Web) -> None:
    did = "did:web:localhost%3A2583"
    web.put("http://localhost:2583/.well-known/did.json", document(did))
    origins = (*ORIGINS, "http://localhost:2583")

    assert isinstance(await failure(web, did, origins=origins), UnsupportedDID)
    assert (await resolve(web, did, origins=origins, allow_insecure_loopback=True)).did == did


@pytest.mark.spec("A15", "P1")
@pytest.mark.parametrize(
    "did", ["did:web:ex.com:u:a", "did:web:ex.com%3A8080", "did:web:127.0.0.1", "did:web:foo"]
)
async def test_did_web_with_path_port_or_address_causes_no_traffic(web: Web, did: str) -> None:
    assert isinstance(await failure(web, did), UnsupportedDID)
    assert web.asked == []


@pytest.mark.spec("A16")
@pytest.mark.parametrize("did", [OTHER, DID.upper(), None, [DID]])
async def test_document_of_another_did_is_refused(web: Web, did: object) -> None:
    web.put(f"{PLC}/{DID}", document(id=did))

    assert isinstance(await failure(web, DID), InvalidDIDDocument)


@pytest.mark.spec("A17")
@pytest.mark.parametrize(
    "services",
    [
        [service()],
        [service(id=f"{DID}#atproto_pds")],
        [service(serviceEndpoint="https://PDS.example.com:443/")],
        [service(id="#other"), service(type="Other"), service()],
        ["junk", None, {}, {"id": ["#atproto_pds"], "type": {}}, service()],
        [service(), service(serviceEndpoint="https://second.example.com")],
    ],
)
async def test_first_pds_service_is_found(web: Web, services: object) -> None:
    web.put(f"{PLC}/{DID}", document(service=services))

    assert (await resolve(web, DID)).pds == PDS


@pytest.mark.spec("A17")
@pytest.mark.parametrize(
    "services",
    [
        None,
        {},
        "https://pds.example.com",
        [],
        [service(id=f"{OTHER}#atproto_pds")],
        [service(id="atproto_pds")],
        [service(type="atprotoPersonalDataServer")],
        [service(type=["AtprotoPersonalDataServer"])],
        [service(serviceEndpoint={"uri": PDS})],
        [service(serviceEndpoint=[PDS])],
        [service(serviceEndpoint=f"{PDS}/path")],
        [service(serviceEndpoint=f"{PDS}//")],
        [service(serviceEndpoint=f"{PDS}?")],
        [service(serviceEndpoint=f"{PDS}#")],
        [service(serviceEndpoint="https://user@pds.example.com")],
        [service(serviceEndpoint="http://pds.example.com")],
        [service(serviceEndpoint="http://127.0.0.1:2583")],
        [service(serviceEndpoint="ws://pds.example.com")],
        [service(serviceEndpoint="https://pds.example.com\n")],
        [service(serviceEndpoint="https://pds")],
        [service(serviceEndpoint="")],
        [service(serviceEndpoint="ftp://x"), service()],
    ],
)
async def test_document_without_usable_pds_is_refused(web: Web, services: object) -> None:
    web.put(f"{PLC}/{DID}", document(service=services))

    assert isinstance(await failure(web, DID), InvalidDIDDocument)


@pytest.mark.spec("A17")
async def test_http_pds_on_loopback_works_in_development(web: Web) -> None:
    web.put_account(pds="http://localhost:2583")

    identity = await resolve(web, DID, allow_insecure_loopback=True)

    assert identity.pds == "http://localhost:2583"


@pytest.mark.spec("A15", "P1")
async def test_did_web_at_a_private_address_is_refused(web: Web) -> None:
    async def private(_: str) -> Sequence[str]:
        return ["169.254.169.254"]

    net = Net(NetPolicy(resolve_txt=web.resolve_txt, resolve_host=private))
    try:
        with pytest.raises(AddressRefused):
            await IdentityResolver(lambda: net).resolve("did:web:web.example.com")
    finally:
        await net.aclose()
