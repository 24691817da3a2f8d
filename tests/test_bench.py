"""The quick benchmarks run, whatever figures they give."""

from __future__ import annotations

import importlib
import math
from typing import cast

import pytest

from bench import run
from bench.interleave import Figure

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("name", run.QUICK)
async def test_a_quick_case_gives_figures_beside_a_reference(name: str) -> None:
    case = cast("run.Case", importlib.import_module(f"bench.{name}"))
    reference, *others = await case.measure(rounds=1)
    assert isinstance(reference, Figure)
    assert reference.ratio == 1
    assert others
    for figure in others:
        assert isinstance(figure, Figure)
        assert math.isfinite(figure.ratio)
        assert figure.name in str(figure)


async def test_without_a_name_the_quick_cases_run_and_the_others_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "QUICK", {"proof": run.QUICK["proof"]})
    await run.main([], rounds=1)
    printed = capsys.readouterr().out
    assert "DPoP proof" in printed
    assert printed.splitlines()[-1].endswith("pool, rows")
