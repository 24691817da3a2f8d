"""A PDS that lies gets no token elsewhere and ends no session."""

from __future__ import annotations

import httpx
import pytest

from atproto_oauth_asgi.errors import AddressRefused, RequestError
from atproto_oauth_asgi.store import SessionFilter
from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.testing.web import Answer
from tests.app.faulty_store import FaultyStore
from tests.app.world import live_of, world
from tests.hostile.raw_pds import raw_pds
from tests.net_server import serving

pytestmark = pytest.mark.anyio

GET_SESSION = "com.atproto.server.getSession"
CHALLENGES = [
    'DPoP error="invalid_token"',
    'DPoP error="invalid_grant"',
    'DPoP error="use_dpop_nonce"',
    'DPoP error="invalid_dpop_proof"',
    'DPoP error="insufficient_scope"',
    'DPoP error=""',
    'Bearer error="invalid_token"',
    'Bearer error="invalid_token", DPoP error="use_dpop_nonce"',
    "Negotiate a/b==, dpop ERROR = invalid_token",
    'Basic realm="DPoP error=\\"invalid_token\\""',
    "DPoP",
    "",
    ",,, ,",
    'DPoP error="invalid_token',
    "DPoP " + "a=b, " * 5000 + 'error="invalid_token"',
    "x" * 30_000,
]
BODIES = [
    b"",
    b'{"error":"use_dpop_nonce"}',
    b'{"error":"invalid_grant"}',
    b'{"error":"AccountTakedown","message":"x"}',
    b"[" * 50_000,
]


def answer(status: int, challenge: str, body: bytes, *nonces: bytes) -> bytes:
    head = f"HTTP/1.1 {status} No\r\nWWW-Authenticate: {challenge}\r\n".encode()
    head += b"".join(b"DPoP-Nonce: " + nonce + b"\r\n" for nonce in nonces)
    head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    return head + body


@pytest.mark.spec("I10", "I11", "I17", "J7", "N5")
@pytest.mark.parametrize("status", [400, 401, 403])
async def test_no_answer_of_a_pds_ends_a_session(status: int) -> None:
    async with raw_pds(b"") as pds:
        for challenge in CHALLENGES:
            for body in BODIES:
                pds.server.respond = answer(status, challenge, body, b"same")
                pds.move_in()
                before = len(pds.server.requests)
                try:
                    given = await pds.session.get(f"/xrpc/{GET_SESSION}")
                    # A refresh finds the account where it really lives, and the call goes on there.
                    here = str(given.url).startswith(pds.server.url)
                    assert given.status_code == (status if here else 200)
                except RequestError as exc:
                    assert exc.code in {"refresh_failed", "bad_answer"}  # noqa: PT017
                assert len(pds.server.requests) - before <= 3

        live_of(pds.session).check()
        (row,) = await pds.here.oauth.core.store.list_sessions(SessionFilter(), limit=10)
        assert row.status == "active"
        # A token that is refused right after login is worth one refresh, and no more.
        assert len(pds.here.network.token_requests("refresh_token")) <= 1


@pytest.mark.spec("J7", "J1")
async def test_a_pds_that_refuses_every_token_makes_one_refresh() -> None:
    """And not one for each call: each would rotate the tokens of a healthy server."""
    store = FaultyStore()
    network = Network()
    network.add_account("carol.test", host=network.add_host())

    def refuse(given: Answer) -> Answer:
        del given
        return Answer(
            status=401,
            headers=(("www-authenticate", 'DPoP error="invalid_token"'), ("dpop-nonce", "n")),
        )

    async with world(network, store=store) as here:
        await here.login("carol.test")
        await here.login(add="1")
        store.allow_refresh()
        async with here.oauth.session_for(here.did()) as session:
            with network.alter(f"/xrpc/{GET_SESSION}", refuse):
                for _ in range(5):
                    assert (await session.get(f"/xrpc/{GET_SESSION}")).status_code == 401

        assert len(network.token_requests("refresh_token")) == 1
        assert {row.status for row in store.sessions} == {"active"}


@pytest.mark.spec("I14", "I9")
async def test_a_nonce_that_is_none_is_never_sent_back() -> None:
    bad = (b"", b"n" * 65_536, b'"n"', b"a b", b"a\tb", b"n\xe9", b"a\\b")
    async with raw_pds(b"") as pds:
        for nonces in (*((nonce,) for nonce in bad), (b"a", b"b")):
            pds.server.respond = answer(401, 'DPoP error="use_dpop_nonce"', b"", *nonces)
            before = len(pds.server.requests)
            try:
                assert (await pds.session.get("/xrpc/a.b.c")).status_code == 401
            except RequestError as exc:
                # What HTTP itself does not allow, or headers beyond all measure.
                assert exc.code == "bad_answer"  # noqa: PT017
            assert len(pds.server.requests) - before == 1
        assert live_of(pds.session).nonces.get(pds.server.url) is None


@pytest.mark.spec("I9")
async def test_a_nonce_is_for_the_server_that_gave_it() -> None:
    async with raw_pds(answer(200, "", b"{}", b"evil")) as pds:
        known = live_of(pds.session).nonces.get(pds.here.network.host.origin)
        await pds.session.get("/xrpc/a.b.c")

        assert live_of(pds.session).nonces.get(pds.server.url) == "evil"
        assert live_of(pds.session).nonces.get(pds.here.network.host.origin) == known != "evil"


@pytest.mark.spec("I18", "P5")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_takes_no_token_to_another_server(status: int) -> None:
    async with serving() as elsewhere, raw_pds(b"") as pds:
        pds.server.respond = (
            f"HTTP/1.1 {status} Moved\r\nLocation: {elsewhere.url}/xrpc/a.b.c\r\n"
            "Content-Length: 0\r\n\r\n"
        ).encode()
        assert (await pds.session.get("/xrpc/a.b.c")).status_code == status
        assert (await pds.session.post("/xrpc/a.b.c", content=b"x")).status_code == status
        assert elsewhere.connections == 0

        # A client of the app's own that follows redirects leaves the token behind.
        async with httpx.AsyncClient(auth=pds.session.auth, follow_redirects=True) as client:
            with pytest.raises(AddressRefused):
                await client.get(f"{pds.server.url}/xrpc/a.b.c")
        for _, request in elsewhere.requests:
            assert pds.access_token.encode() not in request
            assert b"authorization" not in request.lower()
