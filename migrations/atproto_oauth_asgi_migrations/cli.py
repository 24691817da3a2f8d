"""The `db` part of the command line."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable

import sqlalchemy as sa

from atproto_oauth_asgi.cli import FAILED, OK, USAGE, Subparsers, fail
from atproto_oauth_asgi.errors import SchemaOutOfDate
from atproto_oauth_asgi_migrations.run import check, current, on_url, upgrade
from atproto_oauth_asgi_stores.database import judge_revision
from atproto_oauth_asgi_stores.tables import SCHEMA_HEAD

_URL = "ATPROTO_OAUTH_STORE_URL"
_Work = Callable[[sa.Connection, str | None], int]


def add_commands(commands: Subparsers, /) -> None:
    """Add `db` to the command line."""
    db = commands.add_parser("db", help="the store's tables")
    actions = db.add_subparsers(metavar="command", required=True)
    for name, work, text in (
        ("upgrade", _upgrade, "make the tables, or bring them up to date"),
        ("current", _current, "print the revision that the tables are at"),
        ("check", _check, "exit with 1 if the tables are not what this version needs"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("--url", help=f"the store's URL (default: ${_URL})")
        action.add_argument("--schema", help="the database schema that holds the tables")
        action.set_defaults(run=_runner(work))


def _runner(work: _Work) -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        url: str | None = arguments.url or os.environ.get(_URL)
        schema: str | None = arguments.schema
        if not url:
            return fail(f"Say which database: set {_URL}, or pass --url.", USAGE)
        return asyncio.run(on_url(url, lambda connection: work(connection, schema), schema=schema))

    return run


def _upgrade(connection: sa.Connection, schema: str | None) -> int:
    before = current(connection, schema=schema)
    upgrade(connection, schema=schema)
    after = current(connection, schema=schema)
    print(f"The tables are at {after}." if before == after else f"The tables are now at {after}.")
    return OK


def _current(connection: sa.Connection, schema: str | None) -> int:
    print(current(connection, schema=schema) or "none")
    return OK


def _check(connection: sa.Connection, schema: str | None) -> int:
    found = current(connection, schema=schema)
    try:
        judge_revision([found] if found else [])
    except SchemaOutOfDate as exc:
        return fail(str(exc))
    if found != SCHEMA_HEAD:
        print(f"The tables are at {found}, newer than {SCHEMA_HEAD}, which this version knows.")
        return OK
    differences = check(connection, schema=schema)
    for difference in differences:
        fail(f"The database differs from revision {found}: {difference}")
    if differences:
        return FAILED
    print(f"The tables are at {found}, as this version needs them.")
    return OK
