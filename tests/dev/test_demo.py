"""`atproto-oauth-asgi dev` without an app: the demo, for people who have no clone."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.dev.process import dev
from tests.smoke.dev import sign_in

# Processes take their time on a busy machine.
pytestmark = pytest.mark.timeout(600)


def test_it_is_the_demo_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with (
        dev(tmp_path, "--port", "0") as here,
        httpx.Client(follow_redirects=True, trust_env=False, timeout=20) as browser,
    ):
        sign_in(browser, here.url, *here.accounts[0])
        me = browser.get(f"{here.url}/api/me")
        posted = browser.post(f"{here.url}/api/post", json={"text": "Hello"})
        errors = here.stop(signal.SIGINT)

    assert me.json()["handle"] == "alice.test"
    assert posted.status_code == 200
    assert here.process.returncode == 0
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_other_commands_do_not_load_the_network() -> None:
    program = (
        "import sys; from atproto_oauth_asgi.cli import main\n"
        "main(['secrets', 'generate'])\n"
        "print([name for name in sys.modules if 'atproto_oauth_asgi.testing' in name])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines()[-1] == "[]"
