from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from atproto_oauth_asgi import plugins
from atproto_oauth_asgi.errors import ConfigurationError
from atproto_oauth_asgi.plugins import migrate_empty, open_store, register_store, scheme_of
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
