from __future__ import annotations

import pytest

from tests.mutation.mutants import PACKAGE, ROOT, Change, Part, parts
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


@pytest.mark.parametrize("change", explained(), ids=lambda change: change.function)
def test_an_explained_survivor_is_still_in_the_code(change: Change) -> None:
    text = (ROOT / PACKAGE / f"{change.module}.py").read_text(encoding="utf-8")
    squeezed = " ".join(text.split())
    assert change.before in squeezed
    assert explained()[change]
