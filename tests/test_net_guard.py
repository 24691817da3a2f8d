from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import httpcore
import pytest
import trustme

from atproto_oauth_asgi.errors import AddressRefused, ConfigurationError, Unreachable
from atproto_oauth_asgi.net import Net, NetPolicy
from atproto_oauth_asgi.net_dns import Resolver
from atproto_oauth_asgi.net_guard import Allowance, ClosingStream, Guard, GuardedBackend
from tests.net_server import Server, opened, serving

pytestmark = pytest.mark.anyio

NAME = "pds.example.com"


class Names:
    """Answers look-ups from a script, the last answer for ever, and counts them."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def tls_for(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)  # pyright: ignore[reportUnknownMemberType]
    return context


# The URL before any look-up


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


# Addresses


@pytest.mark.spec("P3")
@pytest.mark.parametrize(
    "addresses",
    [
        ["10.0.0.1"],
        ["127.0.0.1", "10.0.0.1"],
        ["10.0.0.1", "127.0.0.1"],
        ["127.0.0.1", "fe80::1%1"],
        ["::ffff:10.0.0.1"],
        ["127.0.0.1"] * 65,
        ["not an address"],
    ],
)
async def test_one_bad_address_refuses_the_name(addresses: list[str]) -> None:
    policy = NetPolicy(
        resolve_host=Names(addresses), allow_private_hosts=("127.0.0.0/8",), ports=None
    )
    async with serving() as server, opened(policy) as net:
        with pytest.raises(AddressRefused) as caught:
            await net.get_json(f"https://{NAME}:{server.port}/")

        assert NAME == caught.value.host
        assert server.connections == 0


@pytest.mark.spec("P3")
async def test_the_checked_address_is_dialled_without_a_second_look_up(
    authority: trustme.CA, ca_file: str
) -> None:
    names = Names(["127.0.0.1"], ["10.0.0.1"])
    policy = NetPolicy(
        resolve_host=names,
        allow_private_hosts=("127.0.0.1",),
        ports=None,
        ca_file=ca_file,
    )
    async with serving(tls=tls_for(authority, NAME)) as server, opened(policy) as net:
        assert await net.get_json(f"https://{NAME}:{server.port}/") == {}
        assert names.asked == [NAME]

        # The second answer counts for the next connection, which the other pool makes.
        with pytest.raises(AddressRefused):
            await net.post_form(f"https://{NAME}:{server.port}/", {})
        assert server.connections == 1


async def test_a_named_private_host_may_have_any_address_but_needs_its_certificate(
    authority: trustme.CA, ca_file: str
) -> None:
    names = Names(["127.0.0.1"])
    policy = NetPolicy(
        resolve_host=names, allow_private_hosts=("pds",), ports=None, ca_file=ca_file
    )
    async with serving(tls=tls_for(authority, "pds")) as server, opened(policy) as net:
        assert await net.get_json(f"https://pds:{server.port}/") == {}
        with pytest.raises(AddressRefused):
            await net.get_json(f"https://{NAME}:{server.port}/")
        with pytest.raises(AddressRefused):
            await net.get_json(f"http://pds:{server.port}/")


async def test_private_hosts_keep_the_port_rule() -> None:
    policy = NetPolicy(resolve_host=Names(["127.0.0.1"]), allow_private_hosts=("pds", "127.0.0.1"))
    async with opened(policy) as net:
        for host in ("pds", "127.0.0.1"):
            with pytest.raises(AddressRefused):
                await net.get_json(f"https://{host}:8443/")


@pytest.mark.parametrize(
    "entry", ["", "10.0.0.1/8", "*.example.com", "https://pds", "10.0.0", "X10.0.0.0/8"]
)
def test_a_private_host_that_is_neither_name_nor_network_stops_start_up(entry: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Net(NetPolicy(allow_private_hosts=(entry,)))

    assert str(caught.value) == (
        f"ALLOW_PRIVATE_HOSTS has the entry {entry!r}, which is neither a host name nor a CIDR such"
        " as 10.0.0.0/8 (no bits set after the prefix)."
    )


async def test_a_private_network_is_written_in_any_form_of_its_address() -> None:
    policy = NetPolicy(allow_private_hosts=("[fd00::1]", "10.1.0.0/16", "PDS"))
    guard = Guard(policy, Resolver(policy))

    assert await guard.addresses("fd00::1") == ["fd00::1"]
    assert await guard.addresses("10.1.2.3") == ["10.1.2.3"]
    guard.check_url(guard.parse_url("https://pds/"))
    with pytest.raises(AddressRefused):
        await guard.addresses("fd00::2")


async def test_the_next_address_is_tried_when_one_does_not_answer(
    authority: trustme.CA, ca_file: str
) -> None:
    # 127.0.0.2 is nobody's: the server listens on 127.0.0.1 alone.
    policy = NetPolicy(
        resolve_host=Names(["127.0.0.2", "127.0.0.1"]),
        allow_private_hosts=(NAME,),
        ports=None,
        ca_file=ca_file,
    )
    async with serving(tls=tls_for(authority, NAME)) as server, opened(policy) as net:
        assert await net.get_json(f"https://{NAME}:{server.port}/") == {}


async def test_names_are_looked_up_by_the_system_and_judged(
    authority: trustme.CA, ca_file: str
) -> None:
    # "localhost" is the one name that every machine resolves; here it is a name like others.
    policy = NetPolicy(allow_private_hosts=("localhost",), ports=None, ca_file=ca_file)
    async with serving(tls=tls_for(authority, "localhost")) as server, opened(policy) as net:
        assert await net.get_json(f"https://localhost:{server.port}/") == {}


async def test_a_slow_look_up_ends_with_the_deadline() -> None:
    async def never(host: str) -> Sequence[str]:
        await asyncio.Event().wait()
        raise AssertionError(host)

    async with opened(NetPolicy(resolve_host=never)) as net:
        with pytest.raises(Unreachable) as caught:
            await net.get_json(f"https://{NAME}/", deadline=0.1)

        assert not caught.value.sent


async def test_a_slow_look_up_ends_with_the_time_to_connect() -> None:
    async def never(host: str) -> Sequence[str]:
        await asyncio.Event().wait()
        raise AssertionError(host)

    async with opened(NetPolicy(resolve_host=never)) as net:
        with pytest.raises(Unreachable, match="in time") as caught:
            await net.client.get(f"https://{NAME}/", timeout=0.1)

        assert not caught.value.sent


async def test_a_name_that_does_not_resolve_is_unreachable() -> None:
    async def unknown(host: str) -> Sequence[str]:
        raise OSError(host)

    for policy in (NetPolicy(resolve_host=unknown), NetPolicy(resolve_host=Names([]))):
        async with opened(policy) as net:
            with pytest.raises(Unreachable) as caught:
                await net.get_json(f"https://{NAME}/")

            assert not caught.value.sent


# TLS


@pytest.mark.spec("P2")
async def test_a_certificate_for_another_name_is_refused(
    authority: trustme.CA, ca_file: str
) -> None:
    policy = NetPolicy(
        resolve_host=Names(["127.0.0.1"]), allow_private_hosts=(NAME,), ports=None, ca_file=ca_file
    )
    tls = tls_for(authority, "other.example.com", "127.0.0.1")
    async with serving(tls=tls) as server, opened(policy) as net:
        with pytest.raises(Unreachable, match="certificate") as caught:
            await net.post_form(f"https://{NAME}:{server.port}/", {"code": "c"})

        assert not caught.value.sent
        assert server.requests == []


@pytest.mark.spec("P2")
async def test_an_unknown_authority_is_refused(authority: trustme.CA) -> None:
    policy = NetPolicy(resolve_host=Names(["127.0.0.1"]), allow_private_hosts=(NAME,), ports=None)
    async with serving(tls=tls_for(authority, NAME)) as server, opened(policy) as net:
        with pytest.raises(Unreachable, match="certificate"):
            await net.get_json(f"https://{NAME}:{server.port}/")

        assert server.requests == []


async def test_a_stalled_handshake_ends_with_the_deadline_and_closes_the_socket() -> None:
    closed = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        closed.set()

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    policy = NetPolicy(resolve_host=Names(["127.0.0.1"]), allow_private_hosts=(NAME,), ports=None)
    async with opened(policy) as net:
        with pytest.raises(Unreachable) as caught:
            await net.get_json(f"https://{NAME}:{port}/", deadline=0.2)
        async with asyncio.timeout(5):
            await closed.wait()

    assert not caught.value.sent
    listener.close()
    await listener.wait_closed()


async def test_a_missing_ca_file_says_which_setting(tmp_path: Path) -> None:
    policy = NetPolicy(ca_file=str(tmp_path / "none.pem"), resolve_host=Names(["127.0.0.1"]))
    async with opened(policy) as net:
        with pytest.raises(ConfigurationError, match="CA_FILE"):
            await net.get_json(f"https://{NAME}/")


# Proxies


@asynccontextmanager
async def proxy_to(server: Server) -> AsyncGenerator[Server, None]:
    """Run a CONNECT proxy that ends every tunnel at `server`."""
    pipes: set[asyncio.Task[None]] = set()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
        finally:
            writer.close()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        proxy.connections += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()
            return
        proxy.requests.append((proxy.connections, head))
        there = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        both = (
            asyncio.create_task(pipe(reader, there[1])),
            asyncio.create_task(pipe(there[0], writer)),
        )
        pipes.update(both)

    proxy = Server(b"")
    listener = await asyncio.start_server(tunnel, "127.0.0.1", 0)
    proxy.port = listener.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listener.close()
        await listener.wait_closed()
        for task in pipes:
            task.cancel()
        await asyncio.gather(*pipes, return_exceptions=True)


@pytest.mark.spec("P3")
async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as server, serving() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
            monkeypatch.setenv(name.lower(), proxy.url)
        async with opened(NetPolicy(allow_insecure_loopback=True)) as net:
            await net.get_json(server.url)
            await net.client.get(server.url)

        assert server.connections == 2
        assert proxy.connections == 0


async def test_the_egress_proxy_carries_everything_but_loopback(
    authority: trustme.CA, ca_file: str
) -> None:
    tls = tls_for(authority, NAME)
    called = 0

    async def before_send() -> None:
        nonlocal called
        called += 1
        assert len(proxy.requests) == called
        assert server.requests == []

    async with serving(tls=tls) as server, serving() as local, proxy_to(server) as proxy:
        policy = NetPolicy(
            egress_proxy=f"http://me:secret@127.0.0.1:{proxy.port}",
            resolve_host=Names(["93.184.215.14"]),
            ca_file=ca_file,
            allow_insecure_loopback=True,
        )
        async with opened(policy) as net:
            await net.post_form(f"https://{NAME}/", {"a": "b"}, before_send=before_send)
            await net.get_json(f"https://{NAME}/")
            await net.get_json(local.url)

    assert called == 1
    assert [head.split(b"\r\n")[0] for _, head in proxy.requests] == [
        b"CONNECT pds.example.com:443 HTTP/1.1"
    ] * 2
    assert all(b"Proxy-Authorization: Basic bWU6c2VjcmV0" in head for _, head in proxy.requests)
    assert b"Proxy" not in server.requests[0][1]
    assert local.connections == 1
    assert "secret" not in repr(policy)


@pytest.mark.spec("P3")
async def test_a_private_target_is_refused_before_the_tunnel() -> None:
    async with serving() as server, proxy_to(server) as proxy:
        policy = NetPolicy(
            egress_proxy=f"http://127.0.0.1:{proxy.port}",
            resolve_host=Names(["10.0.0.1"]),
        )
        async with opened(policy) as net:
            for url in (f"https://{NAME}/", "https://10.0.0.1/", "https://localhost/"):
                with pytest.raises(AddressRefused):
                    await net.get_json(url)

    assert proxy.requests == []


async def test_a_target_without_local_dns_is_left_to_the_proxy(
    authority: trustme.CA, ca_file: str
) -> None:
    async with serving(tls=tls_for(authority, NAME)) as server, proxy_to(server) as proxy:
        policy = NetPolicy(
            egress_proxy=f"http://127.0.0.1:{proxy.port}", resolve_host=Names([]), ca_file=ca_file
        )
        async with opened(policy) as net:
            assert await net.get_json(f"https://{NAME}/") == {}


async def test_a_proxy_that_refuses_leaves_the_request_unsent() -> None:
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    async with serving(refusal) as proxy:
        policy = NetPolicy(egress_proxy=proxy.url, resolve_host=Names([]))
        async with opened(policy) as net:
            with pytest.raises(Unreachable, match="EGRESS_PROXY") as caught:
                await net.post_form(f"https://{NAME}/", {})

    assert not caught.value.sent


@pytest.mark.parametrize(
    "url", ["", "proxy:3128", "socks5://proxy", "http://proxy:x", "http://", "ftp://proxy"]
)
async def test_a_proxy_that_is_no_http_url_says_which_setting(url: str) -> None:
    async with opened(NetPolicy(egress_proxy=url)) as net:
        with pytest.raises(ConfigurationError, match="EGRESS_PROXY"):
            await net.get_json(f"https://{NAME}/")


# The socket


class Inner(httpcore.AsyncNetworkStream):
    """Notes how long it may take, and reads ten bytes at a time."""

    def __init__(self) -> None:
        self.seconds: list[float | None] = []
        self.closed = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self.seconds.append(timeout)
        return b"x" * min(max_bytes, 10)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.seconds.append(timeout)

    async def aclose(self) -> None:
        self.closed = True

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        assert server_hostname == NAME
        self.seconds.append(timeout)
        return self

    def get_extra_info(self, info: str) -> object:
        return info


async def test_a_socket_keeps_the_time_it_is_given() -> None:
    inner = Inner()
    stream = ClosingStream(inner)
    await stream.write(b"x", 1.0)
    await stream.read(10, 2.0)
    secured = await stream.start_tls(ssl.create_default_context(), NAME, 3.0)
    await secured.read(10, 4.0)

    assert inner.seconds == [1.0, 2.0, 3.0, 4.0]
    assert stream.get_extra_info("ssl_object") == "ssl_object"
    await secured.aclose()
    assert inner.closed


@pytest.mark.spec("P4")
async def test_what_may_be_read_may_be_read_to_the_last_byte() -> None:
    stream, allowance = ClosingStream(Inner()), Allowance()
    with allowance.in_force():
        assert await stream.read(10)
        allowance.left = 20
        assert len(await stream.read(10) + await stream.read(10)) == 20
        with pytest.raises(httpcore.RemoteProtocolError, match=r"^headers without end$"):
            await stream.read(1)
    assert await stream.read(10)


async def test_an_address_that_is_silent_gets_a_moment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dialled: list[tuple[str, float | None]] = []

    async def connect(
        _self: object, host: str, port: int, timeout: float | None = None, **_more: object
    ) -> httpcore.AsyncNetworkStream:
        dialled.append((host, timeout))
        if len(dialled) < 3:
            raise httpcore.ConnectTimeout
        return Inner()

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect)

    async def addresses(_host: str) -> list[str]:
        return ["2001:db8::1", "192.0.2.1", "2001:db8::2"]

    await GuardedBackend(addresses).connect_tcp(NAME, 443, timeout=5.0)

    # The last one may take all the time that is left.
    assert dialled == [("2001:db8::1", 1.0), ("192.0.2.1", 1.0), ("2001:db8::2", None)]


async def test_the_families_of_addresses_take_turns() -> None:
    six = ["2606:4700::1", "2606:4700::2", "2606:4700::3"]
    policy = NetPolicy(resolve_host=Names([*six, "1.1.1.1", "8.8.8.8"]))
    guard = Guard(policy, Resolver(policy))

    assert await guard.addresses(NAME) == [six[0], "1.1.1.1", six[1], "8.8.8.8", six[2]]
