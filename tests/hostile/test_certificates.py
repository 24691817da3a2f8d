"""Certificates that are no good, and nothing sent to who shows one."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from atproto_oauth_asgi.errors import Unreachable
from atproto_oauth_asgi.net import NetPolicy
from tests.net_names import NAME, Names
from tests.net_server import opened, serving

pytestmark = [pytest.mark.anyio, pytest.mark.spec("P2")]

DAY = timedelta(days=1)


def context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(made)  # pyright: ignore[reportUnknownMemberType]
    return made


async def test_a_certificate_that_is_no_good_gets_no_request(tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    now = datetime.now(UTC)
    certificates = {
        "good": authority.issue_cert(NAME),
        "expired": authority.issue_cert(NAME, not_before=now - 9 * DAY, not_after=now - DAY),
        "not yet": authority.issue_cert(NAME, not_before=now + DAY, not_after=now + 9 * DAY),
        "of a stranger": stranger.issue_cert(NAME),
        "another name": authority.issue_cert("other.example.com"),
        "the parent": authority.issue_cert("example.com"),
        "a wildcard above": authority.issue_cert("*.com"),
        "the address": authority.issue_cert("127.0.0.1"),
        "the name in disguise": authority.issue_cert("pds.example.com.evil.example"),
    }
    for name, certificate in certificates.items():
        policy = NetPolicy(
            resolve_host=Names(["127.0.0.1"]),
            allow_private_hosts=(NAME,),
            ports=None,
            ca_file=str(file),
        )
        async with serving(tls=context(certificate)) as server, opened(policy) as net:
            url = f"https://{NAME}:{server.port}/"
            if name == "good":
                await net.post_form(url, {"code": "c"})
                assert len(server.requests) == 1
                continue
            with pytest.raises(Unreachable, match="certificate") as caught:
                await net.post_form(url, {"code": "c"})
            assert not caught.value.sent, name
            with pytest.raises(Unreachable, match="certificate"):
                await net.client.get(url)
            assert server.requests == [], name


async def test_no_tls_at_all_is_no_downgrade() -> None:
    policy = NetPolicy(resolve_host=Names(["127.0.0.1"]), allow_private_hosts=(NAME,), ports=None)
    async with serving() as server, opened(policy) as net:
        with pytest.raises(Unreachable) as caught:
            await net.post_form(f"https://{NAME}:{server.port}/", {"code": "c"}, deadline=0.5)

        assert not caught.value.sent
        assert server.requests == []


async def test_old_tls_is_refused(tmp_path: Path) -> None:
    authority = trustme.CA()
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    old = context(authority.issue_cert(NAME))
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    policy = NetPolicy(
        resolve_host=Names(["127.0.0.1"]),
        allow_private_hosts=(NAME,),
        ports=None,
        ca_file=str(file),
    )
    async with serving(tls=old) as server, opened(policy) as net:
        with pytest.raises(Unreachable):
            await net.get_json(f"https://{NAME}:{server.port}/")

        assert server.requests == []
