"""Two PDSes in one directory: accounts that move, and servers that answer for another's."""

from __future__ import annotations

import itertools
from html import escape
from pathlib import Path

import anyio.to_thread
import pytest

from atproto_oauth_asgi.errors import IssuerMismatch, LoginError, SessionRevoked, WrongAccount
from tests.reference.conftest import ReferenceFactory
from tests.reference.network import Account, ReferenceNetwork
from tests.reference.rows import Rows
from tests.reference.user import ApprovalRefused, HttpUser
from tests.reference.world import grant_of, refused_refresh, until, world

pytestmark = pytest.mark.anyio

DAVE = "dave.test"
_numbers = itertools.count()


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return Rows(tmp_path / "app.db")


@pytest.fixture
def second(reference: ReferenceNetwork, reference_factory: ReferenceFactory) -> ReferenceNetwork:
    return reference_factory(plc_url=reference.plc, accounts=(DAVE,))


@pytest.fixture
def mover(reference: ReferenceNetwork) -> Account:
    """Somebody at the first PDS, of this test's own."""
    return reference.create_account(f"mover{next(_numbers)}.test")


def says(page: str, error: type[LoginError]) -> bool:
    return escape(error.sentence) in page


async def test_accounts_of_two_servers_share_a_browser(
    reference: ReferenceNetwork, second: ReferenceNetwork
) -> None:
    async with world(reference, networks=[second]) as here:
        await here.login("alice.test")
        await here.login(DAVE, add="1")
        on_second = await here.browser.get("/me")
        seen = (await here.browser.get("/oauth/session")).json()
        async with here.oauth.session_for(reference.account("alice.test").did) as alice:
            on_first = await alice.query("com.atproto.server.getSession")
        async with here.oauth.session_for(second.account(DAVE).did) as dave:
            homes = (alice.pds, dave.pds)

    assert on_second.json()["handle"] == DAVE
    assert on_first["handle"] == "alice.test"
    assert homes == (reference.pds, second.pds)
    assert [account["handle"] for account in seen["accounts"]] == [DAVE, "alice.test"]


@pytest.mark.spec("N3", "J6")
async def test_who_moves_to_another_server_has_to_log_in_there_and_the_old_grant_ends(
    reference: ReferenceNetwork, second: ReferenceNetwork, mover: Account, rows: Rows
) -> None:
    async with world(reference, store_url=rows.store_url) as first:
        await first.login(mover.handle)
        grant = await grant_of(first, mover.did)
    await anyio.to_thread.run_sync(reference.move_account, mover.did, second.pds)
    rows.token_life(-1)
    reference.control.clear_log()
    async with world(
        reference, networks=[second], store_url=rows.store_url, cookies=first.browser.cookies.jar
    ) as here:
        refused = await here.browser.get("/me")
        next_request = await here.browser.get("/me")
        seen = (await here.browser.get("/oauth/session")).json()
        await until(
            lambda: any(entry.status == 200 for entry in reference.control.log("/oauth/revoke"))
        )
        begun = await here.begin(mover.did)

    assert (refused.status_code, refused.json()["error"]) == (401, SessionRevoked.code)
    assert next_request.json()["error"] == "not_authenticated"
    assert not seen["authenticated"]
    assert [account["reason"] for account in seen["accounts"]] == ["reauth_required"]
    # The refresh token went to nobody but, with the revocation, to the server that gave it.
    assert reference.control.refreshes() == []
    assert await refused_refresh(grant) == "invalid_grant"
    assert begun.headers["location"].startswith(f"{second.issuer}/oauth/authorize?")


@pytest.mark.spec("H7")
async def test_a_server_that_is_not_the_account_s_any_more_gets_no_session(
    reference: ReferenceNetwork, second: ReferenceNetwork, mover: Account
) -> None:
    """The account's data is still at the first server, whose page still lets them in."""
    await anyio.to_thread.run_sync(reference.move_account, mover.did, second.pds)
    reference.control.clear_log()
    async with world(reference, networks=[second]) as here:
        back = await here.login(reference.pds, account=mover.handle)

        assert says(back.text, WrongAccount)
        assert await here.did() is None
        await until(
            lambda: any(entry.status == 200 for entry in reference.control.log("/oauth/revoke"))
        )


async def test_a_person_of_one_server_is_not_let_in_by_another(
    reference: ReferenceNetwork, second: ReferenceNetwork
) -> None:
    async with world(reference, networks=[second]) as here:
        begun = await here.begin(second.pds)
        async with HttpUser() as person:
            await person.open(begun.headers["location"])
            with pytest.raises(ApprovalRefused):
                await person.sign_in("alice.test", reference.account("alice.test").password)


@pytest.mark.spec("G5")
async def test_the_answer_of_one_server_does_not_finish_a_login_at_another(
    reference: ReferenceNetwork, second: ReferenceNetwork
) -> None:
    """A mix-up: the code of the first server would otherwise be sent to the second."""
    async with world(reference, networks=[second]) as here:
        good = await here.approved("alice.test")
        begun = await here.begin(DAVE)
        async with HttpUser() as person:
            other = await person.deny(begun.headers["location"])
        mixed = (
            other.partition("?")[0]
            + "?"
            + good.partition("?")[2].replace(state_of(good), state_of(other))
        )
        second.control.clear_log()
        refused = await here.browser.get(mixed)

        assert says(refused.text, IssuerMismatch)
        assert second.control.log("/oauth/token") == []
        assert (await here.browser.get(good)).status_code == 303


def state_of(callback: str) -> str:
    return callback.partition("state=")[2].partition("&")[0]
