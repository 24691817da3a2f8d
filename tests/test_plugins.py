from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from atproto_oauth_asgi import plugins
from atproto_oauth_asgi.errors import ConfigurationError
from atproto_oauth_asgi.plugins import migrate_empty, open_store, register_store, scheme_of
from atproto_oauth_asgi.sealing import generate_secret_key
from atproto_oauth_asgi_stores import MemoryStore, SQLStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_registered", {})


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """Return the list of entry points that there are; tests add to it."""
    entries: list[EntryPoint] = []

    def entry_points(*, group: str, name: str | None = None) -> EntryPoints:
        return EntryPoints(
            entry for entry in entries if entry.group == group and name in {None, entry.name}
        )

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    return entries


def test_stores_in_this_repository_come_through_the_same_door(tmp_path: Path) -> None:
    assert isinstance(open_store("memory://"), MemoryStore)
    assert isinstance(open_store(f"sqlite:///{tmp_path}/a.db"), SQLStore)
    assert isinstance(open_store(f"sqlite+aiosqlite:///{tmp_path}/a.db"), SQLStore)


def test_a_registered_store_comes_first(registry: None) -> None:
    urls: list[str] = []

    def factory(url: str) -> MemoryStore:
        urls.append(url)
        return MemoryStore()

    register_store("Mine", factory)
    register_store("sqlite", factory)
    open_store("mine+driver://host")
    open_store("sqlite:///file.db")

    assert urls == ["mine+driver://host", "sqlite:///file.db"]


def test_an_unknown_scheme_names_the_known_ones(registry: None) -> None:
    register_store("mine", lambda _url: MemoryStore())

    with pytest.raises(ConfigurationError, match="mariadb, memory, mine, mysql") as caught:
        open_store("elsewhere://user:hunter2@host")

    assert "elsewhere" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("scheme", "extra"),
    [
        ("postgresql", "postgres"),
        ("postgres", "postgres"),
        ("mysql", "mysql"),
        ("mariadb", "mysql"),
    ],
)
def test_a_known_scheme_names_what_to_install(
    registry: None, installed: list[EntryPoint], scheme: str, extra: str
) -> None:
    installed.append(EntryPoint("mine", "mine:open", plugins.STORES))

    with pytest.raises(ConfigurationError) as caught:
        open_store(f"{scheme}://user:hunter2@host/database")

    assert f"pip install 'atproto-oauth-asgi[{extra}]'" in str(caught.value)
    assert "there are stores for mine." in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "missing", "extra"),
    [
        ("postgres://u:hunter2@h/d", "psycopg", "postgres"),
        ("postgresql+asyncpg://u:hunter2@h/d", "asyncpg", "asyncpg"),
        ("mysql://u:hunter2@h/d", "asyncmy", "mysql"),
        ("mariadb://u:hunter2@h/d", "asyncmy", "mysql"),
    ],
)
def test_a_missing_driver_names_what_to_install(
    monkeypatch: pytest.MonkeyPatch, url: str, missing: str, extra: str
) -> None:
    # None is how Python remembers that a module cannot be imported.
    monkeypatch.setitem(sys.modules, missing, None)

    with pytest.raises(ConfigurationError) as caught:
        open_store(url)

    assert f"pip install 'atproto-oauth-asgi[{extra}]'" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_what_is_no_url_is_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_store("hunter2")
    assert "hunter2" not in str(caught.value)


def test_a_plugin_that_does_not_load_is_named(registry: None, installed: list[EntryPoint]) -> None:
    installed.append(EntryPoint("gone", "no_such_module:open", plugins.STORES))

    with pytest.raises(ConfigurationError, match="no_such_module:open"):
        open_store("gone://")


def test_two_plugins_for_one_scheme_are_a_question(
    registry: None, installed: list[EntryPoint]
) -> None:
    installed += [
        EntryPoint("memory", "atproto_oauth_asgi_stores.memory:open_memory", plugins.STORES),
        EntryPoint("memory", "another:open", plugins.STORES),
    ]

    with pytest.raises(ConfigurationError, match="another:open"):
        open_store("memory://")


def test_a_plugin_that_is_seen_twice_is_one(registry: None, installed: list[EntryPoint]) -> None:
    entry = EntryPoint("memory", "atproto_oauth_asgi_stores.memory:open_memory", plugins.STORES)
    installed += [entry, entry]

    assert isinstance(open_store("memory://"), MemoryStore)


async def test_an_empty_database_is_migrated_where_that_is_known(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"

    assert await migrate_empty(url)
    assert not await migrate_empty(url)
    assert not await migrate_empty("memory://")
    store = open_store(url)
    await store.open()
    await store.aclose()


APP = """
import asyncio
from atproto_oauth_asgi import ATProtoOAuth
from atproto_oauth_asgi.errors import ConfigurationError
from atproto_oauth_asgi.plugins import open_store
from atproto_oauth_asgi.testing.conformance_base import hashed, one_time

async def main():
    async with ATProtoOAuth.from_env() as oauth:
        store = oauth.core.store
        assert store is open_store("shelf://a")
        await store.put(one_time())
        assert (await store.consume(hashed("state"), kind="login")).first
    for url in ("shelf://", "nothing://"):
        try:
            open_store(url)
        except ConfigurationError as exc:
            print(exc)

asyncio.run(main())
"""


@pytest.mark.slow
def test_somebody_elses_distribution_is_found_by_its_entry_point_alone(tmp_path: Path) -> None:
    distribution = Path(__file__).with_name("plugin_distribution")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    alone = ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(tmp_path)]
    subprocess.run([*pip, *alone, str(distribution)], check=True, capture_output=True)

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", APP],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={
            **{name: value for name, value in os.environ.items() if "ATPROTO" not in name},
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)]),
            "ATPROTO_OAUTH_BASE_URL": "https://app.birdsong.dev",
            "ATPROTO_OAUTH_CLIENT_NAME": "App",
            "ATPROTO_OAUTH_STORE_URL": "shelf://a",
            "ATPROTO_OAUTH_SECRET_KEYS": generate_secret_key(),
        },
    )

    assert (done.returncode, done.stderr) == (0, "")
    refused, unknown = done.stdout.splitlines()
    assert refused == "Name a shelf: shelf://name."
    assert "postgresql, shelf, sqlite" in unknown


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        ("memory://", "memory"),
        ("sqlite:///a.db", "sqlite"),
        ("postgresql+psycopg://u:p@h/d", "postgresql"),
        ("SQLite:///a.db", "sqlite"),
    ],
)
def test_the_scheme_ends_at_plus_or_colon(url: str, scheme: str) -> None:
    assert scheme_of(url) == scheme
