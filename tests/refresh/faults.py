"""Planted faults: each takes exactly one promise away, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.refresh import fleet

Plant = Callable[[pytest.MonkeyPatch], None]
FAULTS: dict[str, Plant] = {}


def nothing(*_args: Any, **_kwargs: Any) -> None:
    """Take the place of what a fault leaves out."""
    return


def fault(name: str) -> Callable[[Plant], Plant]:
    """Register what plants a fault for as long as the patch lasts."""

    def register(plant: Plant) -> Plant:
        assert name not in FAULTS
        FAULTS[name] = plant
        return plant

    return register


def _time(name: str, **seconds: float) -> None:
    def plant(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(fleet, "TIMING", replace(fleet.TIMING, **seconds))

    fault(name)(plant)


_time("lease lengths are swapped", lease=75.0, marked_lease=20.0)
_time("verify has no deadline", verify=600.0)
_time("POSTs are given up early", post=59.0, late_answer=0.0)
_time("a mark outlives the documented grace", marked_lease=90.0)
_time("going takes longer than the grace", wait=30.0)
_time("POSTs have no deadline", post=600.0)
_time("tries have no deadline", commit_try=600.0)
_time("commits are tried again late", commit_again=2.0)
_time("the pause never grows", backoff=2.0)
_time("the pause grows for ever", backoff=1e9)
_time("Retry-After is not capped", retry_after=1e9)
_time("the backoff is not kept", backoff=0.0)
