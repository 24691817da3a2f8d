from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import dns.exception
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from atproto_oauth_asgi.errors import (
    AddressRefused,
    ATProtoOAuthError,
    HandleNotFound,
    HandleNotVerified,
    IdentityUnavailable,
    InvalidIdentifier,
    UnsupportedDID,
)
from atproto_oauth_asgi.identity import Identity, IdentityResolver
from atproto_oauth_asgi.net import Net, NetPolicy
from tests.identity_documents import (
    DID,
    HANDLE,
    ORIGINS,
    OTHER,
    PDS,
    PLC,
    Web,
    failure,
    resolve,
    resolver_for,
)
from tests.virtual_time import in_virtual_time

pytestmark = pytest.mark.anyio


@pytest.fixture
def web() -> Web:
    web = Web()
    web.put_account()
    return web


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

    async with resolver_for(web) as resolver, asyncio.timeout(20):
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
def test_silent_dns_holds_https_up_for_its_deadline_only(web: Web) -> None:
    web.dns_gate = asyncio.Event()
    web.put_did(DID)

    async def run() -> None:
        began = time.monotonic()
        assert (await resolve(web, dns_deadline=0.05)).did == DID
        assert time.monotonic() - began == pytest.approx(0.05, abs=0.01)

    in_virtual_time(run)


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


class Directory:
    def __init__(self, answer: str | ATProtoOAuthError | None) -> None:
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


@pytest.mark.spec("P1")
async def test_handle_resolver_service_at_a_private_address_is_refused(web: Web) -> None:
    error = await failure(web, handle_resolver_url="https://10.0.0.1")

    assert isinstance(error, AddressRefused)


async def test_handle_resolver_service_out_of_reach_is_a_passing_failure(web: Web) -> None:
    error = await failure(web, handle_resolver_url="https://gone.example.com")

    assert isinstance(error, IdentityUnavailable)


@pytest.mark.spec("A3")
async def test_test_handle_is_never_asked_of_public_dns(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(_: object, name: str, *args: object, **options: object) -> None:
        web.asked.append(f"PUBLIC {name}")
        raise dns.exception.Timeout

    monkeypatch.setattr("dns.asyncresolver.Resolver.resolve", ask)

    await failure(web, "alice.test", allow_insecure_loopback=True, dns=False)
    assert web.asked == ["HOST alice.test"]
    await failure(web, HANDLE, dns=False)
    assert f"PUBLIC _atproto.{HANDLE}" in web.asked
