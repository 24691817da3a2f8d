"""A handle is for display, and is looked at again whenever tokens are refreshed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from atproto_oauth_asgi import identity
from atproto_oauth_asgi.errors import IdentityUnavailable, Unreachable
from atproto_oauth_asgi.instrumentation import Event
from atproto_oauth_asgi.testing import Network
from tests.app.faulty_store import FaultyStore
from tests.app.world import QUICK, World, world

pytestmark = [pytest.mark.anyio, pytest.mark.spec("A19")]


class Later:
    """Is some time after a login: nothing is remembered, and name servers may be down."""

    def __init__(self, here: World, store: FaultyStore) -> None:
        self.here = here
        self.store = store
        self.trouble: str | None = None
        self.did = here.did()
        self.going_on: set[str] = set()

    async def refreshed(self) -> str | None:
        """Refresh; return the handle that is shown then, and after the next refresh everywhere."""
        await self._refresh()
        async with self.here.oauth.session_for(self.did) as session:
            known = session.handle
        await self._refresh()
        answer = (await self.here.browser.get("/oauth/session")).json()
        assert {self.store.sessions[0].handle, answer["handle"]} == {known}
        assert [account["handle"] for account in answer["accounts"]] == [known]
        return known

    async def _refresh(self) -> None:
        network = self.here.network
        before = len(network.token_requests("refresh_token"))
        network.expire_access_tokens()
        self.store.allow_refresh()
        async with self.here.oauth.session_for(self.did) as session:
            await session.query("com.atproto.server.getSession")
        self.going_on = {task.get_name() for task in self.here.oauth.runtime().tasks.running()}
        await self.here.settled()
        assert len(network.token_requests("refresh_token")) == before + 1


@asynccontextmanager
async def signed_in(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Later]:
    monkeypatch.setattr(identity, "_TTL", 0.0)
    network, store = Network(), FaultyStore()
    names = network.policy().resolve_txt
    assert names is not None

    async def resolve_txt(name: str) -> Sequence[bytes]:
        if later is not None and later.trouble is not None:
            if later.trouble == "silent":
                await asyncio.Event().wait()
            raise OSError(later.trouble)
        return await names(name)

    later: Later | None = None
    policy = network.policy(resolve_txt=resolve_txt)
    async with world(network, store=store, net_policy=policy) as here:
        await here.login()
        later = Later(here, store)
        yield later


async def test_a_handle_that_is_still_the_accounts_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    async with signed_in(monkeypatch) as later:
        assert await later.refreshed() == "alice.test"


async def test_a_new_handle_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    async with signed_in(monkeypatch) as later:
        later.here.network.account("alice.test").handle = "alice.example.test"

        assert await later.refreshed() == "alice.example.test"


async def test_a_handle_that_is_somebody_elses_is_shown_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with signed_in(monkeypatch) as later:
        network = later.here.network
        network.account("alice.test").handle = "gone.test"
        network.account("gone.test").handle_proof = "none"
        network.add_account("alice.test", did="did:plc:" + "m" * 24)

        assert await later.refreshed() is None


async def test_a_handle_whose_name_points_elsewhere_is_shown_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with signed_in(monkeypatch) as later:
        # The account still claims it, which anybody may.
        later.here.network.account("alice.test").handle_proof = "none"

        assert await later.refreshed() is None
        later.here.network.account("alice.test").handle_proof = "both"
        assert await later.refreshed() == "alice.test"


@pytest.mark.parametrize("trouble", ["silent", "SERVFAIL"])
async def test_an_outage_takes_a_handle_from_nobody_and_holds_no_refresh(
    trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with signed_in(monkeypatch) as later:
        later.here.network.account("alice.test").handle_proof = "dns"
        later.trouble = trouble
        assert await later.refreshed() == "alice.test"
        # The name servers were still being asked when the app had its answer.
        assert (f"handle of {later.did}" in later.going_on) == (trouble == "silent")


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
        timing=replace(QUICK, verify=0.2),
    ) as here:
        await here.login()
        directory.trouble, directory.hangs = trouble, trouble is None
        assert await Later(here, store).refreshed() == "alice.test"
        # It is let go of, and no defect of ours.
        await here.settled()
        assert {event.name for event in told}.isdisjoint({"task.failed", "refresh.failed"})
