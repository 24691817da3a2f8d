"""What is wrong with a server's database is told, and how to mend it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from atproto_oauth_asgi.errors import (
    ConfigurationError,
    SchemaOutOfDate,
    StoreError,
    StoreUnavailable,
)
from atproto_oauth_asgi.testing.conformance_base import browser, hashed, one_time, session
from atproto_oauth_asgi_migrations import upgrade
from atproto_oauth_asgi_migrations.run import on_url
from atproto_oauth_asgi_stores import SQLStore
from atproto_oauth_asgi_stores.tables import SCHEMA_HEAD
from tests.stores.places import Place

pytestmark = pytest.mark.anyio


async def open_at(url: str) -> None:
    store = SQLStore(url)
    try:
        await store.open()
    finally:
        await store.aclose()


async def test_what_is_wrong_with_a_url_is_told(place: Place) -> None:
    server = place.server
    if place.postgresql:
        server.run("DROP ROLE IF EXISTS with_password")
        server.run("CREATE ROLE with_password LOGIN PASSWORD 'right'")
    else:
        server.run("CREATE OR REPLACE USER with_password IDENTIFIED BY 'right'")
    said: dict[str, str] = {}
    for what, url in (
        ("password", place.as_user("with_password", "hunter2")),
        ("database", server.url("no_such", place.driver)),
        ("port", place.url.replace(f":{server.port}/", ":1/")),
        ("host", place.url.replace("127.0.0.1", "no-such-host.invalid")),
    ):
        with pytest.raises(StoreUnavailable) as caught:
            await open_at(url)
        said[what] = str(caught.value)

    assert "user or password; correct them" in said["password"]
    assert "no such database; create it" in said["database"]
    assert "check that it runs" in said["port"]
    assert "check that it runs" in said["host"]
    assert "hunter2" not in "".join(said.values())


async def test_missing_tables_name_the_command(place: Place) -> None:
    url = place.server.url(place.server.fresh_database(), place.driver)

    with pytest.raises(SchemaOutOfDate, match="atproto-oauth-asgi db upgrade"):
        await open_at(url)
    store = SQLStore(url)
    with pytest.raises(StoreUnavailable, match="a table is missing; run"):
        await store.put(one_time())
    await store.aclose()


@pytest.mark.parametrize(("found", "error"), [("aoa_0000", SchemaOutOfDate), ("aoa_9999", None)])
async def test_tables_of_another_age(
    place: Place,
    store: SQLStore,
    found: str,
    error: type[Exception] | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def revision(name: str) -> None:
        statement = "UPDATE atproto_oauth_alembic_version SET version_num = "
        place.server.run(f"{statement}'{name}'", place.name)

    revision(found)
    try:
        if error is None:
            await store.open()
            assert "newer" in caplog.text
        else:
            with pytest.raises(error, match="db upgrade"):
                await store.open()
    finally:
        revision(SCHEMA_HEAD)


async def test_a_database_that_may_only_be_read(place: Place, store: SQLStore) -> None:
    await store.create_session(session(), browser=browser())
    url = place.url
    if not place.postgresql:
        place.server.run("CREATE OR REPLACE USER reader IDENTIFIED BY 'right'")
        place.server.run("GRANT ALL ON *.* TO reader; REVOKE READ_ONLY ADMIN ON *.* FROM reader")
        url = place.as_user("reader", "right")
    with place.read_only():
        reading = SQLStore(url)
        with pytest.raises(StoreUnavailable, match="let the store's URL name the primary"):
            await reading.open()
        # As when it happens later on.
        assert await reading.load(hashed("cookie"))
        with pytest.raises(StoreUnavailable, match="read-only"):
            await reading.acquire_refresh("session", version=1, owner="me", lease_ms=1)
        with pytest.raises(StoreUnavailable, match="read-only"):
            await reading.touch("browser", "session")
        await reading.aclose()
    assert await store.acquire_refresh("session", version=1, owner="me", lease_ms=1)


async def test_a_user_without_rights_is_told_so(place: Place) -> None:
    if place.postgresql:
        place.server.run("DROP ROLE IF EXISTS nobody; CREATE ROLE nobody LOGIN", None)
    else:
        place.server.run(
            f"CREATE OR REPLACE USER nobody; GRANT CREATE TEMPORARY TABLES ON {place.name}.* TO"
            " nobody"
        )
    store = SQLStore(re.sub("//[a-z]+@", "//nobody@", place.url))

    with pytest.raises(StoreUnavailable, match="grant it the rights"):
        await store.put(one_time())
    await store.aclose()


async def test_no_parameter_is_in_an_error(place: Place, store: SQLStore) -> None:
    engine = create_async_engine(place.url)
    given = SQLStore(engine)
    await given.put(one_time(sealed=b"canary"))

    with pytest.raises(StoreError) as caught:
        await given.put(one_time(sealed=b"canary"))

    assert "canary" not in f"{caught.value} {caught.value.__cause__}"
    await given.aclose()
    await engine.dispose()


@pytest.mark.parametrize(
    ("url", "mend"),
    [
        ("postgresql+psycopg2://u:hunter2@h/d", "write postgresql:// or postgresql+psycopg://"),
        ("mysql+pymysql://u:hunter2@h/d", "write mysql:// or mysql+asyncmy://"),
        ("postgresql+nonsense://u:hunter2@h/d", "write postgresql://"),
        ("oracle+nonsense://u:hunter2@h/d", "correct the URL"),
    ],
)
def test_a_driver_that_cannot_be_used_is_told(url: str, mend: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(mend)) as caught:
        SQLStore(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("postgresql+asyncpg://u@127.0.0.1:1/d?foo=hunter2", ConfigurationError),
        ("postgresql+asyncpg://u@127.0.0.1:1/d?timeout=hunter2", ConfigurationError),
        ("postgresql+asyncpg://u@127.0.0.1:1/d?ssl=hunter2", StoreUnavailable),
        ("mysql://u@127.0.0.1:1/d?foo=hunter2", ConfigurationError),
        ("mysql://u@127.0.0.1:1/d?connect_timeout=hunter2", ConfigurationError),
        ("mysql://u@127.0.0.1:1/d?ssl=hunter2", ConfigurationError),
        ("postgresql://u@127.0.0.1:1/d?foo=hunter2", StoreUnavailable),
        ("postgresql://u@127.0.0.1:1/d?connect_timeout=hunter2", StoreUnavailable),
        ("postgresql://u@127.0.0.1:1/d?sslmode=hunter2", StoreUnavailable),
        ("sqlite:///{tmp}/store.db?timeout=hunter2", ConfigurationError),
    ],
)
@pytest.mark.parametrize("how", ["an app", "a migration"])
async def test_an_option_that_the_driver_cannot_use_is_told(
    url: str, error: type[Exception], how: str, tmp_path: Path
) -> None:
    url = url.replace("{tmp}", str(tmp_path))

    with pytest.raises(error, match="option in the store's URL is unknown") as caught:
        await (open_at(url) if how == "an app" else on_url(url, upgrade))

    assert "hunter2" not in str(caught.value)
