"""Token, refresh and revocation cases as recorded on the reference server, by name."""

from __future__ import annotations

import base64
import hashlib
import secrets

import httpx
import pytest

from atproto_oauth_asgi.testing import Network
from tests.network.walker import ASSERTION_TYPE, Key, Walker

pytestmark = pytest.mark.anyio


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    body = answer.json()
    assert "dpop-nonce" in answer.headers
    return answer.status_code, body["error"], body["error_description"]


def grant_refusal(answer: httpx.Response) -> str:
    status, error, description = refusal(answer)
    assert (status, error) == (400, "invalid_grant")
    return description


async def test_refresh_with_old_refresh_token_kills_the_session(walker: Walker) -> None:
    first = await walker.login()
    second = (await walker.refresh(first["refresh_token"])).json()

    replayed = await walker.refresh(first["refresh_token"])
    newest = await walker.refresh(second["refresh_token"])
    access = await walker.get_session(second["access_token"])

    assert grant_refusal(replayed) == "Refresh token replayed"
    assert grant_refusal(newest) == "Invalid refresh token"
    assert access.json() == {"error": "invalid_token", "message": "Invalid token"}


async def test_code_reused_revokes_the_session(walker: Walker) -> None:
    code = await walker.code()
    tokens = (await walker.exchange(code)).json()

    assert grant_refusal(await walker.exchange(code)) == "Invalid code"
    assert grant_refusal(await walker.refresh(tokens["refresh_token"])) == "Invalid refresh token"


async def test_wrong_code_verifier_burns_the_code(walker: Walker) -> None:
    code = await walker.code()
    wrong = await walker.exchange(code, code_verifier=secrets.token_urlsafe(48))

    assert grant_refusal(wrong) == "Invalid code_verifier"
    assert grant_refusal(await walker.exchange(code)) == "Invalid code"


async def test_wrong_redirect_uri(walker: Walker) -> None:
    answer = await walker.exchange(await walker.code(), redirect_uri="http://127.0.0.1/other")

    assert grant_refusal(answer) == (
        "The redirect_uri parameter must match the one used in the authorization request"
    )


async def test_short_verifier(walker: Walker) -> None:
    answer = await walker.exchange(await walker.code(), code_verifier="short")

    assert grant_refusal(answer) == (
        "Invalid request payload: String must contain at least 43 character(s) "
        "at body.code_verifier"
    )


async def test_token_with_other_dpop_key_than_par(walker: Walker) -> None:
    answer = await walker.exchange(await walker.code(), key=Key())

    assert grant_refusal(answer) == "DPoP proof does not match the expected JKT"


async def test_unknown_and_garbage_codes_and_refresh_tokens(walker: Walker) -> None:
    await walker.par()

    assert grant_refusal(await walker.exchange("cod-" + "0" * 64)) == "Invalid code"
    assert grant_refusal(await walker.exchange("x")) == (
        "Invalid code: String must contain exactly 68 character(s) at code; "
        "Invalid code format at code"
    )
    assert grant_refusal(await walker.refresh("ref-" + "0" * 64)) == "Invalid refresh token"
    assert grant_refusal(await walker.refresh("x")) == (
        "Invalid refresh token: String must contain exactly 68 character(s) at refresh_token; "
        "Invalid refresh token format at refresh_token"
    )


async def test_refresh_with_other_dpop_key_deletes_the_session(walker: Walker) -> None:
    tokens = await walker.login()
    other = await walker.refresh(tokens["refresh_token"], key=Key())
    right = await walker.refresh(tokens["refresh_token"])

    assert grant_refusal(other) == "DPoP proof does not match the expected JKT"
    assert grant_refusal(right) == "Invalid refresh token"


async def test_refresh_by_another_client_deletes_the_session(walker: Walker) -> None:
    tokens = await walker.login()
    own, walker.client_id = walker.client_id, "http://localhost"
    other = await walker.refresh(tokens["refresh_token"])
    walker.client_id = own
    right = await walker.refresh(tokens["refresh_token"])

    assert grant_refusal(other) == "Token was not issued to this client"
    assert grant_refusal(right) == "Invalid refresh token"


@pytest.mark.parametrize("kind", ["refresh_token", "access_token"])
async def test_revoke_ends_the_session(kind: str, walker: Walker, network: Network) -> None:
    tokens = await walker.login()
    first = await walker.revoke(tokens[kind])
    again = await walker.revoke(tokens[kind])
    access = await walker.get_session(tokens["access_token"])

    assert (first.status_code, first.json()) == (200, {})
    assert (again.status_code, again.json()) == (200, {})
    assert network.sessions() == []
    assert grant_refusal(await walker.refresh(tokens["refresh_token"])) == "Invalid refresh token"
    assert (access.status_code, access.json()["message"]) == (401, "Invalid token")


async def test_revoke_garbage(walker: Walker) -> None:
    await walker.par()
    answer = await walker.revoke("garbage")

    assert (answer.status_code, answer.json()) == (200, {})
    assert "dpop-nonce" in answer.headers


async def test_revoke_without_dpop_works_for_a_public_client(
    walker: Walker, network: Network
) -> None:
    tokens = await walker.login()
    answer = await walker.revoke(tokens["refresh_token"], dpop=None)

    assert answer.status_code == 200
    assert network.sessions() == []


async def test_revoke_by_another_client_says_yes_and_does_nothing(
    walker: Walker, network: Network
) -> None:
    tokens = await walker.login()
    walker.client_id = "http://localhost"
    answer = await walker.revoke(tokens["refresh_token"])

    assert (answer.status_code, answer.json()) == (200, {})
    assert len(network.sessions()) == 1


async def test_revoke_without_client_id(walker: Walker) -> None:
    answer = await walker.post("/oauth/revoke", {"token": "x", "client_id": None})

    assert refusal(answer) == (
        400,
        "invalid_request",
        (
            "Client credentials missing: Required at body.client_id; Invalid literal value, "
            f'expected "{ASSERTION_TYPE}" at body.client_assertion_type; '
            "Required at body.client_assertion, or Required at body.client_id; "
            "Required at body.client_secret, or Required at body.client_id"
        ),
    )


async def test_as_bad_grant_type(walker: Walker) -> None:
    answer = await walker.post("/oauth/token", {"grant_type": "password"})

    assert grant_refusal(answer) == (
        "Invalid request payload: Required at body.username; Required at body.password"
    )


PAST = 'Failed to verify DPoP proof: "iat" claim timestamp check failed (too far in the past)'
BAD_PROOFS: dict[str, tuple[dict[str, object], int, str, str]] = {
    "as wrong nonce": ({"nonce": "x"}, 400, "use_dpop_nonce", 'DPoP "nonce" mismatch'),
    "as no nonce": (
        {"nonce": None},
        400,
        "use_dpop_nonce",
        "Authorization server requires nonce in DPoP proof",
    ),
    "as wrong htu": (
        {"htu": "https://pds.example/other"},
        401,
        "invalid_dpop_proof",
        'DPoP "htu" mismatch',
    ),
    "as htu with query": (
        {"htu": "https://pds.example/oauth/token?a=b"},
        401,
        "invalid_dpop_proof",
        'DPoP "htu" mismatch',
    ),
    "as wrong htm": ({"htm": "GET"}, 401, "invalid_dpop_proof", 'DPoP "htm" mismatch'),
    "as stale iat": ({"iat": 1_000_000}, 401, "invalid_dpop_proof", PAST),
    "as ath not allowed": (
        {"ath": "x"},
        401,
        "invalid_dpop_proof",
        'DPoP "ath" claim not allowed',
    ),
}


@pytest.mark.parametrize("name", BAD_PROOFS)
async def test_bad_proofs_do_not_touch_the_session(name: str, walker: Walker) -> None:
    claims, status, error, description = BAD_PROOFS[name]
    tokens = await walker.login()
    form = {"grant_type": "refresh_token", "refresh_token": str(tokens["refresh_token"])}
    answer = await walker.post("/oauth/token", form, claims=claims)

    assert refusal(answer) == (status, error, description)
    assert ("www-authenticate" in answer.headers) == (status == 401)
    assert (await walker.refresh(tokens["refresh_token"])).status_code == 200


@pytest.mark.parametrize(
    ("dpop", "description"),
    [
        (None, "DPoP proof required"),
        ("garbage", "Failed to verify DPoP proof: Invalid Compact JWS"),
    ],
)
async def test_as_token_without_or_with_garbage_dpop(
    dpop: str | None, description: str, walker: Walker
) -> None:
    tokens = await walker.login()
    form = {"grant_type": "refresh_token", "refresh_token": str(tokens["refresh_token"])}
    answer = await walker.post("/oauth/token", form, dpop=dpop)

    assert refusal(answer) == (401, "invalid_dpop_proof", description)
    assert f'error_description="{description}"' in answer.headers["www-authenticate"]
    assert (await walker.refresh(tokens["refresh_token"])).status_code == 200


async def test_a_code_challenge_is_accepted_once(walker: Walker, network: Network) -> None:
    code = await walker.code()
    await walker.exchange(code)
    verifier = walker.verifier
    digest = hashlib.sha256(verifier.encode()).digest()
    url = await walker.authorize_url(
        code_challenge=base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    )
    second = network.approve(url, "alice.test").rpartition("code=")[2]
    answer = await walker.exchange(second, code_verifier=verifier)

    assert grant_refusal(answer) == "Code challenge already used"


async def test_taken_down_and_deleted_accounts_lose_their_sessions(
    walker: Walker, network: Network
) -> None:
    alice = await walker.login()
    network.take_down("alice.test")

    assert grant_refusal(await walker.refresh(alice["refresh_token"])) == "Invalid refresh token"
    assert (await walker.get_session(alice["access_token"])).json()["message"] == "Invalid token"

    bob = await walker.login("bob.test")
    network.delete_account("bob.test")

    assert grant_refusal(await walker.refresh(bob["refresh_token"])) == "Invalid refresh token"


async def test_a_deactivated_account_refreshes_but_cannot_log_in_again(
    walker: Walker, network: Network
) -> None:
    tokens = await walker.login()
    network.account("alice.test").status = "deactivated"
    refreshed = (await walker.refresh(tokens["refresh_token"])).json()
    session = await walker.get_session(refreshed["access_token"])
    write = await walker.create_post(refreshed["access_token"])
    callback = network.approve(await walker.authorize_url(), "alice.test")

    assert session.json()["active"] is False
    assert session.json()["status"] == "deactivated"
    assert write.status_code == 401
    assert write.json() == {"error": "AccountDeactivated", "message": "Account is deactivated"}
    assert "error=access_denied" in callback
