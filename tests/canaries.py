"""Secrets as canaries: what our own functions make is looked for in all that the suite produces.

A pytest plugin. Every secret that the library or the embedded network makes is recorded; logs,
events, exceptions, reprs, pages, addresses, statements, rows, and the files of databases are
looked through as they appear, and a test that let one out fails. A whole run also fails if a kind
of secret was never made or a place never looked at: it cannot pass by seeing nothing.

The workers of tests join in: what they make is noted where this process reads it, which looks for
it in the files that are left, and each looks through what it produces itself. Not joined are
programs that a test starts as a user does, `make demo` and the command line; of what they write
only the files in pytest's folder are looked at.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import cast

import pytest

from tests.rings import all_rings_required

#: Every kind of secret that is made.
KINDS = (
    "cookie",
    "state",
    "PKCE verifier",
    "DPoP key",
    "client key",
    "client assertion",
    "sealing key",
    "code",
    "access token",
    "refresh token",
)
#: Every place that is looked at.
PLACES = ("log", "event", "exception", "repr", "page", "address", "statement", "row", "file")

#: What the workers of tests make.
KINDS_OF_WORKERS = ("cookie", "state", "DPoP key", "access token", "refresh token", "sealing key")

_GRAM = 20
_RUN = re.compile(r"[A-Za-z0-9_-]{20,}")
#: Longer runs are blobs and floods of tests; their beginning is looked at.
_LONGEST = 20_000
_RAW = 16


class Canaries:
    """Knows secrets, and finds them."""

    def __init__(self, notes: Path | None = None) -> None:
        self._notes = notes
        self._heard: Counter[Path] = Counter()
        self.made: Counter[str] = Counter()
        #: What the workers of tests made.
        self.made_by_workers: Counter[str] = Counter()
        self.looked: Counter[str] = Counter()
        #: Look at every repr, and not at one in so many.
        self.thorough = False
        #: What was found, and in which place: kind, place and some of the text round it.
        self.leaks: list[tuple[str, str, str]] = []
        self._texts: dict[str, str] = {}
        self._bytes: dict[bytes, str] = {}

    def add(self, kind: str, value: str) -> None:
        """Record a secret; of a JWS only the signature, which is what cannot be guessed."""
        assert kind in KINDS, kind
        secret = value.rpartition(".")[2]
        assert len(secret) >= _GRAM, f"a {kind} too short to be told from other text"
        self.made[kind] += 1
        self._texts[secret[:_GRAM]] = kind
        self._note("made", kind, secret[:_GRAM])

    def add_key(self, kind: str, raw: bytes) -> None:
        """Record the bytes of a key, in every spelling."""
        if len(set(raw)) < _RAW // 2:
            return  # a test's own, such as 32 times the same letter
        number = int.from_bytes(raw, "big")
        spellings = (
            base64.urlsafe_b64encode(raw).decode().rstrip("="),
            raw.hex(),
            str(number),
        )
        for spelling in spellings:
            self.add(kind, spelling)
        self._bytes[raw[:_RAW]] = kind

    def look(self, place: str, text: str) -> None:
        """Look for secrets in a text."""
        assert place in PLACES, place
        self.looked[place] += 1
        for match in _RUN.finditer(text):
            run = match[0][:_LONGEST]
            for start in range(len(run) - _GRAM + 1):
                kind = self._texts.get(run[start : start + _GRAM])
                if kind is not None:
                    begin = match.start() + start
                    around = text[max(0, begin - 60) : begin + 4]
                    self._leak(kind, place, around)
                    return

    def look_at_bytes(self, place: str, data: bytes) -> None:
        """Look for secrets in bytes, spelt out or raw."""
        self.look(place, data.decode("latin-1"))
        if len(data) <= _LONGEST:
            for start in range(len(data) - _RAW + 1):
                kind = self._bytes.get(data[start : start + _RAW])
                if kind is not None:
                    self._leak(kind, place, f"raw, at byte {start}")
                    return

    def look_at(self, place: str, value: object) -> None:
        """Look at whatever a value is made of."""
        for part in _parts(value):
            if isinstance(part, bytes):
                self.look_at_bytes(place, part)
            else:
                self.look(place, part)

    def look_at_file(self, path: Path) -> None:
        """Look at all bytes of a file."""
        self.look("file", path.read_bytes().decode("latin-1"))

    def _leak(self, kind: str, place: str, around: str) -> None:
        self.leaks.append((kind, place, around))
        self._note("leak", kind, place, around)

    def _note(self, *words: str) -> None:
        """Write down what another process is to know, at once: this one may be killed."""
        if self._notes is not None:
            with (self._notes / f"{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(words) + "\n")

    def hear(self, notes: Path) -> None:
        """Take over what other processes noted since the last time."""
        for path in notes.glob("*.jsonl"):
            lines = path.read_text(encoding="utf-8").splitlines()
            for line in lines[self._heard[path] :]:
                # The last line of a process that was killed may be torn.
                with suppress(ValueError):
                    what, kind, *rest = cast("list[str]", json.loads(line))
                    if what == "made":
                        self.made_by_workers[kind] += 1
                        self._texts[rest[0]] = kind
                    else:
                        self.leaks.append((kind, *cast("tuple[str, str]", tuple(rest))))
            self._heard[path] = len(lines)

    def look_at_exception(self, error: BaseException) -> None:
        """Look at what a traceback of an exception says."""
        self.look("exception", "".join(traceback.format_exception(error)))


def _parts(value: object) -> Iterator[str | bytes]:
    if isinstance(value, str | bytes):
        yield value
    elif isinstance(value, memoryview | bytearray):
        yield bytes(cast("bytes", value))
    elif is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            part: object = getattr(value, one.name)
            yield from _parts(part)
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[object, object]", value).items():
            yield from _parts(key)
            yield from _parts(item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in cast("tuple[object, ...]", value):
            yield from _parts(item)


_current = Canaries()


def current() -> Canaries:
    """Return where secrets are recorded and looked for now."""
    return _current


@contextmanager
def own_canaries() -> Generator[Canaries]:
    """Record and look elsewhere for a while, where secrets are let out on purpose."""
    global _current  # noqa: PLW0603  # what a pytest plugin is
    before, _current = _current, Canaries()
    _current.thorough = True
    try:
        yield _current
    finally:
        _current = before


class _Ear(logging.Handler):
    """Hears all that is logged."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name in {"asyncio", "httpcore", "h11"} and record.levelno < logging.WARNING:
            return
        message = record.getMessage()
        if record.name == "httpx" and "/callback?" in message:
            return  # the browser of a test, which has opened its callback
        _current.look("log", message)
        _current.look("log", repr({k: v for k, v in vars(record).items() if k not in _STANDARD}))
        if record.exc_info is not None and record.exc_info[1] is not None:
            _current.look_at_exception(record.exc_info[1])


_STANDARD = frozenset(vars(logging.makeLogRecord({})))


def hear_workers() -> None:
    """Know the secrets of workers, before files are looked at."""
    if notes := os.environ.get(_NOTES):
        _current.hear(Path(notes))


def join() -> None:
    """Let a worker's secrets be canaries, too, where the tests that started it run under pytest."""
    global _current  # noqa: PLW0603  # what a worker has instead of the plugin
    if notes := os.environ.get(_NOTES):
        _current = Canaries(Path(notes))
        _listen()


def _listen() -> None:
    from tests import canary_cages

    logging.getLogger().addHandler(_Ear(logging.DEBUG))
    canary_cages.install()


def pytest_configure(config: pytest.Config) -> None:
    _listen()
    config.stash[_FOLDER] = folder = Path(tempfile.mkdtemp(prefix="canaries-"))
    os.environ[_NOTES] = str(folder)
    config.stash[_WHOLE] = not (
        config.getoption("keyword")
        or config.getoption("markexpr")
        or config.getoption("collectonly")
        or config.getoption("deselect")
        or list(config.args) != list(config.getini("testpaths"))
    )


def pytest_unconfigure(config: pytest.Config) -> None:
    os.environ.pop(_NOTES, None)
    shutil.rmtree(config.stash[_FOLDER], ignore_errors=True)


#: Environment variable that names the folder of notes.
_NOTES = "CANARIES"
_FOLDER = pytest.StashKey[Path]()
_WHOLE = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    result = yield
    if _current.leaks:
        found = describe(_current.leaks)
        _current.leaks.clear()
        pytest.fail(f"{item.nodeid}: secrets came out\n{found}", pytrace=False)
    return result


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    stash = session.config.stash
    factory = cast("pytest.TempPathFactory", getattr(session.config, "_tmp_path_factory"))  # noqa: B009  # has no public name
    base = factory.getbasetemp()
    hear_workers()
    for path in base.rglob("*"):
        # Key files hold keys; what is looked at is databases and logs.
        if path.suffix in _FILES and path.is_file() and not path.is_symlink():
            _current.look_at_file(path)
    problems = [describe(_current.leaks)] if _current.leaks else []
    if stash.get(_WHOLE, False) and session.exitstatus == pytest.ExitCode.OK:
        problems += unseen(_current)
        if all_rings_required():
            made = _current.made_by_workers
            problems += [f"no worker made a {kind}" for kind in KINDS_OF_WORKERS if not made[kind]]
    if problems:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        stash[_PROBLEMS] = problems


_FILES = frozenset({".db", ".db-wal", ".db-journal", ".sqlite", ".sqlite3", ".log"})
_PROBLEMS = pytest.StashKey[list[str]]()


def describe(leaks: list[tuple[str, str, str]]) -> str:
    """Say what came out where; the beginning of a secret is no secret."""
    return "\n".join(f"  {kind} in a {place}: …{text!r}" for kind, place, text in leaks[:5])


def unseen(canaries: Canaries) -> list[str]:
    """Return the kinds that were never made, and the places that were never looked at."""
    return [
        *(f"no {kind} was made" for kind in KINDS if not canaries.made[kind]),
        *(f"no {place} was looked at" for place in PLACES if not canaries.looked[place]),
    ]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in terminalreporter.config.stash.get(_PROBLEMS, list[str]()):
        terminalreporter.write_line(f"canaries: {line}", red=True)
    made = ", ".join(f"{_current.made[kind]} {kind}" for kind in KINDS)
    looked = ", ".join(f"{_current.looked[place]} {place}" for place in PLACES)
    if terminalreporter.config.stash.get(_WHOLE, False):
        workers = _current.made_by_workers.total()
        terminalreporter.write_line(
            f"canaries: made {made}; looked at {looked}; workers made {workers}"
        )
