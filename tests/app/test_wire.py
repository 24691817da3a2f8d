"""The whole life of a session on the wire, request by request."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from hashlib import sha256

import pytest

from atproto_oauth_asgi.dpop import DPoPKey, b64url
from atproto_oauth_asgi.keys import ASSERTION_TYPE, ClientKeys, generate_client_keys
from atproto_oauth_asgi.testing import Network
from tests.app.faulty_store import FaultyStore
from tests.app.wire import Sent, Tap
from tests.app.world import BASE_URL, live_of, world

pytestmark = pytest.mark.anyio

CLIENT_ID = f"{BASE_URL}/oauth-client-metadata.json"
PAR, TOKEN, REVOKE = "/oauth/par", "/oauth/token", "/oauth/revoke"
SESSION = "/xrpc/com.atproto.server.getSession"
PUSHED = {
    "client_id", "response_type", "response_mode", "redirect_uri", "scope", "state",
    "code_challenge", "code_challenge_method", "login_hint",
}  # fmt: skip
ASSERTED = {"client_assertion", "client_assertion_type"}


def keys(*texts: str) -> ClientKeys:
    return ClientKeys({"keys": [json.loads(text)["keys"][0] for text in texts]})


def check_proof(sent: Sent, *, ath: str | None = None) -> None:
    """Check the proof of one request against RFC 9449 §4.2 and §7.1."""
    header, claims = sent.proof.header, sent.proof.claims
    assert header.keys() == {"typ", "alg", "jwk"}
    assert (header["typ"], header["alg"]) == ("dpop+jwt", "ES256")
    assert header["jwk"].keys() == {"crv", "kty", "x", "y"}
    assert {len(header["jwk"][name]) for name in "xy"} == {43}
    assert (claims["htm"], claims["htu"]) == (sent.method, sent.url)
    assert type(claims["iat"]) is int
    assert abs(claims["iat"] - time.time()) < 30
    assert claims.keys() - {"nonce", "ath"} == {"jti", "htm", "htu", "iat"}
    assert claims.get("ath") == ath
    assert len(claims["jti"]) >= 22


def check_assertion(sent: Sent, *, kid: str, issuer: str) -> None:
    """Check the client authentication of one request against RFC 7523 §3."""
    header, claims = sent.assertion.header, sent.assertion.claims
    assert sent.form["client_id"] == CLIENT_ID
    assert sent.form["client_assertion_type"] == ASSERTION_TYPE
    assert (header["alg"], header["kid"]) == ("ES256", kid)
    assert claims.keys() == {"iss", "sub", "aud", "jti", "iat", "exp"}
    assert (claims["iss"], claims["sub"], claims["aud"]) == (CLIENT_ID, CLIENT_ID, issuer)
    assert time.time() - 55 < claims["iat"] <= time.time() - 5
    assert time.time() + 20 < claims["exp"] < time.time() + 180


@pytest.mark.spec(
    "E1", "E2", "E4", "E7", "E8", "E10", "E20", "E21", "E22", "E23", "E24", "E25", "E26", "H1",
    "I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9", "I15", "I19", "J2", "J10", "K2", "K3",
    "O1", "O2",
)  # fmt: skip
async def test_a_confidential_session_keeps_both_of_its_keys_for_life() -> None:
    first, second = generate_client_keys(), generate_client_keys()
    old, new = keys(first).signing_kid, keys(second).signing_kid
    store, network = FaultyStore(), Network()
    issuer = network.host.origin
    tap = Tap(network)
    async with world(
        network, store=store, client_keys=keys(first, second), net_policy=tap.policy()
    ) as here:
        await here.login()
        cookie = here.cookie
    network.forget_clients()
    # The new key signs new logins from now on.
    async with world(
        network, store=store, client_keys=keys(second, first), net_policy=tap.policy()
    ) as here:
        here.browser.cookies.set(here.oauth.cookies.session, cookie or "")
        async with here.oauth.session_for(here.did()) as session:
            access, refresh = (
                live_of(session).tokens.access_token,
                live_of(session).tokens.refresh_token,
            )
            await session.get(SESSION)
            network.expire_access_tokens()
            store.allow_refresh()
            await session.get(SESSION, params={"a": "b c"})
            renewed = live_of(session).tokens
        await here.logout()
        await here.settled()
        await here.begin("bob.test")

    *pushed, again = tap.to(PAR)
    exchanged, refreshed = tap.to(TOKEN)
    (revoked,) = tap.to(REVOKE)
    calls = tap.to(SESSION)
    session_requests = [*pushed, exchanged, refreshed, revoked]

    assert [one.form.keys() for one in pushed] == [PUSHED | ASSERTED] * 2
    assert "nonce" not in pushed[0].proof.claims
    assert "nonce" in pushed[1].proof.claims
    assert exchanged.form.keys() == ASSERTED | {
        "client_id", "grant_type", "code", "redirect_uri", "code_verifier",
    }  # fmt: skip
    assert exchanged.form["redirect_uri"] == pushed[0].form["redirect_uri"]
    assert len(exchanged.form["code_verifier"]) == 64
    challenge = b64url(sha256(exchanged.form["code_verifier"].encode()).digest())
    assert challenge == pushed[0].form["code_challenge"] == pushed[1].form["code_challenge"]
    assert refreshed.form.keys() == ASSERTED | {"client_id", "grant_type", "refresh_token"}
    assert refreshed.form["refresh_token"] == refresh
    assert revoked.form.keys() - {"token_type_hint"} == ASSERTED | {"client_id", "token"}
    assert revoked.form["token"] == renewed.refresh_token

    for one in session_requests:
        assert one.method == "POST"
        assert one.all("content-type") == ["application/x-www-form-urlencoded"]
        assert one.all("authorization") == []
        check_proof(one)
        check_assertion(one, kid=old, issuer=issuer)
    check_assertion(again, kid=new, issuer=issuer)

    tokens = [*[access] * (len(calls) - 1), renewed.access_token]
    for call, token in zip(calls, tokens, strict=True):
        assert call.origin == session.pds
        assert call.all("authorization") == [f"DPoP {token}"]
        check_proof(call, ath=b64url(sha256(token.encode()).digest()))

    everything = [*session_requests, *calls]
    jwk = everything[0].proof.header["jwk"]
    assert all(one.proof.header["jwk"] == jwk for one in everything)
    assert again.proof.header["jwk"] != jwk
    assert jwk["x"] not in {key["x"] for key in keys(first, second).public_jwks()["keys"]}
    for jtis in (
        [one.proof.claims["jti"] for one in everything],
        [one.assertion.claims["jti"] for one in session_requests],
    ):
        assert len(set(jtis)) == len(jtis)


@pytest.mark.spec("E2", "E4", "E5", "E7", "J2", "K2")
async def test_a_public_client_sends_no_assertion_and_each_login_has_secrets_of_its_own() -> None:
    network = Network()
    tap = Tap(network)
    store = FaultyStore()
    async with world(network, store=store, net_policy=tap.policy()) as here:
        await here.login()
        async with here.oauth.session_for(here.did()) as session:
            network.expire_access_tokens()
            store.allow_refresh()
            await session.get(SESSION)
        await here.logout()
        await here.settled()
        await here.login("bob.test")

    requests = [*tap.to(PAR), *tap.to(TOKEN), *tap.to(REVOKE)]
    assert len(tap.to(TOKEN)) == 3
    for one in requests:
        assert one.form["client_id"] == CLIENT_ID
        assert not one.form.keys() & {*ASSERTED, "client_secret", "request_uri", "nonce", "claims"}
        check_proof(one)
    *_, alice, bob = tap.to(PAR)
    for name in ("state", "code_challenge"):
        assert alice.form[name] != bob.form[name]
        assert len(alice.form[name]) >= 43
    assert alice.proof.header["jwk"] != bob.proof.header["jwk"]


@pytest.mark.spec("E8", "E22")
async def test_a_nonce_retry_has_a_proof_and_an_assertion_of_its_own() -> None:
    network = Network()
    tap = Tap(network)
    async with world(
        network, client_keys=keys(generate_client_keys()), net_policy=tap.policy()
    ) as here:
        await here.begin()

    first, second = tap.to(PAR)
    assert first.assertion.claims["jti"] != second.assertion.claims["jti"]
    assert first.proof.claims["jti"] != second.proof.claims["jti"]
    assert {name: value for name, value in first.form.items() if name not in ASSERTED} == {
        name: value for name, value in second.form.items() if name not in ASSERTED
    }


@pytest.mark.spec("I9", "I6")
async def test_the_newest_nonce_of_any_answer_is_sent_next() -> None:
    network = Network()
    tap = Tap(network)
    async with world(network, net_policy=tap.policy()) as here:
        await here.login()
        with network.alter(
            SESSION,
            lambda answer: replace(
                answer, headers=(("dpop-nonce", f"given-{len(tap.to(SESSION))}"),)
            ),
        ):
            async with here.oauth.session_for(here.did()) as session:
                for _ in range(3):
                    await session.get(SESSION)

    nonces = [one.proof.claims.get("nonce") for one in tap.to(SESSION)]
    assert nonces[1:] == [f"given-{number}" for number in range(len(nonces) - 1)]


@pytest.mark.spec("I10")
@pytest.mark.parametrize("status", [400, 401])
async def test_an_authorization_server_may_challenge_in_either_shape(status: int) -> None:
    network = Network()
    tap = Tap(network)
    async with world(network, net_policy=tap.policy()) as here:
        with network.alter(
            PAR,
            lambda answer: replace(answer, status=status) if answer.status == 400 else answer,
        ):
            begun = await here.begin()

    assert begun.status_code == 303
    assert ["nonce" in one.proof.claims for one in tap.to(PAR)] == [False, True]


@pytest.mark.spec("E25")
def test_proofs_and_assertions_never_share_a_key() -> None:
    client = keys(generate_client_keys())

    assert DPoPKey.generate().thumbprint not in client.kids
    assert DPoPKey.generate().thumbprint != DPoPKey.generate().thumbprint
