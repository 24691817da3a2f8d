"""The command line `atproto-oauth-asgi`.

Exit status: 0 done, 1 failed or behind, 2 called wrongly. Errors are one sentence on stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Protocol

from atproto_oauth_asgi.errors import ATProtoOAuthError

#: Entry points that are called with the subparsers and add to them. A command sets the default
#: `run`: a function of the parsed arguments that returns the exit status.
COMMANDS = "atproto_oauth_asgi.commands"

OK, FAILED, USAGE = 0, 1, 2


class Subparsers(Protocol):
    """Is what `add_subparsers` returns, for which argparse has no public name."""

    def add_parser(self, name: str, /, *, help: str) -> argparse.ArgumentParser:  # noqa: A002
        """Add a command."""
        ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Args:
        arguments: Words after the program's name; those of this process by default.
    """
    parser = argparse.ArgumentParser(
        prog="atproto-oauth-asgi", description="Look after sign-in with AT Protocol accounts."
    )
    _add_commands(parser.add_subparsers(title="commands", metavar="command", required=True))
    words = sys.argv[1:] if arguments is None else arguments
    if not all(map(_is_text, words)):
        return fail("A word of the command is not UTF-8; write it again.", USAGE)
    parsed = parser.parse_args(words)
    run: Callable[[argparse.Namespace], int] = parsed.run
    try:
        status = run(parsed)
        sys.stdout.flush()
    except ATProtoOAuthError as exc:
        return fail(str(exc))
    except BrokenPipeError:
        # Whoever reads the output, such as `head`, has enough. What is left would be written at
        # the end of the process, and fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return status


def fail(sentence: str, status: int = FAILED) -> int:
    """Print a sentence on stderr and return the exit status."""
    print(sentence, file=sys.stderr)
    return status


def _is_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _add_commands(commands: Subparsers) -> None:
    keys = commands.add_parser("keys", help="the client's keys, for a confidential client")
    generate = keys.add_subparsers(metavar="command", required=True).add_parser(
        "generate", help="print a new key set for CLIENT_KEYS"
    )
    generate.set_defaults(run=_generate_client_keys)
    secret = commands.add_parser("secrets", help="the keys that seal what the store keeps")
    generate = secret.add_subparsers(metavar="command", required=True).add_parser(
        "generate", help="print a new key for SECRET_KEYS"
    )
    generate.set_defaults(run=_generate_secret_key)
    for entry in sorted(entry_points(group=COMMANDS)):
        try:
            add: Callable[[Subparsers], None] = entry.load()
        except (ImportError, AttributeError) as exc:
            fail(f"The commands of {entry.value} are left out: it cannot be loaded ({exc}).")
        else:
            add(commands)


def _generate_client_keys(_arguments: argparse.Namespace) -> int:
    from atproto_oauth_asgi.keys import generate_client_keys

    print(generate_client_keys())
    return OK


def _generate_secret_key(_arguments: argparse.Namespace) -> int:
    from atproto_oauth_asgi.sealing import generate_secret_key

    print(generate_secret_key())
    return OK


if __name__ == "__main__":
    sys.exit(main())
