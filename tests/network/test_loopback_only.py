"""Served, the network is on loopback and nowhere else."""

from __future__ import annotations

import inspect
import socket
from collections.abc import Generator
from urllib.parse import urlsplit

import pytest

from atproto_oauth_asgi.testing import Network

# A socket that listens on every interface answers here too; one on 127.0.0.1 does not.
ANOTHER_LOOPBACK = "127.0.0.2"


@pytest.fixture(scope="module")
def served() -> Generator[Network]:
    network = Network(entryway=True)
    network.add_host(entryway=network.entryway)
    network.start()
    try:
        yield network
    finally:
        network.stop()


def ports(network: Network) -> list[int]:
    origins = [network.plc.origin, *(host.origin for host in network.hosts)]
    return [urlsplit(origin).port or 0 for origin in origins]


def own_addresses() -> list[str]:
    """Return addresses of this machine that others may reach; none where it has no network."""
    found = [ANOTHER_LOOPBACK]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: it only asks which address would be used.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return found
        return [*found, str(probe.getsockname()[0])]


def answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True


def test_every_server_answers_on_loopback(served: Network) -> None:
    assert len(ports(served)) == 4
    assert all(answers("127.0.0.1", port) for port in ports(served))


@pytest.mark.parametrize("address", own_addresses())
def test_no_server_answers_anywhere_else(address: str, served: Network) -> None:
    assert not any(answers(address, port) for port in ports(served))


def test_the_probe_would_notice() -> None:
    with socket.create_server(("", 0)) as everywhere:
        assert answers(ANOTHER_LOOPBACK, everywhere.getsockname()[1])


def test_no_parameter_names_an_address() -> None:
    for method in (Network.serve, Network.start):
        assert set(inspect.signature(method).parameters) == {"self", "port", "plc_port"}
