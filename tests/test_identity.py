from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from atproto_oauth_asgi.errors import (
    AddressRefused,
    ATProtoOAuthError,
    DIDNotFound,
    HandleNotFound,
    HandleNotVerified,
    IdentityUnavailable,
    InvalidDIDDocument,
    InvalidIdentifier,
    UnsupportedDID,
)
from atproto_oauth_asgi.handles import HandleResolver
from atproto_oauth_asgi.identity import Identity, IdentityResolver
from atproto_oauth_asgi.net import Net, NetPolicy

pytestmark = pytest.mark.anyio

HANDLE = "alice.example.com"
DID = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"
OTHER = "did:plc:44ybard66vv44zksje25o7dz"
PDS = "https://pds.example.com"
PLC = "https://plc.directory"

Answer = Callable[[Request], Awaitable[Response]]


def document(
    did: str = DID, *, handle: str = HANDLE, pds: object = PDS, **changes: object
) -> dict[str, object]:
    service = {
        "id": "#atproto_pds",
        "type": "AtprotoPersonalDataServer",
        "serviceEndpoint": pds,
    }
    return {"id": did, "alsoKnownAs": [f"at://{handle}"], "service": [service], **changes}


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Web:
    """Documents at URLs, TXT records, and a list of everything that was asked."""

    pages: dict[str, Response | Answer] = field(default_factory=dict[str, Response | Answer])
    txt: dict[str, list[bytes] | OSError] = field(
        default_factory=dict[str, "list[bytes] | OSError"]
    )
    asked: list[str] = field(default_factory=list[str])
    dns_gate: asyncio.Event | None = None

    def put(self, url: str, page: Response | Answer | dict[str, object] | str) -> None:
        if isinstance(page, dict):
            page = JSONResponse(page)
        elif isinstance(page, str):
            page = PlainTextResponse(page)
        self.pages[url] = page

    def put_account(self, did: str = DID, **parts: object) -> None:
        self.put(f"{PLC}/{did}", document(did, **parts))  # type: ignore[arg-type]  # passed on

    def put_did(self, text: str, handle: str = HANDLE) -> None:
        self.put(f"https://{handle}/.well-known/atproto-did", text)

    def put_txt(self, *records: bytes, handle: str = HANDLE) -> None:
        self.txt[f"_atproto.{handle}"] = list(records)

    def app(self, origin: str) -> ASGIApp:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            request = Request(scope, receive)
            url = origin + request.url.path + (f"?{request.url.query}" if request.url.query else "")
            self.asked.append(url)
            page = self.pages.get(url, PlainTextResponse("not found", 404))
            response = page if isinstance(page, Response) else await page(request)
            await response(scope, receive, send)

        return answer

    async def resolve_txt(self, name: str) -> Sequence[bytes]:
        self.asked.append(f"TXT {name}")
        if self.dns_gate is not None:
            await self.dns_gate.wait()
        found = self.txt.get(name, [])
        if isinstance(found, OSError):
            raise found
        return found


ORIGINS = (
    PLC,
    f"https://{HANDLE}",
    "https://bob.example.com",
    "https://web.example.com",
    "https://resolver.example.com",
)


@asynccontextmanager
async def resolver_for(
    web: Web,
    *,
    origins: Sequence[str] = ORIGINS,
    clock: Clock | None = None,
    handle_resolver: HandleResolver | None = None,
    handle_resolver_url: str | None = None,
    allow_insecure_loopback: bool = False,
    dns: bool = True,
    dns_deadline: float = 3.0,
) -> AsyncIterator[IdentityResolver]:
    async def no_host(name: str) -> Sequence[str]:
        web.asked.append(f"HOST {name}")
        return []

    net = Net(
        NetPolicy(
            apps={origin: web.app(origin) for origin in origins},
            resolve_txt=web.resolve_txt if dns else None,
            resolve_host=no_host,
            handle_resolver_url=handle_resolver_url,
            allow_insecure_loopback=allow_insecure_loopback,
        )
    )
    try:
        yield IdentityResolver(
            lambda: net,
            handle_resolver=handle_resolver,
            clock=clock or Clock(),
            dns_deadline=dns_deadline,
        )
    finally:
        await net.aclose()


async def resolve(web: Web, identifier: str = HANDLE, **options: object) -> Identity:
    async with resolver_for(web, **options) as resolver:  # type: ignore[arg-type]  # passed on
        return await resolver.resolve(identifier)


async def failure(web: Web, identifier: str = HANDLE, **options: object) -> ATProtoOAuthError:
    with pytest.raises(ATProtoOAuthError) as caught:
        await resolve(web, identifier, **options)
    return caught.value


@pytest.fixture
def web() -> Web:
    web = Web()
    web.put_account()
    return web


# Handles


@pytest.mark.spec("A4", "A5")
async def test_handle_is_found_in_dns(web: Web) -> None:
    web.put_txt(b"v=spf1", f"did={DID}".encode(), b"DID=x")

    assert Identity(did=DID, handle=HANDLE, pds=PDS) == await resolve(web)  # type: ignore[arg-type]  # plain strings are fine here


@pytest.mark.spec("A4", "A7")
@pytest.mark.parametrize("body", [DID, f"\n {DID} \n", f"{DID}\r\nsecond line", f"{DID}\n\n\n"])
async def test_handle_is_found_over_https(web: Web, body: str) -> None:
    web.put(f"https://{HANDLE}/.well-known/atproto-did", Response(body, media_type="text/html"))

    assert (await resolve(web)).did == DID


@pytest.mark.spec("A2")
async def test_handle_in_capitals_is_the_same_handle(web: Web) -> None:
    web.put_did(DID)

    assert (await resolve(web, "Alice.Example.COM")).handle == HANDLE


@pytest.mark.spec("A3")
@pytest.mark.parametrize(
    "handle",
    [
        "alice.alt",
        "alice.arpa",
        "alice.example",
        "alice.internal",
        "handle.invalid",
        "alice.local",
        "alice.localhost",
        "alice.onion",
        "alice.test",
        "not a handle",
    ],
)
async def test_handle_that_may_not_be_looked_up_causes_no_traffic(web: Web, handle: str) -> None:
    assert isinstance(await failure(web, handle), InvalidIdentifier)
    assert web.asked == []


@pytest.mark.spec("A5")
async def test_two_dids_in_dns_are_none_even_if_https_knows_one(web: Web) -> None:
    web.put_txt(f"did={OTHER}".encode(), f"did={DID}".encode())
    web.put_did(DID)

    error = await failure(web)

    assert isinstance(error, HandleNotFound)
    assert "2 different DIDs" in str(error)


@pytest.mark.spec("A5")
async def test_same_did_twice_in_dns_is_one(web: Web) -> None:
    web.put_txt(f"did={DID}".encode(), f"did={DID}".encode())

    assert (await resolve(web)).did == DID


@pytest.mark.spec("A5")
@pytest.mark.parametrize("record", [f"did= {DID}", f"did={DID} ", f" did={DID}", f"did:{DID}"])
async def test_dns_value_is_not_trimmed(web: Web, record: str) -> None:
    web.put_txt(record.encode())

    assert isinstance(await failure(web), HandleNotFound)


@pytest.mark.spec("A5")
async def test_bytes_that_are_no_text_in_dns_are_no_did(web: Web) -> None:
    web.put_txt(b"did=\xff\xfe")

    assert isinstance(await failure(web), HandleNotFound)


@pytest.mark.spec("A6")
async def test_handle_too_long_for_dns_is_asked_over_https_only(web: Web) -> None:
    handle = ".".join(["a" * 60] * 4) + ".com"
    assert len(handle) > 244
    web.put_did(DID, handle)
    web.put_account(handle=handle)

    identity = await resolve(web, handle, origins=(*ORIGINS, f"https://{handle}"))

    assert identity.handle == handle
    assert not [asked for asked in web.asked if asked.startswith("TXT")]


@pytest.mark.spec("A8")
async def test_redirect_of_the_well_known_to_https_is_followed(web: Web) -> None:
    web.put(
        f"https://{HANDLE}/.well-known/atproto-did",
        RedirectResponse("https://web.example.com/did", 302),
    )
    web.put("https://web.example.com/did", DID)

    assert (await resolve(web)).did == DID


@pytest.mark.spec("A8", "P1")
@pytest.mark.parametrize(
    "target", ["http://web.example.com/did", "https://10.0.0.1/did", "https://localhost/did"]
)
async def test_redirect_to_where_we_do_not_go_is_not_followed(web: Web, target: str) -> None:
    web.put(f"https://{HANDLE}/.well-known/atproto-did", RedirectResponse(target, 302))
    web.put("https://web.example.com/did", DID)

    error = await failure(web)

    assert isinstance(error, (AddressRefused, HandleNotFound))
    assert not [asked for asked in web.asked if "web.example.com" in asked]


@pytest.mark.spec("A9")
async def test_dns_is_right_where_https_says_otherwise(web: Web) -> None:
    answered = asyncio.Event()

    async def other(_: Request) -> Response:
        answered.set()
        return PlainTextResponse(OTHER)

    web.put_txt(f"did={DID}".encode())
    web.put(f"https://{HANDLE}/.well-known/atproto-did", other)
    web.dns_gate = answered

    assert (await resolve(web)).did == DID


@pytest.mark.spec("A9")
async def test_loser_of_the_race_is_cancelled_and_awaited(web: Web) -> None:
    started, gone = asyncio.Event(), asyncio.Event()

    async def silent(request: Request) -> Response:
        await request.body()
        started.set()
        assert (await request.receive())["type"] == "http.disconnect"
        gone.set()
        return Response()

    web.put_txt(f"did={DID}".encode())
    web.put(f"https://{HANDLE}/.well-known/atproto-did", silent)
    web.dns_gate = started

    async with resolver_for(web) as resolver, asyncio.timeout(2):
        await resolver.resolve(HANDLE)

        assert not [task for task in asyncio.all_tasks() if "_over_https" in repr(task)]
        await gone.wait()


@pytest.mark.spec("A9")
async def test_caller_that_goes_away_stops_both_ways(web: Web) -> None:
    started = asyncio.Event()

    async def silent(_: Request) -> Response:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    web.put(f"https://{HANDLE}/.well-known/atproto-did", silent)
    web.dns_gate = asyncio.Event()

    async with resolver_for(web) as resolver:
        caller = asyncio.create_task(resolver.resolve(HANDLE))
        await started.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller

        assert not [task for task in asyncio.all_tasks() if "_over_https" in repr(task)]


@pytest.mark.spec("A10")
async def test_silent_dns_holds_https_up_for_its_deadline_only(web: Web) -> None:
    web.dns_gate = asyncio.Event()
    web.put_did(DID)

    async with asyncio.timeout(2):
        identity = await resolve(web, dns_deadline=0.05)

    assert identity.did == DID


@pytest.mark.spec("A10", "P6")
async def test_endless_body_is_no_did(web: Web) -> None:
    web.put_did(DID + "\n" + "x" * 1_000_000)

    assert isinstance(await failure(web), HandleNotFound)


async def test_page_of_html_is_no_did(web: Web) -> None:
    web.put_did("<!doctype html><title>My site answers everything</title>")

    assert isinstance(await failure(web), HandleNotFound)


async def test_unknown_handle_says_what_to_check(web: Web) -> None:
    error = await failure(web, "bob.example.com")

    assert isinstance(error, HandleNotFound)
    assert error.identifier == "bob.example.com"
    assert "_atproto.bob.example.com" in str(error)


async def test_handle_whose_host_does_not_exist_is_not_found(web: Web) -> None:
    assert isinstance(await failure(web, "typo.example.net"), HandleNotFound)


async def test_dns_that_fails_makes_an_unanswered_handle_a_passing_failure(web: Web) -> None:
    web.txt[f"_atproto.{HANDLE}"] = OSError("no servers")

    error = await failure(web)

    assert isinstance(error, IdentityUnavailable)
    assert error.retryable


async def test_web_server_that_fails_makes_it_a_passing_failure(web: Web) -> None:
    web.put(f"https://{HANDLE}/.well-known/atproto-did", PlainTextResponse("sorry", 503))

    assert isinstance(await failure(web), IdentityUnavailable)


@pytest.mark.spec("P1")
async def test_handle_on_a_private_address_is_refused(web: Web) -> None:
    async def private(_: str) -> Sequence[str]:
        return ["10.0.0.1"]

    net = Net(NetPolicy(resolve_txt=web.resolve_txt, resolve_host=private))
    try:
        with pytest.raises(AddressRefused):
            await IdentityResolver(lambda: net).resolve(HANDLE)
    finally:
        await net.aclose()


@pytest.mark.spec("A13")
@pytest.mark.parametrize("did", ["did:key:zQ3sh", "did:web:ex.com:u:a", "did:plc:short"])
async def test_handle_that_points_to_an_unsupported_did_says_so(web: Web, did: str) -> None:
    web.put_did(did)

    assert isinstance(await failure(web), UnsupportedDID)


# The bidirectional check


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


# DIDs


@pytest.mark.spec("A13")
async def test_bad_syntax_unknown_method_and_failure_are_three_errors(web: Web) -> None:
    web.put(f"{PLC}/{OTHER}", PlainTextResponse("", 500))

    assert isinstance(await failure(web, "did:plc:"), InvalidIdentifier)
    assert isinstance(await failure(web, "did:key:z"), UnsupportedDID)
    assert isinstance(await failure(web, OTHER), IdentityUnavailable)


@pytest.mark.spec("A4", "A14")
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


def service(**changes: object) -> dict[str, object]:
    return {
        "id": "#atproto_pds",
        "type": "AtprotoPersonalDataServer",
        "serviceEndpoint": PDS,
        **changes,
    }


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


# Other resolvers


class Directory:
    def __init__(self, answer: str | None | ATProtoOAuthError) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def resolve_handle(self, handle: str, /) -> str | None:
        self.asked.append(handle)
        if isinstance(self.answer, ATProtoOAuthError):
            raise self.answer
        return self.answer


async def test_handle_resolver_of_the_app_replaces_dns_and_https(web: Web) -> None:
    directory = Directory(DID)

    assert (await resolve(web, handle_resolver=directory)).handle == HANDLE
    assert directory.asked == [HANDLE]
    assert web.asked == [f"{PLC}/{DID}"]


@pytest.mark.spec("A11")
async def test_handle_resolver_of_the_app_is_not_believed_alone(web: Web) -> None:
    web.put_account(OTHER, handle="bob.example.com")

    assert isinstance(await failure(web, handle_resolver=Directory(OTHER)), HandleNotVerified)


@pytest.mark.parametrize("answer", [None, "", "no did"])
async def test_handle_resolver_that_knows_nothing_means_not_found(
    web: Web, answer: str | None
) -> None:
    assert isinstance(await failure(web, handle_resolver=Directory(answer)), HandleNotFound)


async def test_failure_of_a_handle_resolver_passes_through(web: Web) -> None:
    error = IdentityUnavailable("directory is down", identifier=HANDLE)

    assert await failure(web, handle_resolver=Directory(error)) is error


RESOLVER = "https://resolver.example.com"
RESOLVER_CALL = f"{RESOLVER}/xrpc/com.atproto.identity.resolveHandle?handle={HANDLE}"


@pytest.mark.parametrize("url", [RESOLVER, f"{RESOLVER}/"])
async def test_handle_resolver_service_replaces_dns_and_https(web: Web, url: str) -> None:
    web.put(RESOLVER_CALL, {"did": DID})

    assert (await resolve(web, handle_resolver_url=url)).handle == HANDLE
    assert web.asked == [RESOLVER_CALL, f"{PLC}/{DID}"]


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (JSONResponse({"error": "HandleNotFound"}, 400), HandleNotFound),
        (JSONResponse({"did": 7}), HandleNotFound),
        (JSONResponse({}), HandleNotFound),
        (JSONResponse({"did": "did:key:z"}), UnsupportedDID),
        (JSONResponse({}, 502), IdentityUnavailable),
        (PlainTextResponse("no json"), IdentityUnavailable),
    ],
)
async def test_answers_of_a_handle_resolver_service_map_to_typed_errors(
    web: Web, page: Response, expected: type[ATProtoOAuthError]
) -> None:
    web.put(RESOLVER_CALL, page)

    assert type(await failure(web, handle_resolver_url=RESOLVER)) is expected


@pytest.mark.spec("A3")
async def test_test_handle_is_served_in_process_in_development(web: Web) -> None:
    web.put_did(DID, "alice.test")
    web.put_account(handle="alice.test")

    identity = await resolve(
        web,
        "alice.test",
        origins=(*ORIGINS, "https://alice.test"),
        allow_insecure_loopback=True,
        dns=False,
    )

    assert identity.handle == "alice.test"


# What is remembered


@pytest.mark.spec("A18")
async def test_answers_are_remembered_for_less_than_ten_minutes(web: Web) -> None:
    web.put_did(DID)
    clock = Clock()
    async with resolver_for(web, clock=clock) as resolver:
        await resolver.resolve(HANDLE)
        first = len(web.asked)
        await resolver.resolve(HANDLE)
        await resolver.resolve(DID)
        assert len(web.asked) == first

        clock.now += 599
        await resolver.resolve(HANDLE)
        assert len(web.asked) == 2 * first


@pytest.mark.spec("A18", "N1")
async def test_fresh_look_at_an_account_sees_its_move_and_remembers_it(web: Web) -> None:
    web.put_did(DID)
    async with resolver_for(web) as resolver:
        await resolver.resolve(HANDLE)
        web.put_account(pds="https://new.example.com")

        assert (await resolver.resolve(DID)).pds == PDS
        assert (await resolver.resolve(DID, fresh=True)).pds == "https://new.example.com"
        assert (await resolver.resolve(HANDLE)).pds == "https://new.example.com"


@pytest.mark.spec("A18")
async def test_slow_old_answer_does_not_undo_a_fresh_one(web: Web) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: Request) -> Response:
        asked.set()
        await go_on.wait()
        return JSONResponse(document())

    web.put(f"{PLC}/{DID}", slow)
    clock = Clock()
    async with resolver_for(web, clock=clock) as resolver, asyncio.TaskGroup() as tasks:
        old = tasks.create_task(resolver.locate(DID))
        await asked.wait()
        clock.now += 1
        web.put_account(pds="https://new.example.com")
        await resolver.locate(DID, fresh=True)
        go_on.set()
        assert await old == PDS

        assert await resolver.locate(DID) == "https://new.example.com"


@pytest.mark.spec("A18")
async def test_errors_are_never_remembered(web: Web) -> None:
    async with resolver_for(web) as resolver:
        with pytest.raises(HandleNotFound):
            await resolver.resolve(HANDLE)
        web.put_did(DID)
        web.put(f"{PLC}/{DID}", PlainTextResponse("", 503))
        with pytest.raises(IdentityUnavailable):
            await resolver.resolve(HANDLE)
        web.put_account()

        assert (await resolver.resolve(HANDLE)).did == DID


@pytest.mark.spec("A18")
async def test_failed_fresh_look_forgets_the_old_answer(web: Web) -> None:
    async with resolver_for(web) as resolver:
        await resolver.locate(DID)
        web.put(f"{PLC}/{DID}", PlainTextResponse("", 410))
        with pytest.raises(DIDNotFound):
            await resolver.locate(DID, fresh=True)

        with pytest.raises(DIDNotFound):
            await resolver.locate(DID)


@pytest.mark.spec("A11")
async def test_mended_record_is_seen_at_the_next_try(web: Web) -> None:
    web.put_did(DID)
    web.put_account(handle="old.example.com")
    async with resolver_for(web) as resolver:
        with pytest.raises(HandleNotVerified):
            await resolver.resolve(HANDLE)
        web.put_account()

        assert (await resolver.resolve(HANDLE)).handle == HANDLE


@pytest.mark.spec("A19")
async def test_handle_given_to_another_account_leads_to_that_account(web: Web) -> None:
    web.put_did(DID)
    async with resolver_for(web) as resolver:
        await resolver.resolve(HANDLE)
        web.put_did(OTHER)
        web.put_account(handle="old.example.com")
        web.put_account(OTHER)

        assert (await resolver.resolve(HANDLE, fresh=True)).did == OTHER
        assert (await resolver.resolve(DID)).handle is None


def test_one_resolver_serves_several_event_loops(web: Web) -> None:
    web.put_did(DID)
    nets: dict[asyncio.AbstractEventLoop, Net] = {}
    resolver = IdentityResolver(lambda: nets[asyncio.get_running_loop()])

    async def once(*, fresh: bool) -> Identity:
        net = Net(NetPolicy(apps={o: web.app(o) for o in ORIGINS}, resolve_txt=web.resolve_txt))
        nets[asyncio.get_running_loop()] = net
        try:
            return await resolver.resolve(HANDLE, fresh=fresh)
        finally:
            await net.aclose()

    first = asyncio.run(once(fresh=False))
    asked = len(web.asked)

    assert asyncio.run(once(fresh=False)) == first
    assert len(web.asked) == asked
    assert asyncio.run(once(fresh=True)) == first
