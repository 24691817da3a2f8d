"""Apps whose own Alembic runs our revisions, or keeps our tables by revisions of its own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from atproto_oauth_asgi.cli import FAILED, OK, main
from atproto_oauth_asgi.errors import ConfigurationError, SchemaOutOfDate
from atproto_oauth_asgi_migrations import current, differences, upgrade
from atproto_oauth_asgi_migrations.run import on_url
from atproto_oauth_asgi_stores import SQLStore
from atproto_oauth_asgi_stores.tables import SCHEMA_HEAD
from tests.databases import Server

ENV = """
import sqlalchemy as sa
from alembic import context
from atproto_oauth_asgi_migrations import include_name
from atproto_oauth_asgi_stores import metadata_for

mine = sa.MetaData()
sa.Table("users", mine, sa.Column("id", sa.Integer, primary_key=True))
way = context.config.attributes.get("way")
schema = context.config.get_main_option("atproto_oauth_schema")
more = {
    "careless": {"target_metadata": mine},
    "hidden": {"target_metadata": mine, "include_name": include_name},
    "theirs": {"target_metadata": [mine, metadata_for(schema)]},
}[way]
engine = sa.create_engine(context.config.get_main_option("sqlalchemy.url"))
with engine.connect() as connection:
    context.configure(connection=connection, include_schemas=schema is not None, **more)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
"""
MAKO = (
    '"""${message}"""\nimport sqlalchemy as sa\nfrom alembic import op\n'
    "import atproto_oauth_asgi_stores.types\n${imports or ''}\n"
    "revision = ${repr(up_revision)}\ndown_revision = ${repr(down_revision)}\n"
    "branch_labels = ${repr(branch_labels)}\ndepends_on = ${repr(depends_on)}\n"
    "def upgrade():\n    ${upgrades or 'pass'}\ndef downgrade():\n    ${downgrades or 'pass'}\n"
)


@dataclass(frozen=True)
class App:
    folder: Path
    #: The same database, for SQLAlchemy without asyncio and for a store.
    sync_url: str
    url: str
    schema: str | None

    def config(self, way: str) -> Config:
        config = Config()
        config.set_main_option("script_location", str(self.folder))
        config.set_main_option("sqlalchemy.url", self.sync_url)
        config.set_main_option("path_separator", "newline")
        ours = "" if way == "theirs" else "\natproto_oauth_asgi_migrations:versions"
        config.set_main_option("version_locations", f"{self.folder / 'versions'}{ours}")
        if self.schema is not None:
            config.set_main_option("atproto_oauth_schema", self.schema)
        config.attributes["way"] = way
        return config

    def revise(self, way: str, *, head: str = "head") -> str:
        """Let Alembic write a revision and return its text."""
        made = command.revision(
            self.config(way),
            message="app",
            autogenerate=True,
            version_path=str(self.versions),
            head=head,
        )
        assert made is not None
        assert not isinstance(made, list)
        return Path(made.path).read_text(encoding="utf-8")

    @property
    def versions(self) -> Path:
        return self.folder / "versions"

    def store(self, *, check_schema: bool = True) -> SQLStore:
        return SQLStore(self.url, schema=self.schema, check_schema=check_schema)


@pytest.fixture(params=["sqlite", "postgresql", "postgresql in a schema"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> App:
    folder = tmp_path / "alembic"
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text(ENV, encoding="utf-8")
    (folder / "script.py.mako").write_text(MAKO, encoding="utf-8")
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/app.db"
        return App(folder, url, url, None)
    server: Server = request.getfixturevalue("postgresql")
    name = server.fresh_database()
    schema = "auth" if "schema" in request.param else None
    if schema:
        server.run("CREATE SCHEMA auth", name)
    return App(folder, server.url(name, "psycopg"), server.url(name), schema)


async def opened(store: SQLStore) -> None:
    try:
        await store.open()
        await store.load_session("none")
    finally:
        await store.aclose()


def test_our_revisions_run_with_the_apps(app: App) -> None:
    config = app.config("hidden")
    command.upgrade(config, "heads")
    script = ScriptDirectory.from_config(config)
    assert script.get_revision("atproto_oauth_asgi@head").revision == SCHEMA_HEAD
    app.revise("hidden", head="base")
    command.upgrade(config, "heads")

    asyncio.run(opened(app.store()))
    found = asyncio.run(on_url(app.url, lambda c: current(c, schema=app.schema)))
    assert found == SCHEMA_HEAD
    assert asyncio.run(on_url(app.url, lambda c: differences(c, schema=app.schema))) == []


def test_the_command_line_knows_whose_tables_these_are(
    app: App, capsys: pytest.CaptureFixture[str]
) -> None:
    command.upgrade(app.config("hidden"), "heads")
    place = ["--url", app.url, *(["--schema", app.schema] if app.schema else [])]

    assert main(["db", "check", *place]) == OK
    assert main(["db", "upgrade", *place]) == FAILED
    assert "alembic upgrade heads" in capsys.readouterr().err
    with pytest.raises(ConfigurationError, match="your app's own Alembic"):
        asyncio.run(on_url(app.url, lambda c: upgrade(c, schema=app.schema)))


def test_our_tables_are_not_there_before_the_app_upgrades(app: App) -> None:
    (app.versions / "x.py").write_text(
        "revision = 'app'\ndown_revision = None\ndef upgrade():\n    pass\n", encoding="utf-8"
    )
    command.upgrade(app.config("theirs"), "heads")

    with pytest.raises(SchemaOutOfDate):
        asyncio.run(opened(app.store()))


def test_autogenerate_never_drops_our_tables(app: App) -> None:
    command.upgrade(app.config("hidden"), "heads")

    revision = app.revise("hidden", head="base")

    assert "create_table('users'" in revision
    assert "atproto_oauth" not in revision.replace("atproto_oauth_asgi_stores", "")


def test_autogenerate_would_drop_them_otherwise(app: App) -> None:
    command.upgrade(app.config("hidden"), "heads")

    assert "drop_table('atproto_oauth_session'" in app.revise("careless", head="base")


def test_an_app_may_keep_our_tables_by_revisions_of_its_own(app: App) -> None:
    revision = app.revise("theirs")
    assert "create_table('atproto_oauth_session'" in revision
    command.upgrade(app.config("theirs"), "heads")

    asyncio.run(opened(app.store(check_schema=False)))
    assert asyncio.run(on_url(app.url, lambda c: differences(c, schema=app.schema))) == []
    with pytest.raises(SchemaOutOfDate):
        asyncio.run(opened(app.store()))
    command.check(app.config("theirs"))


def test_the_apps_version_row_may_be_behind(app: App) -> None:
    command.upgrade(app.config("hidden"), "heads")
    engine = sa.create_engine(app.sync_url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'aoa_0000'"))
    engine.dispose()

    with pytest.raises(SchemaOutOfDate, match="at aoa_0000, behind"):
        asyncio.run(opened(app.store()))
