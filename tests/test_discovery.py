from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import cast

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from atproto_oauth_asgi.discovery import Discovery, ServerMetadata
from atproto_oauth_asgi.errors import (
    AddressRefused,
    NotOAuthCapable,
    PDSUnreachable,
)
from atproto_oauth_asgi.net import Net, NetPolicy
from tests.discovery_documents import (
    GONE,
    ISSUER,
    PDS,
    RESOURCE_PATH,
    Clock,
    Web,
    discover,
    discovery_for,
    failure,
    resource,
    server,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def web() -> Web:
    web = Web()
    web.put_resource()
    web.put_server()
    return web


async def test_pds_leads_to_its_authorization_server(web: Web) -> None:
    found = await discover(web)

    assert found == ServerMetadata(
        issuer=ISSUER,
        authorization_endpoint=f"{ISSUER}/oauth/authorize",
        token_endpoint=f"{ISSUER}/oauth/token",
        pushed_authorization_request_endpoint=f"{ISSUER}/oauth/par",
        revocation_endpoint=f"{ISSUER}/oauth/revoke",
    )


WRONG_PAGES = [
    RedirectResponse("https://auth.example.com/other", 301),
    RedirectResponse("https://auth.example.com/other", 307),
    Response(status_code=204),
    JSONResponse({}, 201),
    JSONResponse({}, 403),
    PlainTextResponse("{}"),
    Response("{}", media_type="text/html"),
    JSONResponse([]),
    JSONResponse("text"),
    Response("{", media_type="application/json"),
    Response(b'{"x": "' + b"y" * 600_000 + b'"}', media_type="application/json"),
]


@pytest.mark.spec("B1", "P5", "P7")
@pytest.mark.parametrize("page", WRONG_PAGES)
async def test_resource_metadata_is_200_json_object_without_redirect(
    web: Web, page: Response
) -> None:
    web.put_resource(page)
    web.pages["https://auth.example.com/other"] = JSONResponse(resource())

    assert type(await failure(web)) is NotOAuthCapable


@pytest.mark.spec("B6", "P5", "P7")
@pytest.mark.parametrize("page", WRONG_PAGES)
async def test_server_metadata_is_200_json_object_without_redirect(
    web: Web, page: Response
) -> None:
    web.put_server(page)
    web.pages["https://auth.example.com/other"] = JSONResponse(server())

    assert type(await failure(web)) is NotOAuthCapable


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_server_that_fails_in_passing_is_unreachable(web: Web, status: int) -> None:
    web.put_resource(JSONResponse({}, status))
    error = await failure(web)
    assert type(error) is PDSUnreachable
    assert error.retryable

    web.put_resource()
    web.put_server(JSONResponse({}, status))
    assert type(await failure(web)) is PDSUnreachable


async def test_server_out_of_reach_is_unreachable(web: Web) -> None:
    assert type(await failure(web, origins=())) is PDSUnreachable
    assert type(await failure(web, origins=(PDS,))) is PDSUnreachable


@pytest.mark.spec("B2")
@pytest.mark.parametrize(
    "servers",
    [GONE, None, [], [ISSUER, ISSUER], [ISSUER, "https://b.example.com"], ISSUER, [7], {"0": 1}],
)
async def test_there_is_exactly_one_authorization_server(web: Web, servers: object) -> None:
    web.put_resource(authorization_servers=servers)

    assert type(await failure(web)) is NotOAuthCapable


def _issuer_vectors() -> list[dict[str, object]]:
    path = Path(__file__).parent / "vectors" / "vectors.json"
    return cast("dict[str, list[dict[str, object]]]", json.loads(path.read_text()))["issuer"]


@pytest.mark.spec("B3")
@pytest.mark.parametrize("case", _issuer_vectors(), ids=lambda case: case["value"])
async def test_issuer_vectors_of_the_reference(web: Web, case: dict[str, object]) -> None:
    issuer = str(case["value"])
    # The reference's type allows a path; the profile asks for a bare origin.
    allowed = bool(case["ok"]) and not issuer.endswith("/path")
    web.put_resource(authorization_servers=[issuer])
    web.put_server(issuer=issuer)

    async with discovery_for(web, origins=(PDS, issuer), insecure=True) as discovery:
        if allowed:
            assert (await discovery.for_pds(PDS)).issuer == issuer
        else:
            with pytest.raises(NotOAuthCapable):
                await discovery.for_pds(PDS)


@pytest.mark.spec("B3")
@pytest.mark.parametrize(
    "issuer",
    [
        "https://AUTH.example.com",
        "https://auth.example.com/",
        "https://auth.example.com:443",
        "https://auth.example.com#x",
        "https://auth.example.com?",
        "https://auth.example.com.",
        "https://user@auth.example.com",
        "http://auth.example.com",
        "http://127.0.0.1:2583",
        "http://localhost:2583",
        "auth.example.com",
        "javascript:alert(1)",
        "",
    ],
)
async def test_issuer_that_is_no_canonical_https_origin_is_not_asked(web: Web, issuer: str) -> None:
    web.put_resource(authorization_servers=[issuer])

    assert type(await failure(web)) is NotOAuthCapable
    assert web.asked == [PDS + RESOURCE_PATH]


@pytest.mark.spec("B3", "P2")
async def test_issuer_may_have_a_port_where_ports_are_open(web: Web) -> None:
    issuer = "https://auth.example.com:8443"
    web.put_resource(authorization_servers=[issuer])
    web.put_server(issuer=issuer)

    assert (await discover(web, origins=(PDS, issuer), ports=None)).issuer == issuer
    assert type(await failure(web)) is AddressRefused


@pytest.mark.spec("B4")
@pytest.mark.parametrize(
    "name", [GONE, None, "https://other.example.com", f"{PDS}/", "https://PDS.example.com", [PDS]]
)
async def test_resource_is_the_pds_that_was_asked(web: Web, name: object) -> None:
    web.put_resource(resource=name)

    assert type(await failure(web)) is NotOAuthCapable


@pytest.mark.spec("B5")
async def test_pds_without_resource_metadata_is_an_error_for_an_account(web: Web) -> None:
    del web.pages[PDS + RESOURCE_PATH]
    web.put_server(issuer=PDS)

    assert type(await failure(web)) is NotOAuthCapable


@pytest.mark.spec("A20", "B5")
async def test_server_address_may_be_a_pds(web: Web) -> None:
    async with discovery_for(web) as discovery:
        pds, found = await discovery.for_server(PDS)

    assert (pds, found.issuer) == (PDS, ISSUER)


@pytest.mark.spec("A20", "B5")
async def test_server_address_may_be_an_authorization_server(web: Web) -> None:
    async with discovery_for(web) as discovery:
        pds, found = await discovery.for_server(ISSUER)

    assert (pds, found.issuer) == (None, ISSUER)


@pytest.mark.spec("B5")
@pytest.mark.parametrize("status", [302, 403, 500])
async def test_server_address_falls_back_after_404_only(web: Web, status: int) -> None:
    web.put_resource(JSONResponse({}, status), origin=ISSUER)

    async with discovery_for(web) as discovery:
        with pytest.raises((NotOAuthCapable, PDSUnreachable)):
            await discovery.for_server(ISSUER)

    assert web.asked == [ISSUER + RESOURCE_PATH]


async def test_address_of_some_other_web_site_is_not_oauth_capable(web: Web) -> None:
    async with discovery_for(web, origins=("https://www.example.com",)) as discovery:
        with pytest.raises(NotOAuthCapable) as caught:
            await discovery.for_server("https://www.example.com")

    assert caught.value.identifier == "https://www.example.com"


@pytest.mark.spec("B10")
async def test_authorization_server_that_lists_resources_lists_the_pds(web: Web) -> None:
    web.put_server(protected_resources=["https://other.example.com"])
    assert type(await failure(web)) is NotOAuthCapable

    web.put_server(protected_resources=[])
    assert type(await failure(web)) is NotOAuthCapable

    web.put_server(protected_resources="https://pds.example.com")
    assert type(await failure(web)) is NotOAuthCapable

    web.put_server(protected_resources=["https://other.example.com", PDS])
    assert (await discover(web)).protected_resources == frozenset(
        {"https://other.example.com", PDS}
    )


@pytest.mark.spec("B10")
async def test_remembered_server_is_held_against_each_pds(web: Web) -> None:
    mallory = "https://mallory.example.com"
    web.put_server(protected_resources=[PDS])
    web.put_resource(JSONResponse(resource(resource=mallory)), origin=mallory)

    async with discovery_for(web, origins=(PDS, ISSUER, mallory)) as discovery:
        await discovery.for_pds(PDS)
        with pytest.raises(NotOAuthCapable):
            await discovery.for_pds(mallory)
        with pytest.raises(NotOAuthCapable):
            await discovery.for_server(mallory)


@pytest.mark.spec("B12")
async def test_metadata_is_remembered_for_a_minute(web: Web) -> None:
    clock = Clock()
    async with discovery_for(web, clock=clock) as discovery:
        await discovery.for_pds(PDS)
        await discovery.for_pds(PDS)
        await discovery.for_server(PDS)
        await discovery.for_issuer(ISSUER)
        assert len(web.asked) == 2

        clock.now += 60
        await discovery.for_pds(PDS)
        assert len(web.asked) == 4


@pytest.mark.spec("B12", "H7")
async def test_fresh_look_asks_both_servers_again(web: Web) -> None:
    async with discovery_for(web, origins=(PDS, ISSUER, "https://new.example.com")) as discovery:
        await discovery.for_pds(PDS)
        web.put_resource(authorization_servers=["https://new.example.com"])
        web.put_server(issuer="https://new.example.com")

        assert (await discovery.for_pds(PDS)).issuer == ISSUER
        assert (await discovery.for_pds(PDS, fresh=True)).issuer == "https://new.example.com"
        assert (await discovery.for_pds(PDS)).issuer == "https://new.example.com"

        web.put_server(revocation_endpoint=GONE)
        assert (await discovery.for_issuer(ISSUER)).revocation_endpoint is not None
        assert (await discovery.for_issuer(ISSUER, fresh=True)).revocation_endpoint is None


@pytest.mark.spec("B12")
async def test_errors_are_never_remembered(web: Web) -> None:
    web.put_resource(JSONResponse({}, 500))
    async with discovery_for(web) as discovery:
        with pytest.raises(PDSUnreachable):
            await discovery.for_pds(PDS)
        web.put_resource()
        web.put_server(token_endpoint=GONE)
        with pytest.raises(NotOAuthCapable):
            await discovery.for_pds(PDS)
        web.put_server()

        assert (await discovery.for_pds(PDS)).issuer == ISSUER


@pytest.mark.spec("B12")
async def test_memory_is_bounded(web: Web) -> None:
    origins = tuple(f"https://pds{number}.example.com" for number in range(502))
    for origin in origins:
        web.put_resource(JSONResponse(resource(resource=origin)), origin=origin)

    async with discovery_for(web, origins=(ISSUER, *origins)) as discovery:
        for origin in origins:
            await discovery.for_pds(origin)
        asked = len(web.asked)
        await discovery.for_pds(origins[-1])
        assert len(web.asked) == asked
        await discovery.for_pds(origins[0])

    assert len(web.asked) == asked + 1


async def test_loopback_network_over_http_works_in_development_only(web: Web) -> None:
    origin = "http://localhost:2583"
    web.put_resource(
        JSONResponse(resource(resource=origin, authorization_servers=[origin])), origin=origin
    )
    web.put_server(issuer=origin, protected_resources=[origin])

    async with discovery_for(web, origins=(origin,), insecure=True) as discovery:
        assert (await discovery.for_pds(origin)).token_endpoint == f"{origin}/oauth/token"
    async with discovery_for(web, origins=(origin,)) as discovery:
        with pytest.raises(NotOAuthCapable):
            await discovery.for_pds(origin)
        with pytest.raises(NotOAuthCapable):
            await discovery.for_server(origin)


async def test_name_of_one_label_works_when_it_is_listed(web: Web) -> None:
    origin = "https://pds"
    web.put_resource(
        JSONResponse(resource(resource=origin, authorization_servers=[origin])), origin=origin
    )
    web.put_server(issuer=origin)

    async with discovery_for(web, origins=(origin,), private=("10.0.0.0/8", "PDS")) as discovery:
        assert (await discovery.for_pds(origin)).issuer == origin
    async with discovery_for(web, origins=(origin,)) as discovery:
        with pytest.raises(NotOAuthCapable):
            await discovery.for_pds(origin)


def test_one_discovery_serves_several_event_loops(web: Web) -> None:
    nets: dict[asyncio.AbstractEventLoop, Net] = {}
    discovery = Discovery(lambda: nets[asyncio.get_running_loop()])

    async def once() -> ServerMetadata:
        net = Net(NetPolicy(apps={origin: web.app(origin) for origin in (PDS, ISSUER)}))
        nets[asyncio.get_running_loop()] = net
        try:
            return await discovery.for_pds(PDS)
        finally:
            await net.aclose()

    assert asyncio.run(once()) == asyncio.run(once())
    assert len(web.asked) == 2


@pytest.mark.spec("P1")
@pytest.mark.parametrize("origin", ["https://10.0.0.1", "https://[::1]", "https://127.0.0.1"])
async def test_pds_at_a_private_address_is_refused(web: Web, origin: str) -> None:
    async with discovery_for(web) as discovery:
        with pytest.raises(AddressRefused):
            await discovery.for_pds(origin)


@pytest.mark.spec("P1")
async def test_authorization_server_at_a_private_address_is_refused(web: Web) -> None:
    web.put_resource(authorization_servers=["https://169.254.169.254"])

    assert type(await failure(web)) is AddressRefused
