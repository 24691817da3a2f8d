"""One target under atheris: `python -m tests.fuzz.with_atheris TARGET CORPUS [OPTION]`."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from typing import Any


def main() -> None:
    # Not a dependency of this project: whoever fuzzes for long installs it.
    atheris: Any = import_module("atheris")
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["atproto_oauth_asgi", "tests.fuzz"]):
        from tests.fuzz.all_targets import TARGETS
    logging.disable()
    atheris.Setup(sys.argv, TARGETS[name].check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
