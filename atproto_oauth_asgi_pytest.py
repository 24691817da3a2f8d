"""The pytest plugin: a network of its own for each test that asks for one.

It is a module beside the package, and not in it, because pytest imports every installed plugin in
every run: here that costs the import of this file, and nothing else until the fixture is used.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from atproto_oauth_asgi.testing import Network

# Of an editable installation pytest does not know which modules hold assertions.
pytest.register_assert_rewrite("atproto_oauth_asgi.testing")

_OFFLINE = "atproto_oauth_asgi.testing.offline"


@pytest.fixture
def atproto_network() -> Generator[Network]:
    """Play PLC directory, PDS and authorization server, with `alice.test` and `bob.test`.

    `atproto_network.attach(oauth)` lets an app's `ATProtoOAuth` reach it, and nothing else, until
    the end of the test.
    """
    from atproto_oauth_asgi.testing import Network

    network = Network()
    try:
        yield network
    finally:
        network.detach()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None]:
    """Put back what `signed_in` changed without a network."""
    try:
        return (yield)
    finally:
        offline = sys.modules.get(_OFFLINE)
        if offline is not None:
            offline.end_all()
