"""A handle is for display, and is looked at again whenever tokens are refreshed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from atproto_oauth_asgi import identity
from atproto_oauth_asgi.errors import IdentityUnavailable, Unreachable
from atproto_oauth_asgi.instrumentation import Event
from atproto_oauth_asgi.testing import Network
from tests.app.faulty_store import FaultyStore
from tests.app.world import World, world

pytestmark = [pytest.mark.anyio, pytest.mark.spec("A19")]


class Later:
    """Is some time after a login: nothing is remembered, and name servers may be down."""

    def __init__(self, here: World, store: FaultyStore, did: str | None = None) -> None:
        self.here = here
        self.store = store
        self.did = did or here.did()

    async def refreshed(self) -> str | None:
        """Refresh; return the handle that is shown then, and after the next refresh everywhere."""
        await self.refresh()
        await self.looked()
        async with self.here.oauth.session_for(self.did) as session:
            known = session.handle
        await self.refresh()
        await self.looked()
        answer = (await self.here.browser.get("/oauth/session")).json()
        assert {self.store.sessions[0].handle, answer["handle"]} == {known}
        assert [account["handle"] for account in answer["accounts"]] == [known]
        return known

    async def refresh(self) -> None:
        """Refresh once, whatever is known of the handle by then."""
        network = self.here.network
        before = len(network.token_requests("refresh_token"))
        network.expire_access_tokens()
        self.store.allow_refresh()
        async with self.here.oauth.session_for(self.did) as session:
            await session.query("com.atproto.server.getSession")
        async with asyncio.timeout(10):
            while left := {*self.here.oauth.runtime().tasks.running()} - self.looking():
                await asyncio.wait(left)
        assert len(network.token_requests("refresh_token")) == before + 1

    def looking(self) -> set[asyncio.Task[object]]:
        """Return what still looks at a handle."""
        return {task for task in asyncio.all_tasks() if task.get_name() == f"handle of {self.did}"}

    async def looked(self) -> None:
        """Wait until nobody looks any more."""
        async with asyncio.timeout(10):
            while looking := self.looking():
                await asyncio.wait(looking)


Ask = Callable[[str], Awaitable[Sequence[bytes]]]


class NameServers:
    """Answer for the network's names until a test says otherwise."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask

    async def __call__(self, name: str) -> Sequence[bytes]:
        return await self.ask(name)


async def silent(_: str) -> Sequence[bytes]:
    await asyncio.Event().wait()
    return ()


async def out_of_order(_: str) -> Sequence[bytes]:
    raise OSError("SERVFAIL")


async def another_kind(_: str) -> Sequence[bytes]:
    return [b"did=did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme"]


def late_looks(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Let looks at a handle wait until an event is set; nothing is remembered."""
    monkeypatch.setattr(identity, "_TTL", 0.0)
    go_on, handle_of = asyncio.Event(), identity.IdentityResolver.handle_of

    async def late(
        resolver: identity.IdentityResolver, did: str, *, shown: str | None
    ) -> identity.Handle | None:
        await go_on.wait()
        return await handle_of(resolver, did, shown=shown)

    monkeypatch.setattr(identity.IdentityResolver, "handle_of", late)
    return go_on


@asynccontextmanager
async def signed_in(
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncGenerator[tuple[Later, NameServers]]:
    monkeypatch.setattr(identity, "_TTL", 0.0)
    network, store = Network(), FaultyStore()
    ask = network.policy().resolve_txt
    assert ask is not None
    names = NameServers(ask)
    policy = network.policy(resolve_txt=names)
    async with world(network, store=store, net_policy=policy) as here:
        await here.login()
        yield Later(here, store), names


async def test_a_handle_that_is_still_the_accounts_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    async with signed_in(monkeypatch) as (later, _):
        assert await later.refreshed() == "alice.test"


async def test_a_new_handle_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    async with signed_in(monkeypatch) as (later, _):
        later.here.network.account("alice.test").handle = "alice.example.test"

        assert await later.refreshed() == "alice.example.test"


async def test_a_handle_that_is_somebody_elses_is_shown_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with signed_in(monkeypatch) as (later, _):
        network = later.here.network
        network.account("alice.test").handle = "gone.test"
        network.account("gone.test").handle_proof = "none"
        network.add_account("alice.test", did="did:plc:" + "m" * 24)

        assert await later.refreshed() is None


async def test_a_handle_whose_name_points_elsewhere_is_shown_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with signed_in(monkeypatch) as (later, _):
        # The account still claims it, which anybody may.
        later.here.network.account("alice.test").handle_proof = "none"

        assert await later.refreshed() is None
        later.here.network.account("alice.test").handle_proof = "both"
        assert await later.refreshed() == "alice.test"


@pytest.mark.parametrize("trouble", [silent, out_of_order])
async def test_an_outage_takes_a_handle_from_nobody_and_holds_no_refresh(
    trouble: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with signed_in(monkeypatch) as (later, names):
        later.here.network.account("alice.test").handle_proof = "dns"
        names.ask = trouble
        await later.refresh()
        # The name servers were still being asked when the app had its answer.
        assert bool(later.looking()) == (trouble is silent)
        assert await later.refreshed() == "alice.test"


async def test_a_web_server_that_is_down_takes_no_handle(monkeypatch: pytest.MonkeyPatch) -> None:
    async with signed_in(monkeypatch) as (later, _):
        network = later.here.network
        # The name servers say that they know nothing of it.
        network.account("alice.test").handle_proof = "well-known"
        with network.dropped("/.well-known/atproto-did"):
            assert await later.refreshed() == "alice.test"
        assert await later.refreshed() == "alice.test"


async def test_what_the_account_does_not_claim_any_more_is_shown_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with signed_in(monkeypatch) as (later, _):
        network = later.here.network
        account = network.account("alice.test")
        account.handle, account.handle_proof = "gone.test", "none"
        network.add_account("alice.test", did="did:plc:" + "m" * 24)
        # An account could otherwise keep somebody else's by claiming one that is never there.
        with network.dropped("/.well-known/atproto-did"):
            assert await later.refreshed() is None


async def test_what_one_worker_saw_wrongly_is_mended_by_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on = late_looks(monkeypatch)
    network, store = Network(), FaultyStore()
    async with world(network, store=store) as one, world(network, store=store) as two:
        await one.login()
        account = network.account("alice.test")
        unlucky, others = Later(one, store), Later(two, store)
        account.handle_proof = "none"
        await unlucky.refresh()
        go_on.set()
        await unlucky.looked()
        async with one.oauth.session_for(unlucky.did) as session:
            assert session.handle is None
        account.handle_proof = "both"
        for _ in range(2):
            await others.refresh()
            await others.looked()
        async with one.oauth.session_for(unlucky.did) as session:
            assert session.handle == "alice.test"


async def test_a_slow_look_is_waited_for_where_nobody_owns_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on = late_looks(monkeypatch)
    network, store = Network(), FaultyStore()
    async with world(network, store=store) as first:
        await first.login()
    account = network.account("alice.test")
    account.handle = "alice2.test"
    network.expire_access_tokens()
    store.allow_refresh()
    async with world(network, store=store, owned=False) as here:
        here.browser.cookies.update(first.browser.cookies)
        # The answer has left long before; httpx tells of it when the app is done.
        asked = asyncio.create_task(here.browser.get("/me"))
        assert not (await asyncio.wait({asked}, timeout=0.3))[0]
        assert store.sessions[0].version == 2
        go_on.set()
        assert (await asked).status_code == 200
        assert (await here.browser.get("/oauth/session")).json()["handle"] == "alice2.test"
        await here.oauth.runtime().aclose()


async def test_a_handle_that_leads_to_another_kind_of_did_is_shown_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with signed_in(monkeypatch) as (later, names):
        names.ask = another_kind
        assert await later.refreshed() is None


async def test_workers_that_refresh_in_turn_store_what_was_found_out_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on = late_looks(monkeypatch)
    network, store = Network(), FaultyStore()
    async with world(network, store=store) as one, world(network, store=store) as two:
        await one.login()
        workers = [Later(here, store) for here in (one, two)]
        account = network.account("alice.test")
        for name in ("alice2.test", "alice3.test"):
            before, account.handle = account.handle, name
            for worker in workers:
                go_on.clear()
                await worker.refresh()
                assert store.sessions[0].handle == before
                go_on.set()
                await worker.looked()
                async with worker.here.oauth.session_for(worker.did) as session:
                    assert session.handle == name
            go_on.clear()
            await workers[0].refresh()
            assert store.sessions[0].handle == name
            go_on.set()
            await workers[0].looked()


class Directory:
    """Is an app's own way to resolve handles, which fails as it likes after the login."""

    def __init__(self) -> None:
        self.did = ""
        self.trouble: Exception | None = None
        self.hangs = False

    async def resolve_handle(self, handle: str, /) -> str:
        if self.hangs:
            await asyncio.Event().wait()
        if self.trouble is not None:
            raise self.trouble
        return self.did


@pytest.mark.parametrize(
    "trouble",
    [
        None,
        IdentityUnavailable("The directory is down.", identifier="alice.test"),
        Unreachable("The directory is down.", host="directory.test"),
    ],
)
async def test_a_resolver_of_the_apps_own_that_fails_takes_no_handle_and_is_not_waited_for(
    trouble: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "_TTL", 0.0)
    network, store, directory, told = Network(), FaultyStore(), Directory(), list[Event]()
    directory.did = network.account("alice.test").did
    async with world(
        network,
        store=store,
        handle_resolver=directory,
        on_event=told.append,
    ) as here:
        await here.login()
        directory.trouble, directory.hangs = trouble, trouble is None
        assert await Later(here, store).refreshed() == "alice.test"
        # It is let go of, and no defect of ours.
        await here.settled()
        assert {event.name for event in told}.isdisjoint({"task.failed", "refresh.failed"})
