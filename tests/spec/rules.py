"""The conformance table and the planted faults, as they are written in the TOML files here."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
#: Where a planted fault may lie: everything that is shipped, but for the testing kit.
SOURCES = ("atproto_oauth_asgi", "stores/atproto_oauth_asgi_stores")

Level = Literal["MUST", "SHOULD", "MAY", "REF", "REC"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of the specification; `rules.toml` says what the fields mean."""

    number: str
    level: Level
    says: str
    design: str = ""
    none: str = ""
    unplanted: str = ""

    @property
    def needs_test(self) -> bool:
        return not self.none

    @property
    def needs_fault(self) -> bool:
        return self.level in {"MUST", "REF"} and not self.none and not self.unplanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One change of the source that takes a rule away; a test of that rule must fail for it."""

    name: str
    rule: str
    #: Text that occurs exactly once in the sources, and what takes its place.
    right: str
    wrong: str
    #: Only tests in this file or folder, where the rule has many tests.
    tests: str = "tests"

    def change(self) -> tuple[Path, str]:
        """Return the file to change and its changed source.

        Raises:
            LookupError: the text is gone, or is there more than once.
        """
        found = [
            (path, source.count(self.right))
            for path, source in sources().items()
            if self.right in source
        ]
        if [times for _, times in found] != [1]:
            places = ", ".join(f"{path.name} ({times})" for path, times in found) or "nowhere"
            message = f"{self.name!r}: its text must occur exactly once, but occurs in: {places}"
            raise LookupError(message)
        path = found[0][0]
        return path, sources()[path].replace(self.right, self.wrong)


def sources() -> dict[Path, str]:
    """Return the text of every module in which a fault may be planted."""
    if not _sources:
        for folder in SOURCES:
            for path in sorted((ROOT / folder).glob("*.py")):
                _sources[path] = path.read_text(encoding="utf-8")
    return _sources


def module_name(path: Path) -> str:
    """Return the name under which a source is imported."""
    return f"{path.parent.name}.{path.stem}"


def _load_rules() -> dict[str, Rule]:
    table = tomllib.loads((HERE / "rules.toml").read_text(encoding="utf-8"))
    return {number: Rule(number=number, **row) for number, row in table.items()}


def _load_faults() -> dict[str, Fault]:
    faults: dict[str, Fault] = {}
    for path in sorted((HERE / "faults").glob("*.toml")):
        for row in tomllib.loads(path.read_text(encoding="utf-8"))["fault"]:
            fault = Fault(**row)
            if fault.name in faults:
                message = f"two faults are called {fault.name!r}"
                raise ValueError(message)
            faults[fault.name] = fault
    return faults


_sources: dict[Path, str] = {}
RULES = _load_rules()
FAULTS = _load_faults()
