"""A thief with a dump of the database and the whole log, while sessions and logins are alive."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlencode

import pytest
import sqlalchemy as sa

from atproto_oauth_asgi.errors import SealBroken
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi_stores import SQLStore
from tests.app.test_secrets import everything_logged
from tests.app.world import PAGE, World, world
from tests.attacks.dumps import Database

pytestmark = [pytest.mark.anyio, pytest.mark.spec("P8", "Q4")]

TABLES = ("atproto_oauth_one_time", "atproto_oauth_browser", "atproto_oauth_session")


@dataclass
class Loot:
    here: World
    #: Every value of every row, and every word of the dump and of the log.
    words: set[str]


@asynccontextmanager
async def stolen(database: Database) -> AsyncGenerator[Loot]:
    with everything_logged() as logged:
        async with world(Network(), store=database.url) as here:
            await here.login("alice.test")
            assert await here.who() == here.did()
            # A login of another browser is under way: Alice's again.
            async with here.another_browser() as other:
                begun = await other.post(
                    "/oauth/login",
                    data={"identifier": "alice.test"},
                    headers={"origin": here.origin},
                )
                assert begun.status_code == 303
                # Somebody failed too, so the log has its warnings.
                await other.get("/oauth/callback?state=x")
                rows = await database.rows()
                assert all(rows[table] for table in TABLES), "there would be nothing to steal"
                words = await database.words()
                words |= {word for text in logged.texts for word in re.split(r"[\s'\"=&?,]", text)}
                yield Loot(here, {word for word in words if len(word) >= 8})


async def test_nothing_in_them_is_a_session_cookie(database: Database) -> None:
    async with stolen(database) as loot, loot.here.another_browser() as thief:
        name = loot.here.oauth.cookies.session
        fitting = {word for word in loot.words if re.fullmatch(r"[A-Za-z0-9_-]{43}", word)}
        # The hash of the real cookie is among what fits, so this could succeed.
        assert len(fitting) >= 4
        for word in sorted(fitting):
            headers = {**PAGE, "cookie": f"{name}={word}"}
            assert (await thief.get("/who", headers=headers)).json() == {"did": None}
            session = await thief.get("/oauth/session", headers=headers)
            assert session.json()["accounts"] == []
        assert await loot.here.who() == loot.here.did()


async def test_nothing_in_them_finishes_a_login(database: Database) -> None:
    async with stolen(database) as loot, loot.here.another_browser() as thief:
        here = loot.here
        login = here.oauth.cookies.login
        fitting = sorted(word for word in loot.words if re.fullmatch(r"[A-Za-z0-9_-]{43}", word))
        for word in fitting:
            query = urlencode({"state": word, "code": "c" * 30, "iss": here.network.host.origin})
            for cookie in fitting:
                answer = await thief.get(
                    f"/oauth/callback?{query}", headers={"cookie": f"{login}={cookie}"}
                )
                assert answer.status_code == 400
        assert here.network.log.of("token")[1:] == []


async def test_nothing_in_them_is_a_token(database: Database) -> None:
    async with stolen(database) as loot:
        session = loot.here.network.sessions("alice.test")[0]
        whole = "\n".join(loot.words)
        assert loot.here.did() in whole
        assert session.refresh_token
        assert session.refresh_token not in whole
        assert "-----BEGIN" not in whole
        assert not re.search(r"eyJ[\w-]{10,}\.eyJ", whole)


async def test_a_sealed_payload_moved_into_the_thiefs_own_row_does_not_open(
    database: Database,
) -> None:
    async with stolen(database) as loot:
        here = loot.here
        here.network.add_account("mallory.test")
        async with here.another_browser() as thief:
            begun = await thief.post(
                "/oauth/login",
                data={"identifier": "mallory.test"},
                headers={"origin": here.origin},
            )
            await thief.get(here.network.approve(begun.headers["location"], "mallory.test"))
            mine = thief.cookies[here.oauth.cookies.session]

        async with aclosing(SQLStore(database.url)) as store:
            row = store.tables.session.c
            (hers,) = await store.rows(
                sa.select(row.sealed_tokens, row.sealed_dpop_key).where(row.did == here.did())
            )
            tokens, key = tuple(hers)
            moved = {"sealed_tokens": tokens, "sealed_dpop_key": key, "did": here.did()}
            await store.change(
                sa.update(store.tables.session).where(row.handle == "mallory.test").values(moved)
            )

        # Another process, which remembers nothing.
        async with (
            world(here.network, store=database.url) as there,
            there.another_browser() as thief,
        ):
            headers = {**PAGE, "cookie": f"{there.oauth.cookies.session}={mine}"}
            with everything_logged() as logged:
                assert (await thief.get("/who", headers=headers)).json() == {"did": None}
            assert "session.seal_broken" in logged.texts
            assert any(SealBroken.__name__ in text for text in logged.texts)
