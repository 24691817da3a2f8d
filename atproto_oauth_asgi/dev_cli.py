"""The `dev` command: an app beside the development network.

It is the only door from the library to the testing kit, and opens it when the command runs.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from atproto_oauth_asgi.cli import USAGE, Subparsers, fail

#: Names of this machine; the network's accounts have known passwords.
_LOOPBACK = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "::1": "[::1]", "[::1]": "[::1]"}
_MOST = 65_535


def add_dev(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser("dev", help="serve an app with a development network beside it")
    parser.add_argument(
        "app", nargs="?", help="the app, such as package.module:app; without it, the demo"
    )
    parser.add_argument(
        "--factory", action="store_true", help="call what is named, and serve what it returns"
    )
    parser.add_argument(
        "--reload", action="store_true", help="start the app anew when its files change"
    )
    parser.add_argument("--host", default="127.0.0.1", help="an address of this machine")
    parser.add_argument("--port", type=int, help="port of the app (that of BASE_URL, or 8000)")
    parser.add_argument(
        "--app-dir", default=".", metavar="FOLDER", help="where the app is imported from (.)"
    )
    parser.set_defaults(run=_dev)


def _dev(arguments: argparse.Namespace) -> int:
    host = _LOOPBACK.get(str(arguments.host))
    if host is None:
        return fail(
            f"--host is {arguments.host}, but the development network has accounts with known"
            " passwords, so it is for this machine only; leave --host out.",
            USAGE,
        )
    if arguments.port is not None and not 0 <= arguments.port <= _MOST:
        return fail(
            f"--port is {arguments.port}, which is no port; choose one such as 8001.", USAGE
        )
    if arguments.app is None and (arguments.factory or arguments.reload):
        return fail("--factory and --reload need the name of an app, such as app:app.", USAGE)
    if find_spec("uvicorn") is None:
        return fail("Serving needs uvicorn; install it with: pip install 'atproto-oauth-asgi[dev]'")
    from atproto_oauth_asgi.testing.dev import Wanted, dev

    return dev(
        Wanted(
            app=arguments.app,
            factory=arguments.factory,
            reload=arguments.reload,
            host=host,
            port=arguments.port,
            folder=str(Path(arguments.app_dir).resolve()),
        )
    )
