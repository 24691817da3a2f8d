from __future__ import annotations

import json
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atproto_oauth_asgi.errors import ConfigurationError
from atproto_oauth_asgi.metadata import (
    ClientMetadata,
    build_loopback_client_id,
    check_base_url,
    check_client_uri,
    check_link,
    check_prefix,
    loopback_document,
    parse_loopback_client_id,
    redirect_uri_matches,
)


def client(
    base_url: str = "https://app.example.com",
    *,
    prefix: str = "/oauth",
    scope: str = "atproto",
    confidential: bool = False,
) -> ClientMetadata:
    return ClientMetadata(
        base=check_base_url(base_url), prefix=prefix, scope=scope, confidential=confidential
    )


@pytest.mark.spec("C1", "C3", "C5", "C7", "C8", "C10", "C11", "C12", "C16", "C23")
def test_a_public_client_says_exactly_what_servers_accept() -> None:
    mine = client(scope="atproto repo:*")

    assert "https://app.example.com/oauth-client-metadata.json" == mine.client_id
    assert "https://app.example.com/oauth/callback" == mine.redirect_uri
    assert mine.jwks_uri is None
    assert {
        "client_id": mine.client_id,
        "application_type": "web",
        "client_uri": "https://app.example.com",
        "dpop_bound_access_tokens": True,
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "redirect_uris": [mine.redirect_uri],
        "scope": "atproto repo:*",
        "token_endpoint_auth_method": "none",
    } == mine.document()


@pytest.mark.spec("C12", "C13", "C17", "C24")
def test_a_confidential_client_names_its_algorithm_and_one_place_of_its_keys() -> None:
    mine = client("https://app.example.com/site", prefix="/auth", confidential=True)

    document = mine.document()

    assert "https://app.example.com/site/oauth-client-metadata.json" == document["client_id"]
    assert ["https://app.example.com/site/auth/callback"] == document["redirect_uris"]
    assert "private_key_jwt" == document["token_endpoint_auth_method"]
    assert "ES256" == document.get("token_endpoint_auth_signing_alg")
    assert "https://app.example.com/site/auth/jwks.json" == document.get("jwks_uri")
    assert "web" == document["application_type"]
    assert "jwks" not in document
    assert len(json.dumps(document)) < 5_000


@pytest.mark.spec("C21", "C22")
def test_what_people_are_shown_is_in_the_document_only_when_it_is_set() -> None:
    mine = ClientMetadata(
        base=check_base_url("https://app.example.com"),
        prefix="/oauth",
        scope="atproto",
        confidential=False,
        client_name="An app",
        client_uri="https://app.example.com/",
        logo_uri="https://cdn.example.net/logo.png",
        tos_uri="https://app.example.com/terms",
        policy_uri="https://app.example.com/privacy",
    )

    shown = {name: mine.document().get(name) for name in ("client_name", "client_uri", "logo_uri")}
    assert {
        "client_name": "An app",
        "client_uri": "https://app.example.com/",
        "logo_uri": "https://cdn.example.net/logo.png",
    } == shown
    assert "https://app.example.com/terms" == mine.document().get("tos_uri")
    assert "https://app.example.com/privacy" == mine.document().get("policy_uri")


@pytest.mark.spec("D1", "D2", "D3")
@pytest.mark.parametrize(
    ("base_url", "registered"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1/oauth/callback"),
        ("http://127.0.0.1", "http://127.0.0.1/oauth/callback"),
        ("http://[::1]:8000/app/", "http://[::1]/app/oauth/callback"),
    ],
)
def test_a_loopback_client_is_its_id_and_keeps_it_on_another_port(
    base_url: str, registered: str
) -> None:
    scope = "atproto rpc:com.example.get?aud=did:web:api.example.com%23svc"
    mine = client(base_url, scope=scope)

    read = parse_loopback_client_id(mine.client_id)

    assert read is not None
    assert scope == read.scope
    assert (registered,) == read.redirect_uris
    assert base_url.rstrip("/") + "/oauth/callback" == mine.redirect_uri
    assert redirect_uri_matches(registered, mine.redirect_uri)
    assert loopback_document(mine.client_id, read) == mine.document()
    assert "%2523svc" in mine.client_id
    assert mine.client_id == client(base_url.replace("8000", "9000"), scope=scope).client_id


@pytest.mark.spec("D3")
@pytest.mark.parametrize(
    ("registered", "requested", "match"),
    [
        ("http://127.0.0.1/cb", "http://127.0.0.1:8080/cb", True),
        ("http://127.0.0.1", "http://127.0.0.1:8080/", True),
        ("http://[::1]/cb", "http://[::1]:1/cb", True),
        ("http://127.0.0.1/cb", "http://127.0.0.1:8080/cb#x", False),
        ("http://127.0.0.1/cb", "http://u@127.0.0.1/cb", False),
        ("http://127.0.0.1/cb", "https://127.0.0.1/cb", False),
        ("http://127.0.0.1/cb", "http://127.0.0.1.evil.com/cb", False),
        ("http://127.0.0.1/cb", "http://127.0.0.1:0/cb", False),
        ("http://127.0.0.1/cb", "http://127.0.0.1:99999/cb", False),
        ("http://127.0.0.1/cb", "http://127.0.0.1/\tcb", False),
        ("https://a.example.com/cb", "https://a.example.com:444/cb", False),
    ],
)
def test_only_the_port_of_a_loopback_address_may_differ(
    registered: str, requested: str, match: bool
) -> None:
    assert match == redirect_uri_matches(registered, requested)


@pytest.mark.parametrize("end", ["%23", "%23frag"])
def test_a_loopback_address_has_no_fragment(end: str) -> None:
    uri = "http%3A%2F%2F127.0.0.1%2Fcb"
    assert parse_loopback_client_id(f"http://localhost?redirect_uri={uri}") is not None
    assert parse_loopback_client_id(f"http://localhost?redirect_uri={uri}{end}") is None


@given(st.text(max_size=60))
def test_no_client_id_breaks_the_parser(text: str) -> None:
    for client_id in (text, f"http://localhost?{text}", f"http://localhost?redirect_uri={text}"):
        read = parse_loopback_client_id(client_id)
        assert read is None or "atproto" in read.scope.split(" ")


@pytest.mark.spec("C4", "C6")
@pytest.mark.parametrize(
    ("text", "url", "path"),
    [
        ("https://app.example.com", "https://app.example.com", ""),
        (" https://App.Example.COM:443/ ", "https://app.example.com", ""),
        ("https://app.example.com/a/b_c~d.e-f//", "https://app.example.com/a/b_c~d.e-f", None),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000", ""),
        ("http://127.0.0.1:80", "http://127.0.0.1", ""),
        ("http://[::1]:5000", "http://[::1]:5000", ""),
        ("https://xn--exmple-cua.com", "https://xn--exmple-cua.com", ""),
    ],
)
def test_a_base_url_is_normalised(text: str, url: str, path: str | None) -> None:
    base = check_base_url(text)

    assert url == base.url == base.origin + base.path
    assert path is None or path == base.path
    assert base.loopback == url.startswith("http:")


def test_the_port_of_a_base_url_is_known() -> None:
    assert 8000 == check_base_url("http://127.0.0.1:8000").port
    assert 80 == check_base_url("http://127.0.0.1").port
    assert 443 == check_base_url("https://app.example.com").port


@pytest.mark.spec("C4", "C16", "C18", "D3", "D4", "D6", "C19")
@pytest.mark.parametrize(
    ("text", "why", "mend"),
    [
        ("", "missing", "https://app.example.com"),
        ("app.example.com", "not a web address", "https://"),
        ("ftp://app.example.com", "not a web address", "https://"),
        ("com.example.app:/oauth", "not a web address", "https://"),
        ("com.example.app://oauth", "not a web address", "https://"),
        ("https://", "not a web address", "https://"),
        ("https://[::1", "not a web address", "https://"),
        ("https://app.example.com:0", "not a web address", "https://"),
        ("https://app.example.com:x", "not a web address", "https://"),
        ("https://app example.com", "not a web address", "https://"),
        ("https://app.example.com\\@evil.com", "user name", "remove"),
        ("https://app.example.com/\tx", "not a web address", "https://"),
        ("https://ex\u00e4mple.com", "ASCII", "xn--"),
        ("https://user:pw@app.example.com", "user name", "remove"),
        ("https://app.example.com?x=1", "query", "end it before"),
        ("https://app.example.com/#x", "fragment", "end it before"),
        ("https://app.example.com:8443", "port 8443", "https://app.example.com"),
        ("https://192.0.2.7", "IP address", "name"),
        ("https://127.0.0.1", "IP address", "http://127.0.0.1"),
        ("https://[2001:db8::1]", "IP address", "name"),
        ("https://intranet", "cannot reach", "public"),
        ("https://app.local", "cannot reach", "public"),
        ("https://app.localhost", "cannot reach", "public"),
        ("https://app.test", "cannot reach", "public"),
        ("https://app.invalid", "cannot reach", "public"),
        ("https://app.example", "cannot reach", "public"),
        ("https://localhost", "localhost", "http://127.0.0.1"),
        ("http://localhost:8000", "localhost", "http://127.0.0.1:8000 "),
        ("http://localhost", "localhost", "http://127.0.0.1 "),
        ("http://LOCALHOST:8000", "localhost", "http://127.0.0.1:8000 "),
        ("http://app.example.com", "https only", "https://app.example.com"),
        ("http://192.168.1.7:8000", "https only", "127.0.0.1"),
        ("http://127.0.0.2:8000", "127.0.0.2", "127.0.0.1"),
        ("http://0.0.0.0:8000", "0.0.0.0", "127.0.0.1"),
        ("http://[::]:8000", "::", "127.0.0.1"),
        ("https://app.example.com/a//b", "path", "single slashes"),
        ("https://app.example.com/a/../b", "path", "single slashes"),
        ("https://app.example.com/.", "path", "single slashes"),
        ("https://app.example.com/%7Ea", "path", "single slashes"),
        ("https://app.example.com/a;b", "path", "single slashes"),
    ],
)
def test_a_base_url_that_servers_refuse_stops_start_up(text: str, why: str, mend: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_base_url(text)

    message = str(caught.value)
    assert message.startswith("BASE_URL ")
    assert why in message
    assert mend in message.partition(why)[2] or mend in message
    assert "pw" not in message


def test_tests_may_use_a_port_and_a_private_name() -> None:
    for text in ("https://app.test:8443", "https://app:9", "https://127.0.0.1:1", "https://a.b.c"):
        assert text == check_base_url(text, any_client_id=True).url
    for text in ("http://app.test", "http://localhost:1", "https://a.test/?x"):
        with pytest.raises(ConfigurationError):
            check_base_url(text, any_client_id=True)


@pytest.mark.parametrize("text", ["/oauth", "/a/b", "/a.b-c_d~e", "/..a"])
def test_a_prefix_is_a_plain_path(text: str) -> None:
    assert text == check_prefix(text)
    assert text == check_prefix(text + "/")


@pytest.mark.parametrize(
    "text", ["", "/", "//", "oauth", "/o auth", "/..", "/a/../b", "/a//b", "/a?b", "/a\n", "/ä"]
)
def test_a_prefix_of_another_form_stops_start_up(text: str) -> None:
    with pytest.raises(ConfigurationError, match="PREFIX must be a path"):
        check_prefix(text)


@pytest.mark.spec("C22")
@pytest.mark.parametrize(
    "text", ["", "http://app.example.com/", "/terms", "javascript:alert(1)", "https://a b.com"]
)
def test_a_link_that_is_not_https_stops_start_up(text: str) -> None:
    with pytest.raises(ConfigurationError, match="TOS_URI is not an https URL"):
        check_link(text, "TOS_URI")


@pytest.mark.spec("C21")
@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("https://app.example.com", True),
        ("https://APP.example.com:443/", True),
        ("https://app.example.com/site", True),
        ("https://app.example.com/site/?ref=consent", True),
        ("https://app.example.com/sit", False),
        ("https://app.example.com/site/about", False),
        ("https://www.example.com", False),
        ("https://app.example.com:8443", False),
        ("http://app.example.com", False),
    ],
)
def test_the_client_uri_is_a_parent_of_the_client_id(text: str, fine: bool) -> None:
    base = check_base_url("https://app.example.com/site")

    if fine:
        assert text == check_client_uri(text, base)
    else:
        with pytest.raises(ConfigurationError, match="CLIENT_URI"):
            check_client_uri(text, base)


def test_a_client_id_survives_being_written_and_read() -> None:
    made = build_loopback_client_id("atproto blob:*/*", "http://127.0.0.1/a b")

    assert dict(parse_qsl(urlsplit(made).query)) == {
        "scope": "atproto blob:*/*",
        "redirect_uri": "http://127.0.0.1/a b",
    }


@pytest.mark.spec("C3", "C6", "C10", "C16", "C18", "C19", "C20")
@pytest.mark.parametrize(
    "base_url",
    ["https://app.example.com", "https://App.Example.com:443/", "https://app.example.com/a/b/"],
)
def test_client_id_and_redirect_uri_have_one_origin_in_its_one_spelling(base_url: str) -> None:
    mine = client(base_url)
    under = "https://app.example.com" + ("/a/b" if "/a/b" in base_url else "")

    assert mine.document()["application_type"] == "web"
    assert mine.document()["client_id"] == mine.client_id == f"{under}/oauth-client-metadata.json"
    assert mine.document()["redirect_uris"] == [mine.redirect_uri] == [f"{under}/oauth/callback"]
