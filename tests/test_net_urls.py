"""URLs are judged before anything is looked up."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import pytest

from atproto_oauth_asgi.errors import AddressRefused
from atproto_oauth_asgi.net import NetPolicy
from atproto_oauth_asgi.net_dns import Resolver
from atproto_oauth_asgi.net_guard import Guard
from tests.net_names import NAME, Names
from tests.net_server import opened, serving

pytestmark = pytest.mark.anyio


@pytest.mark.spec("P2", "P3", "A8")
@pytest.mark.parametrize(
    "url",
    [
        "",
        "pds.example.com",
        "//pds.example.com/",
        "http://pds.example.com/",
        "ftp://pds.example.com/",
        "file:///etc/passwd",
        "https:///x",
        "https://pds.example.com:8443/",
        "https://pds.example.com:0/",
        "https://pds.example.com:80/",
        "https://pds.example.com:x/",
        "https://user@pds.example.com/",
        "https://user:password@pds.example.com/",
        "https://@pds.example.com/",
        "https://pds.example.com\\@evil.example.com/",
        "https://pds.example.com./",
        "https://pds.example.com /",
        " https://pds.example.com/",
        "https://pds.example.com/\n",
        "https://pds.example.com/\r\nX: y",
        "https://bücher.example.com/",
        "https://ｐds.example.com/",
        "https://pds%2eexample.com/",
        "https://pds_1.example.com/",
        "https://intranet/",
        "https://localhost/",
        "https://LOCALHOST/",
        "https://a.localhost/",
        "https://metadata.google.internal/",
        "https://2130706433/",
        "https://127.1/",
        "https://0177.0.0.1/",
        "https://0x7f.0.0.1/",
        "https://0x7f000001/",
        "https://127.0.0.1/",
        "https://127.0.0.1./",
        "https://10.0.0.1/",
        "https://169.254.169.254/",
        "https://[::1]/",
        "https://[::]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://[fe80::1%25eth0]/",
        "https://[2606:4700::1111]443/",
        "https://pds.example.com:4_43/",
        "https://pds.example.com:+443/",
        "https://[fe80::1%eth0]/",
        "https://[fd00:ec2::254]/",
        "https://pds.example.com/" + "a" * 2048,
    ],
)
async def test_odd_urls_are_refused_before_any_look_up(url: str) -> None:
    names = Names(["127.0.0.1"])
    async with opened(NetPolicy(resolve_host=names, allow_private_hosts=(NAME,))) as net:
        with pytest.raises(AddressRefused):
            await net.get_json(url)

        assert names.asked == []


_LONG = "a" * 300 + ".com"


@pytest.mark.spec("P2", "P3")
@pytest.mark.parametrize(
    ("url", "host", "why"),
    [
        (f"http://{NAME}/", NAME, "is to be opened with 'http', but only https is allowed"),
        (f"https://{NAME}:8443/", NAME, "is asked on port 8443, which this site may not open"),
        (f"https://{NAME}:0/", NAME, "is asked on port 0, which this site may not open"),
        (f"https://u@{NAME}/", NAME, "carries user information, which no server here needs"),
        ("https://127.1/", "127.1", "is an address in a form that is not accepted"),
        ("https://intranet/", "intranet", "is not the name of a server on the public internet"),
        (f"https://{_LONG}/", "a" * 253, "is not the name of a server on the public internet"),
        (
            "https://10.0.0.1/",
            "10.0.0.1",
            "has an address that is not public (ALLOW_PRIVATE_HOSTS can name it)",
        ),
        (
            "https://private.example.com/",
            "private.example.com",
            "has an address that is not public (ALLOW_PRIVATE_HOSTS can name it)",
        ),
        (
            "https://many.example.com/",
            "many.example.com",
            "has more addresses than any server needs",
        ),
        (
            "https://odd.example.com/",
            "odd.example.com",
            "resolves to something that is not an address",
        ),
    ],
)
async def test_what_is_refused_is_told_with_its_reason(url: str, host: str, why: str) -> None:
    async def resolve(name: str) -> Sequence[str]:
        return {"private": ["10.0.0.1"], "many": ["1.1.1.1"] * 65}.get(
            name.partition(".")[0], ["x"]
        )

    async with opened(NetPolicy(resolve_host=resolve)) as net:
        with pytest.raises(AddressRefused) as caught:
            await net.client.get(url)

        assert str(caught.value) == f"The host {host!r} {why}."
        assert caught.value.host == host


@pytest.mark.spec("P2")
@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("https://", "This URL is not one that may be opened: write it as https://host/path."),
        ("https://xn--a.com/", "This URL cannot be read: write it as https://host/path."),
    ],
)
async def test_what_is_no_url_is_told_how_to_write_one(url: str, sentence: str) -> None:
    async with opened(NetPolicy()) as net:
        with pytest.raises(AddressRefused) as caught:
            await net.get_json(url)

        assert str(caught.value) == sentence


@pytest.mark.spec("P2", "P3")
@pytest.mark.parametrize(
    ("url", "insecure", "passes"),
    [
        (f"https://{NAME}:1/", False, True),
        (f"https://{NAME}:0/", False, False),
        ("https://1.1.1.1/", False, True),
        ("https://10.0.0.1/", False, False),
        ("https://127.0.0.1:8443/", True, True),
        ("http://127.0.0.1:8080/", True, True),
        ("ftp://127.0.0.1/", True, False),
        ("https://127.0.0.1/", False, False),
        ("https://pds.example.com/".ljust(2048, "a"), False, True),
        ("https://pds.example.com/".ljust(2049, "a"), False, False),
    ],
)
def test_a_url_is_judged_by_what_it_says(url: str, insecure: bool, passes: bool) -> None:
    policy = NetPolicy(allow_insecure_loopback=insecure, ports=None)
    guard = Guard(policy, Resolver(policy))
    with nullcontext() if passes else pytest.raises(AddressRefused):
        guard.check_url(guard.parse_url(url))


@pytest.mark.spec("P2")
async def test_an_address_is_not_looked_up_and_many_are_judged() -> None:
    names = Names([f"1.1.1.{number}" for number in range(64)])
    policy = NetPolicy(resolve_host=names)
    guard = Guard(policy, Resolver(policy))

    assert await guard.addresses("1.1.1.1") == ["1.1.1.1"]
    assert await guard.addresses("::ffff:1.1.1.1") == ["1.1.1.1"]
    assert names.asked == []
    assert len(await guard.addresses(NAME)) == 64


async def test_a_look_up_has_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    async def addresses(_self: Resolver, _host: str, *, deadline: float) -> Sequence[str]:
        given.append(deadline)
        return ["1.1.1.1"]

    monkeypatch.setattr(Resolver, "addresses", addresses)
    policy = NetPolicy()
    await Guard(policy, Resolver(policy)).addresses(NAME)

    assert given == [5.0]


@pytest.mark.spec("P2")
async def test_the_client_for_pds_calls_is_guarded_too() -> None:
    names = Names(["10.0.0.1"])
    async with opened(NetPolicy(resolve_host=names)) as net:
        for url in (
            f"http://{NAME}/",
            f"https://{NAME}:8443/",
            f"https://user@{NAME}/",
            f"https://{NAME}./",
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://localhost/",
            f"https://{NAME}/",
        ):
            with pytest.raises(AddressRefused):
                await net.client.get(url)

        assert names.asked == [NAME]


async def test_an_insecure_loopback_policy_opens_nothing_else() -> None:
    names = Names(["127.0.0.1"])
    policy = NetPolicy(allow_insecure_loopback=True, resolve_host=names)
    async with opened(policy) as net:
        for url in (
            f"http://{NAME}/",
            f"https://{NAME}/",
            "http://127.0.0.2/",
            "http://a.localhost/",
            "http://localhost./",
            "http://[::ffff:127.0.0.1]/",
            "http://0.0.0.0/",
            "http://10.0.0.1/",
            "ws://127.0.0.1/",
        ):
            with pytest.raises(AddressRefused):
                await net.get_json(url)


async def test_an_insecure_loopback_policy_dials_localhost_without_dns() -> None:
    names = Names(["10.0.0.1"])
    policy = NetPolicy(allow_insecure_loopback=True, resolve_host=names)
    async with serving() as server, opened(policy) as net:
        for host in ("127.0.0.1", "localhost", "LOCALHOST"):
            assert await net.get_json(f"http://{host}:{server.port}/") == {}

        assert names.asked == []
