"""`python -m examples.demo`, as `make demo` starts it."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path

import httpx
import pytest

from tests.examples.process import demo, greeting
from tests.smoke.dev import submit


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_accounts_that_can_sign_in_and_stops_clean(
    end: signal.Signals, tmp_path: Path
) -> None:
    with demo(tmp_path, PORT="0") as process:
        said = greeting(process)
        url = re.findall(r"http://127\.0\.0\.1:\d+", said)[0]
        accounts = re.findall(r"(\S+\.test) +password (\S+)", said)
        with httpx.Client(follow_redirects=True, trust_env=False) as browser:
            for handle, password in accounts:
                asked = submit(browser, browser.get(f"{url}/oauth/login"), identifier=handle)
                consent = submit(browser, asked, username=handle, password=password)
                home = submit(browser, consent, decision="allow")
                me = browser.get(f"{url}/api/me").json()
                assert str(home.url).rstrip("/") == url
                assert me["handle"] == handle
        process.send_signal(end)
        _, errors = process.communicate(timeout=20)

    assert [handle for handle, _ in accounts] == ["alice.test", "bob.test"]
    assert process.returncode == 0
    assert errors == ""
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with demo(tmp_path, PORT=port) as process:
            said, errors = process.communicate(timeout=20)

    assert process.returncode == 1
    assert said == ""
    assert re.fullmatch(rf"Port {port} cannot be used \(.*\); .*make demo\n", errors)


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("PORT", "http", "PORT is 'http', which is no port; choose a number such as 8001."),
        ("PORT", "65536", "PORT is '65536', which is no port; choose a number such as 8001."),
        ("NETWORK", "x", "NETWORK is 'x'; choose one of embedded, reference, live."),
    ],
)
def test_a_wrong_setting_is_one_sentence(
    variable: str, value: str, sentence: str, tmp_path: Path
) -> None:
    with demo(tmp_path, **{"PORT": "0", variable: value}) as process:
        said, errors = process.communicate(timeout=20)

    assert (said, errors) == ("", sentence + "\n")


def test_the_live_network_is_reached_under_the_usual_guard(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/live.db"
    with demo(tmp_path, PORT="0", NETWORK="live", ATPROTO_OAUTH_STORE_URL=store) as process:
        said = greeting(process)
        url = re.findall(r"http://127\.0\.0\.1:\d+", said)[0]
        answer = httpx.post(
            f"{url}/oauth/login",
            data={"identifier": "http://127.0.0.1:1"},
            headers={"origin": url},
            trust_env=False,
        )
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)

    assert "real" in said
    assert ".test" not in said
    assert answer.status_code == 400
    assert (tmp_path / "live.db").exists()
