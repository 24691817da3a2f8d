from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atproto_oauth_asgi.addresses import is_public, is_public_name, parse_literal

NOT_PUBLIC = [
    "0.0.0.0",
    "0.255.255.255",
    "10.0.0.0",
    "10.255.255.255",
    "100.64.0.0",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.0.9",
    "192.0.2.1",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.1",
    "192.168.0.1",
    "192.175.48.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::1",
    "64:ff9b:1::8.8.8.8",
    "100::1",
    "2001::1",
    "2001:1::1",
    "2001:1ff:ffff::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "2620:4f:8000::1",
    "3fff::1",
    "3fff:fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%1",
    "2606:4700::1%1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.1",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.167.255.255",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2000::1",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2003::1",
    "2606:4700::1111",
    "2620:4f:8001::1",
    "3ffe:ffff::1",
]


@pytest.mark.spec("P4")
@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_special_addresses_are_not_public(text: str) -> None:
    assert not is_public(ip_address(text))


@pytest.mark.spec("P4")
@pytest.mark.parametrize("text", PUBLIC)
def test_the_rest_of_the_internet_is_public(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.spec("P4")
@given(st.ip_addresses(v=4))
def test_an_ipv4_address_inside_ipv6_is_judged_alike(inner: IPv4Address) -> None:
    mapped = IPv6Address(f"::ffff:{inner}")
    translated = IPv6Address(f"64:ff9b::{inner}")

    assert is_public(inner) == is_public(mapped) == is_public(translated)


@pytest.mark.spec("P4")
@given(st.ip_addresses())
def test_nothing_private_to_python_is_public_to_us(address: IPv4Address | IPv6Address) -> None:
    # Python judges the IPv4-mapped form by itself or not, depending on the release.
    mapped = isinstance(address, IPv6Address) and address.ipv4_mapped is not None

    assert mapped or address.is_global or not is_public(address)


@pytest.mark.spec("P3")
@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "127.1",
        "127.0.1",
        "0177.0.0.1",
        "017700000001",
        "0x7f.0.0.1",
        "0x7f000001",
        "0x7f.1",
        "127.0.0.1.",
        "127.0.0.01",
        "1.2.3.4.5",
        "256.1.1.1",
        "0",
        "00",
        "1.",
        "0x",
        "08.8.8.8",
        "example.0x7f",
        "example.1",
        "fe80::1%eth0",
        "fe80::1%25eth0",
        "::1::2",
        "1:2:3",
    ],
)
def test_odd_forms_of_addresses_are_no_addresses(host: str) -> None:
    with pytest.raises(ValueError, match=r"^has a zone$" if "%" in host else r"."):
        parse_literal(host)


def test_plain_literals_are_addresses() -> None:
    assert ip_address("8.8.8.8") == parse_literal("8.8.8.8")
    assert ip_address("2606:4700::1111") == parse_literal("2606:4700::1111")


def test_names_are_no_addresses() -> None:
    assert parse_literal("pds.example.com") is None
    assert parse_literal("1.1.1.1.example.com") is None
    assert parse_literal("0x7f.com") is None


@pytest.mark.spec("P3")
@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "example",
        "localhost",
        "a.localhost",
        "printer.local",
        "metadata.google.internal",
        "1.0.0.127.in-addr.arpa",
        "example.com.",
        ".example.com",
        "a..com",
        "-a.com",
        "a-.com",
        "exa_mple.com",
        "exa mple.com",
        "ex%61mple.com",
        "EXAMPLE.com",
        "bücher.example",
        "example。com",
        "example.com\n",
        "a" * 64 + ".com",
        ".".join(["a" * 60] * 5) + ".com",
    ],
)
def test_odd_names_are_not_public(host: str) -> None:
    assert not is_public_name(host)


@pytest.mark.parametrize(
    "host",
    ["a.co", "xn--bcher-kva.example.com", "1and1.example.com", "a--b.c", "a." * 126 + "c"],
)
def test_plain_names_are_public(host: str) -> None:
    assert is_public_name(host)
