from __future__ import annotations

import asyncio

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from atproto_oauth_asgi.errors import (
    DIDNotFound,
    HandleNotFound,
    HandleNotVerified,
    IdentityUnavailable,
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
    Clock,
    Web,
    document,
    resolver_for,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def web() -> Web:
    web = Web()
    web.put_account()
    return web


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


@pytest.mark.spec("A11")
async def test_mended_claim_is_seen_though_the_old_document_is_remembered(web: Web) -> None:
    web.put_did(DID)
    web.put_account(handle="old.example.com")
    async with resolver_for(web) as resolver:
        await resolver.locate(DID)
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
