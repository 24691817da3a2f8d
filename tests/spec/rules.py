"""The conformance table and the planted faults, as they are written in the TOML files here."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
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
    """One change of the source that takes a defence away; a test must fail for it.

    Which one is said by the rule that it carries, or, of a fault of an attack, by `tests`.
    """

    name: str
    rule: str = ""
    #: Text that occurs exactly once in the sources, and what takes its place.
    right: str
    wrong: str
    #: Only tests in this file or folder, where the rule has many tests; or one function of a file.
    tests: str = "tests"
    #: More changes, each a `right` and a `wrong`, where another defence would hold alone.
    also: Sequence[Mapping[str, str]] = ()
    #: Of a fault of an attack: tried with ALL_FAULTS=1 only, as another one stands for its test.
    more: bool = False

    def change(self) -> dict[Path, str]:
        """Return the files to change and their changed sources.

        Raises:
            LookupError: a text is gone, or is there more than once.
        """
        changed: dict[Path, str] = {}
        pairs = [(self.right, self.wrong), *((one["right"], one["wrong"]) for one in self.also)]
        for right, wrong in pairs:
            path = self._place(right)
            changed[path] = changed.get(path, sources()[path]).replace(right, wrong)
        return changed

    def _place(self, text: str) -> Path:
        found = [(path, source.count(text)) for path, source in sources().items() if text in source]
        if [times for _, times in found] != [1]:
            places = ", ".join(f"{path.name} ({times})" for path, times in found) or "nowhere"
            message = f"{self.name!r}: its text must occur exactly once, but occurs in: {places}"
            raise LookupError(message)
        return found[0][0]


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


def _load_faults(paths: Iterable[Path]) -> dict[str, Fault]:
    faults: dict[str, Fault] = {}
    for path in paths:
        for row in tomllib.loads(path.read_text(encoding="utf-8"))["fault"]:
            fault = Fault(**row)
            if fault.name in faults:
                message = f"two faults are called {fault.name!r}"
                raise ValueError(message)
            faults[fault.name] = fault
    return faults


_sources: dict[Path, str] = {}
RULES = _load_rules()
#: Those of rules.
FAULTS = _load_faults(sorted((HERE / "faults").glob("*.toml")))
#: Those of attacks that need a browser.
ATTACK_FAULTS = _load_faults([ROOT / "tests" / "browser" / "faults.toml"])
