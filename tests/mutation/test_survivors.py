from __future__ import annotations

import pytest

from tests.mutation.mutants import PACKAGE, ROOT, Part, parts
from tests.mutation.survivors import explained


@pytest.mark.parametrize("part", parts(), ids=lambda part: part.name)
def test_a_part_names_modules_and_tests_that_exist(part: Part) -> None:
    for module in part.modules:
        assert (ROOT / PACKAGE / f"{module}.py").is_file()
    for path in (*part.tests, *part.ignore):
        assert (ROOT / path).exists()


def test_no_module_is_in_two_parts() -> None:
    modules = [module for part in parts() for module in part.modules]
    assert len(modules) == len(set(modules))


def test_an_explained_survivor_is_still_in_the_code() -> None:
    for change, why in explained().items():
        text = (ROOT / PACKAGE / f"{change.module}.py").read_text(encoding="utf-8")
        assert change.before in " ".join(text.split()), change
        assert why, change
