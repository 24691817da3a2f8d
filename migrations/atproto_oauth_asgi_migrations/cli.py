"""The `db` part of the command line."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Callable

import sqlalchemy as sa

from atproto_oauth_asgi.cli import FAILED, OK, USAGE, Subparsers, fail
from atproto_oauth_asgi.environment import VARIABLE_PREFIX, read_environment
from atproto_oauth_asgi.errors import SchemaOutOfDate
from atproto_oauth_asgi.operator_cli import add_rekey
from atproto_oauth_asgi_migrations.run import (
    DIALECTS,
    current,
    differences,
    downgrade,
    on_url,
    sql,
    stamp,
    upgrade,
)
from atproto_oauth_asgi_stores.revisions import judge_revision
from atproto_oauth_asgi_stores.tables import SCHEMA_HEAD
from atproto_oauth_asgi_stores.urls import parse_url, schema_of

_URL = f"{VARIABLE_PREFIX}STORE_URL"
_Work = Callable[[sa.Connection, str | None, argparse.Namespace], int]


def add_commands(commands: Subparsers, /) -> None:
    """Add `db` to the command line."""
    db = commands.add_parser("db", help="the store's tables")
    actions = db.add_subparsers(metavar="command", required=True)
    for name, work, text in (
        ("upgrade", _upgrade, "make the tables, or bring them up to date"),
        ("downgrade", _downgrade, "take the tables back to a revision; `base` drops them"),
        ("current", _current, "print the revision that the tables are at"),
        ("check", _check, "exit with 1 if the tables are not what this version needs"),
        ("stamp", _stamp, "write down that the tables are at a revision, and change nothing else"),
    ):
        action = actions.add_parser(name, help=text)
        if name in {"upgrade", "stamp"}:
            action.add_argument("revision", nargs="?", default="head", help="default: head")
        if name == "downgrade":
            action.add_argument("revision", help="such as aoa_0001, or base")
        _add_place(action)
        action.set_defaults(run=_runner(work))
    add_rekey(actions)
    action = actions.add_parser("sql", help="print the SQL of an upgrade, for others to run")
    action.add_argument("--dialect", choices=DIALECTS, help="default: that of the store's URL")
    action.add_argument("--from", dest="start", help="the revision that the tables are at")
    action.add_argument("--to", default="head", help="default: head")
    _add_place(action)
    action.set_defaults(run=_sql)


def _add_place(action: argparse.ArgumentParser) -> None:
    action.add_argument("--url", help=f"the store's URL (default: ${_URL}, or in ${_URL}_FILE)")
    action.add_argument("--schema", help="the database schema that holds the tables")


def _url(arguments: argparse.Namespace) -> str | None:
    given: str | None = arguments.url
    # Nothing else is read: these commands run where the app's other settings are not known.
    mine = {name: os.environ[name] for name in (_URL, f"{_URL}_FILE") if name in os.environ}
    return given or read_environment(mine, names={"store_url"}).get("store_url")


def _runner(work: _Work) -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        url = _url(arguments)
        if not url:
            return fail(f"Say which database: set {_URL}, or pass --url.", USAGE)
        schema: str | None = arguments.schema or schema_of(url)
        # MySQL warns that a primary key's name is always its own, and the driver repeats it.
        logging.getLogger("asyncmy").setLevel(logging.ERROR)
        return asyncio.run(
            on_url(url, lambda connection: work(connection, schema, arguments), schema=schema)
        )

    return run


def _upgrade(connection: sa.Connection, schema: str | None, arguments: argparse.Namespace) -> int:
    before = current(connection, schema=schema)
    upgrade(connection, schema=schema, revision=arguments.revision)
    return _moved(connection, schema, before)


def _downgrade(connection: sa.Connection, schema: str | None, arguments: argparse.Namespace) -> int:
    before = current(connection, schema=schema)
    downgrade(connection, arguments.revision, schema=schema)
    return _moved(connection, schema, before)


def _stamp(connection: sa.Connection, schema: str | None, arguments: argparse.Namespace) -> int:
    before = current(connection, schema=schema)
    stamp(connection, schema=schema, revision=arguments.revision)
    if current(connection, schema=schema) is None:
        print("No revision is noted; the tables are as they were.")
        return OK
    return _moved(connection, schema, before)


def _moved(connection: sa.Connection, schema: str | None, before: str | None) -> int:
    after = current(connection, schema=schema)
    where = "gone" if after is None else f"at {after}"
    print(f"The tables are {where}." if before == after else f"The tables are now {where}.")
    return OK


def _current(connection: sa.Connection, schema: str | None, _arguments: argparse.Namespace) -> int:
    print(current(connection, schema=schema) or "none")
    return OK


def _check(connection: sa.Connection, schema: str | None, _arguments: argparse.Namespace) -> int:
    found = current(connection, schema=schema)
    revisions = found.split(", ") if found else []
    try:
        judge_revision(revisions)
    except SchemaOutOfDate as exc:
        return fail(str(exc))
    if SCHEMA_HEAD not in revisions:
        which = "older" if max(revisions) < SCHEMA_HEAD else "newer"
        print(f"The tables are at {found}, {which} than {SCHEMA_HEAD}; this version works with it.")
        return OK
    different = differences(connection, schema=schema)
    for one in different:
        fail(f"The database differs from revision {found}: {one}")
    if different:
        return FAILED
    print(f"The tables are at {found}, as this version needs them.")
    return OK


def _sql(arguments: argparse.Namespace) -> int:
    url = _url(arguments)
    dialect: str | None = arguments.dialect
    schema: str | None = arguments.schema
    if url:
        dialect = dialect or parse_url(url).get_backend_name()
        schema = schema or schema_of(url)
    if dialect is None:
        return fail(f"Say for which database: pass --dialect, or set {_URL}.", USAGE)
    sql(dialect, sys.stdout, schema=schema, start=arguments.start, revision=arguments.to)
    return OK
