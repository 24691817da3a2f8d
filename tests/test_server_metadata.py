from __future__ import annotations

import pytest
from starlette.responses import JSONResponse

from atproto_oauth_asgi.errors import (
    AddressRefused,
    NotOAuthCapable,
)
from tests.discovery_documents import (
    GONE,
    ISSUER,
    Web,
    changed,
    discover,
    failure,
    server,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def web() -> Web:
    web = Web()
    web.put_resource()
    web.put_server()
    return web


@pytest.mark.spec("B7")
@pytest.mark.parametrize(
    "name", [GONE, None, f"{ISSUER}/", "https://AUTH.example.com", "https://b.example.com", 1]
)
async def test_issuer_in_the_document_is_the_very_string_that_was_asked(
    web: Web, name: object
) -> None:
    web.put_server(JSONResponse(changed(server(), {"issuer": name})))

    assert type(await failure(web)) is NotOAuthCapable


BROKEN_FIELDS: list[tuple[str, list[object]]] = [
    ("response_types_supported", [["token"], "code", [["code"]], ["code", 1]]),
    ("grant_types_supported", [["authorization_code"], ["refresh_token"], []]),
    ("code_challenge_methods_supported", [["plain"], [], "S256"]),
    ("token_endpoint_auth_methods_supported", [["none"], ["private_key_jwt"], {}]),
    ("token_endpoint_auth_signing_alg_values_supported", [["RS256"], ["ES256", "none"]]),
    ("scopes_supported", [["atprotox"], ["transition:generic"], "atproto"]),
    ("dpop_signing_alg_values_supported", [["ES256K"], []]),
    ("authorization_response_iss_parameter_supported", [False, "true", 1]),
    ("require_pushed_authorization_requests", [False, "true", 1]),
    ("client_id_metadata_document_supported", [False, "true", 1]),
    ("authorization_endpoint", ["", 7, "/oauth", f"{ISSUER}/oauth#x"]),
    ("token_endpoint", ["", [f"{ISSUER}/t"], f"{ISSUER}/t#x"]),
    ("pushed_authorization_request_endpoint", ["", f"{ISSUER}/p\n"]),
]


@pytest.mark.spec("B8")
@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in BROKEN_FIELDS for value in (GONE, None, *values)],
)
async def test_server_that_lacks_a_required_value_is_not_capable_and_the_error_names_it(
    web: Web, name: str, value: object
) -> None:
    web.change_server(name, value)

    error = await failure(web)

    assert type(error) is NotOAuthCapable
    assert name in str(error) or "without a signature" in str(error)


@pytest.mark.spec("B8")
@pytest.mark.parametrize("value", [False, None, "true"])
async def test_request_uri_registration_is_required_when_mentioned(web: Web, value: object) -> None:
    web.put_server(require_request_uri_registration=value)
    assert type(await failure(web)) is NotOAuthCapable

    web.put_server(require_request_uri_registration=GONE)
    assert (await discover(web)).issuer == ISSUER


BAD_ENDPOINTS = [
    "http://auth.example.com/x",
    "http://127.0.0.1:2583/x",
    "javascript:alert(1)//https://auth.example.com/",
    "data:text/html,x",
    "file:///etc/passwd",
    "https://user:secret@auth.example.com/x",
    "https://auth.example.com\\@evil.example.net/x",
    "https://auth.example.com/\r\nSet-Cookie: x",
    "https://localhost/x",
    "https://metadata/x",
    "https://0x7f000001/x",
    "https://auth.example.com/" + "x" * 3000,
]


@pytest.mark.spec("B9", "P1")
@pytest.mark.parametrize("url", BAD_ENDPOINTS)
@pytest.mark.parametrize(
    "name",
    [
        "authorization_endpoint",
        "token_endpoint",
        "pushed_authorization_request_endpoint",
        "revocation_endpoint",
    ],
)
async def test_endpoint_that_is_no_plain_https_url_is_refused(
    web: Web, name: str, url: str
) -> None:
    web.change_server(name, url)

    assert type(await failure(web)) is NotOAuthCapable


@pytest.mark.spec("B9", "P1")
@pytest.mark.parametrize("url", ["https://169.254.169.254/", "https://[::1]/", "https://10.0.0.1/"])
async def test_endpoint_at_a_private_address_is_refused(web: Web, url: str) -> None:
    web.put_server(token_endpoint=url)

    with pytest.raises(AddressRefused):
        await discover(web)


@pytest.mark.spec("B9", "P2")
async def test_endpoint_on_another_port_needs_open_ports(web: Web) -> None:
    web.put_server(token_endpoint="https://auth.example.com:8443/token")

    assert type(await failure(web)) is AddressRefused
    found = await discover(web, ports=None)
    assert found.token_endpoint == "https://auth.example.com:8443/token"


@pytest.mark.spec("B9")
async def test_endpoints_may_lie_on_another_host(web: Web) -> None:
    web.put_server(token_endpoint="https://tokens.example.net/t?x=1")

    assert (await discover(web)).token_endpoint == "https://tokens.example.net/t?x=1"


@pytest.mark.spec("B11")
async def test_granular_scopes_need_not_be_listed(web: Web) -> None:
    web.put_server(scopes_supported=["atproto"])

    assert (await discover(web)).issuer == ISSUER


@pytest.mark.spec("B13")
@pytest.mark.parametrize("value", [GONE, None])
async def test_server_without_revocation_is_remembered_as_such(web: Web, value: object) -> None:
    web.put_server(revocation_endpoint=value)

    assert (await discover(web)).revocation_endpoint is None


async def test_development_switch_opens_loopback_only(web: Web) -> None:
    web.put_server(token_endpoint="http://auth.example.com/token")
    assert type(await failure(web, insecure=True)) is NotOAuthCapable

    web.put_server(token_endpoint="https://auth.example.com:8443/token")
    assert type(await failure(web, insecure=True)) is AddressRefused
