"""Run the installed `atproto-oauth-asgi dev`, and sign in to the demo by script."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from html import unescape
from pathlib import Path

import httpx


def submit(browser: httpx.Client, page: httpx.Response, **fields: str) -> httpx.Response:
    """Send the first form of a page as a browser would."""
    action = unescape(re.findall(r'<form method="post" action="([^"]*)"', page.text)[0])
    hidden = re.findall(r'type="hidden" name="([^"]*)" value="([^"]*)"', page.text)
    form = {name: unescape(value) for name, value in hidden}
    origin = f"{page.url.scheme}://{page.url.netloc.decode()}"
    return browser.post(page.url.join(action), data={**form, **fields}, headers={"origin": origin})


def sign_in(browser: httpx.Client, url: str, handle: str, password: str) -> httpx.Response:
    """Go through the pages of the app and of the network; return the app's page after that."""
    asked = submit(browser, browser.get(f"{url}/oauth/login"), identifier=handle)
    consent = submit(browser, asked, username=handle, password=password)
    return submit(browser, consent, decision="allow")


def main() -> None:
    script = Path(sys.executable).with_name("atproto-oauth-asgi")
    clean = {name: text for name, text in os.environ.items() if "ATPROTO" not in name}
    with subprocess.Popen(
        [str(script), "dev", "--port", "0"],
        env={**clean, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            said = ""
            for line in process.stdout:
                said += line
                if "Ctrl-C" in line:
                    break
            (url,) = re.findall(r"http://127\.0\.0\.1:\d+", said)
            handle, password = re.findall(r"(\S+\.test) +password (\S+)", said)[0]
            with httpx.Client(follow_redirects=True, trust_env=False, timeout=30) as browser:
                sign_in(browser, url, handle, password)
                me = browser.get(f"{url}/api/me")
            assert (me.status_code, me.json()["handle"]) == (200, handle), me.text
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
    print("the installed wheel serves the demo")


if __name__ == "__main__":
    main()
