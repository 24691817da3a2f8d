from __future__ import annotations

import base64
import json
import os
import sqlite3
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from atproto_oauth_asgi import cli
from atproto_oauth_asgi.cli import FAILED, OK, USAGE, main
from atproto_oauth_asgi_stores.tables import SCHEMA_HEAD


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"sqlite:///{tmp_path}/store.db"
    monkeypatch.setenv("ATPROTO_OAUTH_STORE_URL", url)
    return url


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    return capsys


def set_revision(tmp_path: Path, revision: str) -> None:
    connection = sqlite3.connect(tmp_path / "store.db")
    connection.execute("UPDATE atproto_oauth_alembic_version SET version_num = ?", [revision])
    connection.commit()
    connection.close()


def test_tables_are_made_checked_and_named(url: str, output: pytest.CaptureFixture[str]) -> None:
    assert main(["db", "current"]) == OK
    assert output.readouterr().out == "none\n"

    assert main(["db", "upgrade"]) == OK
    assert f"now at {SCHEMA_HEAD}" in output.readouterr().out
    assert main(["db", "upgrade"]) == OK
    assert main(["db", "check"]) == OK
    output.readouterr()

    assert main(["db", "current"]) == OK
    assert output.readouterr() == (f"{SCHEMA_HEAD}\n", "")


def test_missing_tables_fail_the_check_and_name_the_command(
    url: str, output: pytest.CaptureFixture[str]
) -> None:
    assert main(["db", "check"]) == FAILED
    shown = output.readouterr()
    assert "atproto-oauth-asgi db upgrade" in shown.err
    assert shown.out == ""


def test_tables_that_are_behind_fail_the_check(
    url: str, tmp_path: Path, output: pytest.CaptureFixture[str]
) -> None:
    main(["db", "upgrade"])
    set_revision(tmp_path, "aoa_0000")

    assert main(["db", "check"]) == FAILED
    assert "behind aoa_0001" in output.readouterr().err


def test_tables_that_are_newer_pass_the_check(
    url: str, tmp_path: Path, output: pytest.CaptureFixture[str]
) -> None:
    main(["db", "upgrade"])
    set_revision(tmp_path, "aoa_0999")

    assert main(["db", "check"]) == OK
    assert "newer" in output.readouterr().out


def test_tables_that_differ_fail_the_check(
    url: str, tmp_path: Path, output: pytest.CaptureFixture[str]
) -> None:
    main(["db", "upgrade"])
    connection = sqlite3.connect(tmp_path / "store.db")
    connection.execute("DROP INDEX ix_atproto_oauth_session_did")
    connection.close()

    assert main(["db", "check"]) == FAILED
    assert "ix_atproto_oauth_session_did" in output.readouterr().err


def test_tables_are_taken_back_and_stamped(url: str, output: pytest.CaptureFixture[str]) -> None:
    main(["db", "upgrade"])
    output.readouterr()

    assert main(["db", "downgrade", "base"]) == OK
    assert output.readouterr().out == "The tables are now gone.\n"
    assert main(["db", "current"]) == OK
    assert output.readouterr().out == "none\n"

    assert main(["db", "stamp", SCHEMA_HEAD]) == OK
    assert output.readouterr().out == f"The tables are now at {SCHEMA_HEAD}.\n"
    assert main(["db", "check"]) == FAILED
    assert "atproto_oauth_session" in output.readouterr().err


def test_forgetting_the_revision_leaves_the_tables(
    url: str, output: pytest.CaptureFixture[str]
) -> None:
    main(["db", "upgrade"])
    output.readouterr()

    assert main(["db", "stamp", "base"]) == OK
    assert output.readouterr().out == "No revision is noted; the tables are as they were.\n"
    assert main(["db", "stamp", SCHEMA_HEAD]) == OK
    assert main(["db", "check"]) == OK


def test_going_back_needs_to_be_told_how_far(url: str, output: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["db", "downgrade"])
    assert caught.value.code == USAGE


@pytest.mark.parametrize("command", ["upgrade", "downgrade", "stamp"])
def test_an_unknown_revision_is_one_sentence(
    url: str, command: str, output: pytest.CaptureFixture[str]
) -> None:
    assert main(["db", command, "aoa_9999"]) == FAILED
    error = output.readouterr().err
    assert "Name a revision" in error
    assert error.count("\n") == 1


def test_sql_is_printed_for_the_database_of_the_url_without_asking_it(
    monkeypatch: pytest.MonkeyPatch, output: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATPROTO_OAUTH_STORE_URL", "postgres://u:hunter2@nowhere/d?schema=auth")

    assert main(["db", "sql"]) == OK

    shown = output.readouterr()
    assert "CREATE SCHEMA IF NOT EXISTS auth;" in shown.out
    assert "CREATE TABLE auth.atproto_oauth_session" in shown.out
    assert "hunter2" not in shown.out + shown.err


@pytest.mark.parametrize("dialect", ["postgresql", "mysql", "mariadb", "sqlite"])
def test_sql_is_printed_for_any_database_there_and_back(
    dialect: str, monkeypatch: pytest.MonkeyPatch, output: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ATPROTO_OAUTH_STORE_URL", raising=False)

    assert main(["db", "sql", "--dialect", dialect]) == OK
    assert "CREATE TABLE atproto_oauth_session" in output.readouterr().out
    back = ["--from", SCHEMA_HEAD, "--to", "base"]
    assert main(["db", "sql", "--dialect", dialect, *back]) == OK
    assert "DROP TABLE atproto_oauth_session" in output.readouterr().out


def test_sql_for_no_database_is_wrong_use(
    monkeypatch: pytest.MonkeyPatch, output: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ATPROTO_OAUTH_STORE_URL", raising=False)

    assert main(["db", "sql"]) == USAGE
    assert "--dialect" in output.readouterr().err


def test_the_url_may_be_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ATPROTO_OAUTH_STORE_URL", raising=False)
    (tmp_path / "url").write_text(f"sqlite:///{tmp_path}/store.db\n", encoding="utf-8")
    monkeypatch.setenv("ATPROTO_OAUTH_STORE_URL_FILE", str(tmp_path / "url"))

    assert main(["db", "upgrade"]) == OK
    assert (tmp_path / "store.db").exists()


def test_an_unreachable_server_is_one_sentence(output: pytest.CaptureFixture[str]) -> None:
    for url in ("postgresql://u:hunter2@127.0.0.1:1/d", "mariadb://u:hunter2@127.0.0.1:1/d"):
        assert main(["db", "check", "--url", url]) == FAILED
        error = output.readouterr().err
        assert "check that it runs" in error
        assert error.count("\n") == 1
        assert "hunter2" not in error


def test_a_url_on_the_command_line_comes_first(
    url: str, tmp_path: Path, output: pytest.CaptureFixture[str]
) -> None:
    other = f"sqlite:///{tmp_path}/other.db"

    assert main(["db", "upgrade", "--url", other]) == OK
    assert main(["db", "check", "--url", other]) == OK
    assert main(["db", "check"]) == FAILED


def test_no_url_is_wrong_use(
    monkeypatch: pytest.MonkeyPatch, output: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ATPROTO_OAUTH_STORE_URL", raising=False)

    assert main(["db", "upgrade"]) == USAGE
    assert "ATPROTO_OAUTH_STORE_URL" in output.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--url", "nonsense://user:hunter2@host/d"],
        ["--url", "hunter2"],
        ["--url", "sqlite://"],
        ["--schema", "auth"],
    ],
)
def test_what_cannot_work_is_one_sentence(
    url: str, arguments: list[str], output: pytest.CaptureFixture[str]
) -> None:
    assert main(["db", "upgrade", *arguments]) == FAILED
    error = output.readouterr().err
    assert error.count("\n") == 1
    assert "hunter2" not in error


def test_a_folder_that_is_not_there_is_one_sentence(
    tmp_path: Path, output: pytest.CaptureFixture[str]
) -> None:
    assert main(["db", "upgrade", "--url", f"sqlite:///{tmp_path}/none/a.db"]) == FAILED
    assert "make the folder" in output.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["db"], ["keys"], ["nonsense"], ["db", "drop"]])
def test_wrong_use_is_status_two(arguments: list[str], output: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == USAGE
    assert "usage:" in output.readouterr().err


@pytest.mark.parametrize(
    "words", [["sessions", "show"], ["sessions", "list", "--did"], ["db", "stamp"]]
)
def test_a_word_that_is_no_text_is_wrong_use(
    url: str, words: list[str], output: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, os.fsdecode(b"\xff")]) == USAGE
    assert output.readouterr().err == "A word of the command is not UTF-8; write it again.\n"


def test_a_reader_that_has_enough_is_no_error() -> None:
    for command in (["keys", "generate"], ["db", "sql", "--dialect", "sqlite"]):
        read, write = os.pipe()
        os.close(read)
        program = [sys.executable, "-m", "atproto_oauth_asgi.cli", *command]
        try:
            done = subprocess.run(program, stdout=write, stderr=subprocess.PIPE, check=False)
        finally:
            os.close(write)

        assert (done.returncode, done.stderr) == (FAILED, b"")


def test_a_secret_key_is_thirty_two_new_bytes(output: pytest.CaptureFixture[str]) -> None:
    keys: set[bytes] = set()
    for _ in range(2):
        assert main(["secrets", "generate"]) == OK
        text = output.readouterr().out.strip()
        keys.add(base64.urlsafe_b64decode(text + "="))

    assert [len(key) for key in keys] == [32, 32]


def test_client_keys_are_a_private_key_set(output: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "generate"]) == OK

    (key,) = json.loads(output.readouterr().out)["keys"]
    assert (key["kty"], key["crv"], key["alg"]) == ("EC", "P-256", "ES256")
    assert key["d"]
    assert key["kid"]


def test_commands_that_do_not_load_are_left_out(
    monkeypatch: pytest.MonkeyPatch, output: pytest.CaptureFixture[str]
) -> None:
    def entry_points(*, group: str) -> EntryPoints:
        return EntryPoints([EntryPoint("db", "no_such_module:add_commands", group)])

    monkeypatch.setattr(cli, "entry_points", entry_points)

    assert main(["secrets", "generate"]) == OK
    assert "no_such_module" in output.readouterr().err


def test_the_program_runs_and_says_how_it_is_used(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    url = f"sqlite:///{tmp_path}/store.db"
    program = [sys.executable, "-W", "error", "-m", "atproto_oauth_asgi.cli"]

    done = subprocess.run(
        [*program, "db", "upgrade", "--url", url],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"The tables are now at {SCHEMA_HEAD}.\n"
