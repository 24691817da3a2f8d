from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.reference.install import (
    Installed,
    ReferenceUnavailable,
    ensure_installed,
    is_installed,
)
from tests.reference.network import ReferenceNetwork
from tests.reference.tls import ThrowawayCA
from tests.rings import skip_ring

HERE = Path(__file__).parent
INSTALL_SECONDS = 900


class ReferenceFactory(Protocol):
    """Returns a running network with these options, free of faults; the same for equal options."""

    def __call__(self, **options: Any) -> ReferenceNetwork: ...


@contextlib.contextmanager
def running_networks() -> Generator[ReferenceFactory]:
    """Start networks as they are asked for; stop them all at the end of the block."""
    with contextlib.ExitStack() as stack:
        running: dict[str, ReferenceNetwork] = {}

        def start(**options: Any) -> ReferenceNetwork:
            key = repr(sorted(options.items()))
            if key not in running:
                running[key] = stack.enter_context(ReferenceNetwork(**options))
            # A test that failed may have left some.
            running[key].control.clear_faults()
            return running[key]

        yield start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    patient = not is_installed()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.reference)
            if patient:
                # The first of them installs and compiles.
                item.add_marker(pytest.mark.timeout(INSTALL_SECONDS))


@pytest.fixture(scope="session")
def reference_install(request: pytest.FixtureRequest) -> Installed:
    """Install the reference server, or skip by its name; for tests that start their own."""
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")

    def progress(line: str) -> None:
        if reporter is not None:
            reporter.write_line(line)

    try:
        return ensure_installed(progress)
    except ReferenceUnavailable as exc:
        skip_ring(f"the reference server ({exc.reason})", exc.mend)


@pytest.fixture(scope="session")
def reference_factory(reference_install: Installed) -> Generator[ReferenceFactory]:
    """Start variants, shared by equal options, all stopped at the end of the run.

    A test that stops, spoils or joins one uses `with ReferenceNetwork(…)` after asking for
    `reference_install`.
    """
    with running_networks() as factory:
        yield factory


@pytest.fixture
def reference(reference_factory: ReferenceFactory) -> ReferenceNetwork:
    """One PDS with the usual token life and nonces, alice.test and bob.test; shared."""
    return reference_factory()


@pytest.fixture(scope="session")
def throwaway_ca() -> Generator[ThrowawayCA]:
    """An authority of this run, for `TLSSite` and `ReferenceNetwork(ca_file=…)`."""
    with ThrowawayCA() as ca:
        yield ca
