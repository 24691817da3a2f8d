"""Mutants that no test kills, each read and explained in survivors.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tests.mutation.mutants import Change


def explained() -> dict[Change, str]:
    """Read survivors.toml: what may survive, and why."""
    table = tomllib.loads(Path(__file__).with_name("survivors.toml").read_text(encoding="utf-8"))
    return {
        Change(group["module"], group["function"], group["before"], after): group["why"]
        for group in table.get("survivor", ())
        for after in group["after"]
    }
