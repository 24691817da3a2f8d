"""The commands of whoever runs the app: `sessions`, `purge`, and `rekey` for `db`.

They are found through the entry points `atproto_oauth_asgi.commands`. None prints a secret, and
what strangers' servers may have written is printed without control characters.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast, get_args

from atproto_oauth_asgi import housekeeping
from atproto_oauth_asgi.cli import FAILED, OK, USAGE, Subparsers, fail
from atproto_oauth_asgi.environment import VARIABLE_PREFIX, SettingsOverrides, read_environment
from atproto_oauth_asgi.plugins import open_store
from atproto_oauth_asgi.rekey import Tally, rekey
from atproto_oauth_asgi.sealing import KeyRing
from atproto_oauth_asgi.store import SessionFilter, SessionRecord, SessionStatus, Store
from atproto_oauth_asgi.vault import sealed_with

#: Rows that one page of `sessions list` may have.
MOST = 1000
#: Sweeps of one `purge`: some twenty million rows.
SWEEPS = 1000
#: Rows between two lines of progress, and rows that are named because they do not open.
PROGRESS = 10_000
NAMED = 1000

_Work = Callable[[Store, argparse.Namespace], Awaitable[int]]


def add_sessions(commands: Subparsers, /) -> None:
    """Add `sessions` to the command line."""
    sessions = commands.add_parser("sessions", help="who is signed in")
    actions = sessions.add_subparsers(metavar="command", required=True)
    action = actions.add_parser("list", help="print sessions, one a line, a page at a time")
    action.add_argument("--did", help="of this account only")
    action.add_argument("--status", choices=get_args(SessionStatus), help="of this status only")
    action.add_argument("--limit", type=_limit, default=50, help=f"1 to {MOST}; default: 50")
    action.add_argument("--after", metavar="ID", help="go on after this session")
    action.set_defaults(run=_on_store(_list))
    action = actions.add_parser("show", help="print what is known of a session, but no secret")
    action.add_argument("id", help="the session; write -- before one that begins with -")
    action.set_defaults(run=_on_store(_show))
    action = actions.add_parser(
        "revoke", help="end sessions here and at their authorization servers; needs all settings"
    )
    action.add_argument("id", nargs="+", help="the sessions; write -- before one that begins so")
    action.set_defaults(run=_revoke)


def add_purge(commands: Subparsers, /) -> None:
    """Add `purge` to the command line."""
    purge = commands.add_parser("purge", help="clear away all that has expired, in small batches")
    purge.set_defaults(run=_on_store(_purge))


def add_rekey(commands: Subparsers, /) -> None:
    """Add `rekey`, which belongs under `db`."""
    action = commands.add_parser("rekey", help="seal all sessions with the first of SECRET_KEYS")
    action.set_defaults(run=_on_store(_rekey))


def _limit(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MOST:
        raise argparse.ArgumentTypeError(f"{number} is not between 1 and {MOST}")
    return number


def _settings(*names: str) -> SettingsOverrides:
    """Read some settings; no other must be known where these commands run."""
    variables = {VARIABLE_PREFIX + name.upper() for name in names}
    variables |= {f"{variable}_FILE" for variable in variables}
    return read_environment(
        {name: value for name, value in os.environ.items() if name.upper() in variables}
    )


def _on_store(work: _Work) -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        url = _settings("store_url").get("store_url")
        if not url:
            return fail(f"Say which database: set {VARIABLE_PREFIX}STORE_URL.", USAGE)

        async def on_store() -> int:
            async with _opened(url) as store:
                return await work(store, arguments)

        return asyncio.run(on_store())

    return run


@asynccontextmanager
async def _opened(url: str) -> AsyncGenerator[Store, None]:
    store = open_store(url)
    try:
        await store.open()
        yield store
    finally:
        await store.aclose()


# --- sessions ------------------------------------------------------------------------------------


async def _list(store: Store, arguments: argparse.Namespace) -> int:
    status = cast("SessionStatus | None", arguments.status)
    limit: int = arguments.limit
    page = await store.list_sessions(
        SessionFilter(did=arguments.did, status=status), after=arguments.after, limit=limit
    )
    for record in page:
        columns = (
            record.id,
            record.did,
            record.handle or "-",
            record.ended_reason or record.status,
            f"login {_ago(record.created_ago_ms)}",
            f"seen {_ago(record.seen_ago_ms)}",
        )
        print("\t".join(_plain(column) for column in columns))
    if len(page) == limit:
        # Not on stdout, which other programs may read.
        fail(f"There may be more: --after={_plain(page[-1].id)}")
    return OK


async def _show(store: Store, arguments: argparse.Namespace) -> int:
    record = await store.load_session(arguments.id)
    if record is None:
        return fail(f"There is no session {_plain(arguments.id)}.")
    for name, value in _facts(record):
        print(f"{name + ':':<16} {_plain(value)}")
    return OK


def _facts(record: SessionRecord) -> list[tuple[str, str]]:
    facts = [
        ("id", record.id),
        ("did", record.did),
        ("handle", record.handle or "-"),
        ("status", record.status),
    ]
    if record.ended_reason is not None:
        facts.append(("ended", record.ended_reason))
    facts += [
        ("pds", record.pds),
        ("issuer", record.issuer),
        ("scope", record.scope),
        ("client", record.client_id),
        ("client key", record.client_kid or "none (public client)"),
        ("sealed with", ", ".join(sorted(sealed_with(record))) or "-"),
        ("login", _ago(record.created_ago_ms)),
        ("seen", _ago(record.seen_ago_ms)),
        ("refreshed", f"{_ago(record.refreshed_ago_ms)}, {record.version - 1} times"),
        ("access token", _left(record.access_remaining_ms)),
        ("session", _left(record.remaining_ms)),
        ("failures", str(record.failures)),
    ]
    if record.lease_remaining_ms is not None:
        facts.append(("refreshing", f"{record.attempts} announced; lease {_left_of_lease(record)}"))
    return facts


def _left_of_lease(record: SessionRecord) -> str:
    return _left(record.lease_remaining_ms or 0)


def _revoke(arguments: argparse.Namespace) -> int:
    # The other commands do without all that this brings along.
    from atproto_oauth_asgi.oauth import ATProtoOAuth
    from atproto_oauth_asgi.operator_revoke import revoke

    ids: list[str] = arguments.id

    async def all_of_them() -> int:
        status = OK
        async with ATProtoOAuth.from_env() as oauth:
            for session_id in ids:
                revoked = await revoke(oauth, session_id)
                if revoked.confirmed:
                    print(_plain(revoked.sentence))
                else:
                    status = fail(_plain(revoked.sentence))
        return status

    return asyncio.run(all_of_them())


# --- purge ---------------------------------------------------------------------------------------


async def _purge(store: Store, _arguments: argparse.Namespace) -> int:
    total = 0
    for _ in range(SWEEPS):
        done = await housekeeping.sweep(store)
        total += done
        if not done:
            print(f"{total} rows were over; nothing is left.")
            return OK
    print(f"{total} rows were over.")
    return fail("There may be more; run it again.")


# --- rekey ---------------------------------------------------------------------------------------


async def _rekey(store: Store, _arguments: argparse.Namespace) -> int:
    keys = _settings("secret_keys").get("secret_keys")
    if not keys:
        return fail(
            f"SECRET_KEYS is missing; set {VARIABLE_PREFIX}SECRET_KEYS to what the app has, the key"
            " that is to seal in front.",
            USAGE,
        )
    ring = KeyRing(keys)
    tally = await rekey(store, ring, progress=_Progress())
    print(
        f"{tally.seen} sessions; {tally.resealed} were sealed anew with the key"
        f" {ring.primary_key_id}."
    )
    for session_id, key_id in list(tally.broken.items())[:NAMED]:
        fail(f"Session {_plain(session_id)} does not open; it needs {_key(key_id, ring)}. Kept.")
    for key_id, count in tally.missing.items():
        fail(f"{count} sessions need {_key(key_id, ring)}.")
    if not tally.done:
        fail(
            "Other processes still seal with another key; give them all the same first key and run"
            " this again."
        )
    if tally.broken or not tally.done:
        return FAILED
    if len(ring.key_ids) > 1:
        print("In 30 minutes, when logins under way are over, the other keys may be taken away.")
    return OK


def _key(key_id: str | None, ring: KeyRing) -> str:
    if key_id is None:
        return "another version of this program: it is no envelope of this one's"
    if key_id in ring.key_ids:
        return f"what was sealed with the key {key_id}: it was edited, copied or damaged"
    return f"the key {key_id}, which SECRET_KEYS lacks"


class _Progress:
    def __init__(self) -> None:
        self._next = PROGRESS

    def __call__(self, tally: Tally) -> None:
        if tally.seen < self._next - PROGRESS:
            # Another walk.
            self._next = PROGRESS
        if tally.seen >= self._next:
            self._next = tally.seen + PROGRESS
            print(
                f"{tally.seen} looked at, {tally.resealed} sealed anew, {len(tally.broken)} do"
                " not open",
                file=sys.stderr,
            )


# --- Words ---------------------------------------------------------------------------------------


def _plain(text: str) -> str:
    """Return a text that cannot speak to the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _left(milliseconds: int) -> str:
    return f"ends in {_span(milliseconds)}" if milliseconds > 0 else f"over {_ago(-milliseconds)}"


def _ago(milliseconds: int) -> str:
    return f"{_span(milliseconds)} ago"


def _span(milliseconds: int) -> str:
    seconds = max(0, milliseconds) // 1000
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
