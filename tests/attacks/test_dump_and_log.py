"""A thief with a dump of the database and the whole log, while sessions and logins are alive."""

from __future__ import annotations

import base64
import re
import sqlite3
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest

from atproto_oauth_asgi.errors import SealBroken
from atproto_oauth_asgi.plugins import migrate_empty
from atproto_oauth_asgi.testing import Network
from tests.app.test_secrets import everything_logged
from tests.app.world import PAGE, World, world

pytestmark = [pytest.mark.anyio, pytest.mark.spec("P8", "Q4")]

TABLES = ("atproto_oauth_one_time", "atproto_oauth_browser", "atproto_oauth_session")


@dataclass
class Loot:
    here: World
    path: Path
    #: Every value of every row, and every word of the log.
    words: set[str]


def dumped(path: Path) -> Iterator[object]:
    with closing(sqlite3.connect(path)) as database:
        for table in TABLES:
            rows = database.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608
            assert rows, f"{table} is empty: there would be nothing to steal"
            for row in rows:
                yield from row


def spelt(value: object) -> Iterator[str]:
    """Spell a stolen value in all ways that a cookie or a parameter could have."""
    raw = value if isinstance(value, bytes) else str(value).encode()
    yield raw.decode("latin-1")
    yield raw.hex()
    for coded in (base64.urlsafe_b64encode(raw), base64.b64encode(raw)):
        yield coded.decode()
        yield coded.decode().rstrip("=")
        # The right length for a cookie, from whatever is long enough.
        yield coded.decode()[:43]


@asynccontextmanager
async def stolen(tmp_path: Path) -> AsyncGenerator[Loot]:
    path = tmp_path / "sessions.db"
    url = f"sqlite:///{path}"
    await migrate_empty(url)
    with everything_logged() as logged:
        async with world(Network(), store=url) as here:
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
                words = {one for value in dumped(path) for one in spelt(value)}
                words |= {word for text in logged.texts for word in re.split(r"[\s'\"=&?,]", text)}
                yield Loot(here, path, {word for word in words if len(word) >= 8})


async def test_nothing_in_them_is_a_session_cookie(tmp_path: Path) -> None:
    async with stolen(tmp_path) as loot, loot.here.another_browser() as thief:
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


async def test_nothing_in_them_finishes_a_login(tmp_path: Path) -> None:
    async with stolen(tmp_path) as loot, loot.here.another_browser() as thief:
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


async def test_nothing_in_them_is_a_token(tmp_path: Path) -> None:
    async with stolen(tmp_path) as loot:
        session = loot.here.network.sessions("alice.test")[0]
        whole = "\n".join(loot.words)
        assert session.refresh_token
        assert session.refresh_token not in whole
        assert "-----BEGIN" not in whole
        assert not re.search(r"eyJ[\w-]{10,}\.eyJ", whole)


async def test_a_sealed_payload_moved_into_the_thiefs_own_row_does_not_open(
    tmp_path: Path,
) -> None:
    async with stolen(tmp_path) as loot:
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

        with closing(sqlite3.connect(loot.path)) as database:
            columns = "sealed_tokens, sealed_dpop_key, did, issuer, handle, scope, client_id"
            (alice,) = database.execute(
                f"SELECT {columns} FROM atproto_oauth_session WHERE did = ?",  # noqa: S608
                (here.did().encode() if _binary(database) else here.did(),),
            ).fetchall()
            database.execute(
                "UPDATE atproto_oauth_session SET sealed_tokens = ?, sealed_dpop_key = ?, did = ?"
                " WHERE handle = 'mallory.test'",
                alice[:3],
            )
            database.commit()

        # Another process, which remembers nothing.
        async with (
            world(here.network, store=f"sqlite:///{loot.path}") as there,
            there.another_browser() as thief,
        ):
            headers = {**PAGE, "cookie": f"{there.oauth.cookies.session}={mine}"}
            with everything_logged() as logged:
                assert (await thief.get("/who", headers=headers)).json() == {"did": None}
            assert "session.seal_broken" in logged.texts
            assert any(SealBroken.__name__ in text for text in logged.texts)


def _binary(database: sqlite3.Connection) -> bool:
    kind = database.execute("SELECT typeof(did) FROM atproto_oauth_session").fetchone()[0]
    return bool(kind == "blob")
