"""PAR cases as they were recorded on the reference server, by name."""

from __future__ import annotations

import pytest

from tests.network.walker import Walker

pytestmark = pytest.mark.anyio

ENUM = "Invalid authorization request: Invalid enum value. Expected {}, received '{}' at body.{}"
TAIL = ", or Required at body.request, or Required at body.request"
PROMPTS = "'none' | 'login' | 'consent' | 'select_account' | 'create'"
MODES = "'query' | 'fragment' | 'form_post'"

REFUSED: dict[str, tuple[dict[str, str | None], str, str]] = {
    "par bad scope (not declared)": (
        {"scope": "atproto transition:email"},
        "invalid_scope",
        'Scope "transition:email" is not declared in the client metadata',
    ),
    "par no atproto": (
        {"scope": "transition:generic"},
        "invalid_scope",
        'The "atproto" scope is required',
    ),
    "par plain": (
        {"code_challenge_method": "plain"},
        "invalid_request",
        'atproto requires use of "S256" code_challenge_method',
    ),
    "par no pkce": (
        {"code_challenge": None, "code_challenge_method": None},
        "invalid_request",
        "Use of PKCE is required",
    ),
    "par other redirect_uri": (
        {"redirect_uri": "http://127.0.0.1:1/other"},
        "invalid_request",
        "Invalid redirect_uri http://127.0.0.1:1/other",
    ),
    "par localhost redirect_uri": (
        {"redirect_uri": "http://localhost:1/callback"},
        "invalid_request",
        (
            'Invalid authorization request: Use of "localhost" hostname is not allowed (RFC 8252), '
            'use a loopback IP such as "127.0.0.1" instead at body.redirect_uri'
        ),
    ),
    "par response_type token": (
        {"response_type": "token"},
        "unsupported_response_type",
        'Unsupported response_type "token"',
    ),
    "par bad prompt": (
        {"prompt": "login consent"},
        "invalid_request",
        ENUM.format(PROMPTS, "login consent", "prompt") + TAIL,
    ),
    "par bad login_hint": (
        {"login_hint": "not a handle"},
        "invalid_request",
        'Invalid login_hint "not a handle"',
    ),
    "par nonce param": (
        {"nonce": "n"},
        "invalid_request",
        'Unsupported "nonce" parameter',
    ),
    "par prompt none (public)": (
        {"prompt": "none"},
        "invalid_request",
        "Public clients are not allowed to use silent-sign-on",
    ),
    "par bad response_mode": (
        {"response_mode": "web_message"},
        "invalid_request",
        ENUM.format(MODES, "web_message", "response_mode") + TAIL,
    ),
}
ACCEPTED: dict[str, dict[str, str | None]] = {
    "par ok": {},
    "par no state": {"state": None},
    "par unknown login_hint": {"login_hint": "nobody.test"},
    "par did login_hint": {"login_hint": "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"},
    "par resource param": {"resource": "https://pds.example"},
    "par unknown param": {"colour": "green"},
    "par port of a loopback redirect_uri": {"redirect_uri": "http://127.0.0.1:8123/callback"},
    "par unknown scopes are dropped later": {"scope": "atproto"},
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refused(name: str, walker: Walker) -> None:
    fields, error, description = REFUSED[name]
    answer = await walker.par(**fields)

    assert answer.status_code == 400
    assert answer.json() == {"error": error, "error_description": description}
    assert "dpop-nonce" in answer.headers


@pytest.mark.parametrize("name", ACCEPTED)
async def test_accepted(name: str, walker: Walker) -> None:
    answer = await walker.par(**ACCEPTED[name])

    assert answer.status_code == 201
    assert answer.json()["request_uri"].startswith("urn:ietf:params:oauth:request_uri:req-")
    assert answer.json()["expires_in"] == 300
    assert "dpop-nonce" in answer.headers


async def test_par_without_dpop(walker: Walker) -> None:
    assert (await walker.par(dpop=None)).status_code == 201


async def test_par_get(walker: Walker) -> None:
    answer = await walker.http.get(walker.url("/oauth/par"))

    assert (answer.status_code, answer.text) == (405, "")
    assert "dpop-nonce" in answer.headers


async def test_a_json_body_is_accepted_and_an_invalid_one_refused(walker: Walker) -> None:
    await walker.par()
    url = walker.url("/oauth/par")
    form = {**walker.request_form(), "client_id": walker.client_id}
    good = await walker.http.post(url, json=form, headers={"dpop": walker.proof("POST", url)})
    bad = await walker.http.post(url, content=b"{", headers={"content-type": "application/json"})

    assert good.status_code == 201
    assert (bad.status_code, bad.json()["error"]) == (400, "invalid_request")
    assert "dpop-nonce" in bad.headers


@pytest.mark.parametrize(
    "client_id",
    [
        "http://localhost/client-metadata.json",
        "http://localhost:8000",
        "http://localhost?scope=transition%3Ageneric",
        "http://localhost?redirect_uri=http%3A%2F%2Flocalhost%2Fcallback",
        "http://localhost?redirect_uri=http%3A%2F%2F127.0.0.2%2Fcallback",
        "http://localhost?colour=green",
        "http://localhost?scope=atproto&scope=atproto",
        "http://localhost?scope=atproto#x",
    ],
)
@pytest.mark.spec("D2", "D3")
async def test_ill_formed_loopback_clients_are_refused(client_id: str, walker: Walker) -> None:
    walker.client_id = client_id
    answer = await walker.par()

    assert answer.json() == {
        "error": "invalid_client_metadata",
        "error_description": f'Invalid client ID "{client_id}"',
    }
