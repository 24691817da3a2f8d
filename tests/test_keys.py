from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from atproto_oauth_asgi.errors import ClientKeyMissing, ConfigurationError
from atproto_oauth_asgi.keys import ClientKeys, generate_client_keys

CLIENT_ID = "https://app.example.com/oauth-client-metadata.json"
ISSUER = "https://auth.example.org"
VECTORS = json.loads(
    (Path(__file__).parent / "vectors" / "vectors.json").read_text(encoding="utf-8")
)

JWK = dict[str, object]
NO_OBJECT = cast("JWK", 1)


def new_jwk(**members: object) -> JWK:
    (jwk,) = json.loads(generate_client_keys())["keys"]
    return {**jwk, **members}


def decode(keys: ClientKeys, token: str) -> jwt.Token:
    (public,) = [key for key in keys.public_jwks()["keys"] if key["kid"] == _header(token)["kid"]]
    return jwt.decode(
        token,
        ECKey.import_key({"kty": "EC", "crv": "P-256", "x": public["x"], "y": public["y"]}),
        algorithms=["ES256"],
    )


def _header(token: str) -> dict[str, object]:
    part = token.partition(".")[0]
    return cast(
        "dict[str, object]", json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    )


@pytest.mark.spec("O4")
def test_a_generated_set_holds_one_private_key_named_by_its_thumbprint() -> None:
    (jwk,) = json.loads(generate_client_keys())["keys"]

    parts = {name: jwk[name] for name in ("kty", "crv", "x", "y")}
    assert ECKey.import_key(parts).thumbprint() == jwk["kid"]
    assert {"kty", "crv", "x", "y", "d", "kid", "use", "alg"} == set(jwk)
    assert generate_client_keys() != generate_client_keys()


@pytest.mark.spec("E20", "E21", "E24")
def test_an_assertion_says_who_asks_whom_and_for_how_long() -> None:
    keys = ClientKeys(generate_client_keys())

    token = decode(keys, keys.assertion(keys.signing_kid, CLIENT_ID, ISSUER))

    assert {"alg": "ES256", "kid": keys.signing_kid, "typ": "JWT"} == token.header
    assert (CLIENT_ID, CLIENT_ID, ISSUER) == tuple(token.claims[n] for n in ("iss", "sub", "aud"))
    assert {"iss", "sub", "aud", "jti", "iat", "exp"} == set(token.claims)
    assert 50 <= token.claims["exp"] - time.time() <= 60
    assert token.claims["exp"] - token.claims["iat"] <= 75


@pytest.mark.spec("E23")
def test_an_assertion_is_dated_back_for_servers_with_slow_clocks() -> None:
    keys = ClientKeys(generate_client_keys())

    claims = decode(keys, keys.assertion(keys.signing_kid, CLIENT_ID, ISSUER)).claims

    assert 5 <= time.time() - claims["iat"] <= 15


@pytest.mark.spec("E22")
def test_no_two_assertions_have_the_same_jti() -> None:
    keys = ClientKeys(generate_client_keys())

    tokens = [keys.assertion(keys.signing_kid, CLIENT_ID, ISSUER) for _ in range(20)]

    assert 20 == len({decode(keys, token).claims["jti"] for token in tokens})


@pytest.mark.spec("E26", "O1", "O2")
def test_the_first_key_signs_new_logins_and_an_old_session_keeps_its_own() -> None:
    old, new = new_jwk(), new_jwk()

    keys = ClientKeys({"keys": [new, old]})

    assert new["kid"] == keys.signing_kid
    assert (new["kid"], old["kid"]) == keys.kids
    assert [new["kid"], old["kid"]] == [key["kid"] for key in keys.public_jwks()["keys"]]
    token = keys.assertion(str(old["kid"]), CLIENT_ID, ISSUER)
    assert old["kid"] == decode(keys, token).header["kid"]


@pytest.mark.spec("O5")
def test_a_session_whose_key_is_gone_is_told_so() -> None:
    for keys in (ClientKeys(generate_client_keys()), ClientKeys.none()):
        with pytest.raises(ClientKeyMissing) as caught:
            keys.assertion("gone", CLIENT_ID, ISSUER)

        assert "gone" == caught.value.kid
        assert "gone" not in keys
    with pytest.raises(ClientKeyMissing):
        _ = ClientKeys.none().signing_kid


@pytest.mark.spec("C14", "P8")
def test_what_is_published_has_no_private_member_and_cannot_be_used_to_change_the_keys() -> None:
    jwk = new_jwk(key_ops=["sign"], secret="s3cret", oth=[1])
    keys = ClientKeys({"keys": [jwk]})

    published = keys.public_jwks()
    published["keys"][0]["kid"] = "other"

    (key,) = keys.public_jwks()["keys"]
    assert {"kty", "crv", "x", "y", "kid", "use", "alg"} == set(key)
    assert jwk["kid"] == key["kid"]
    assert str(jwk["d"]) not in json.dumps(keys.public_jwks())


@pytest.mark.spec("C14")
@pytest.mark.parametrize("name", ["no_kid", "empty_kid"])
def test_a_key_without_an_id_is_refused_as_servers_would_drop_it(name: str) -> None:
    jwk = new_jwk()
    if name == "empty_kid":
        jwk["kid"] = ""
    else:
        del jwk["kid"]

    assert VECTORS["jwk_public"][name]["ok"] is False
    with pytest.raises(ConfigurationError, match="kid"):
        ClientKeys({"keys": [jwk]})


def test_keys_come_as_text_as_file_and_decoded(tmp_path: Path) -> None:
    text = generate_client_keys()
    path = tmp_path / "keys.json"
    path.write_text(text, encoding="utf-8")

    expected = ClientKeys(text).kids

    assert expected == ClientKeys(json.loads(text)).kids
    assert expected == ClientKeys(path).kids
    assert expected == ClientKeys(f" {path}\n").kids
    assert expected == ClientKeys("\n" + text).kids
    assert expected[0] in ClientKeys(path)


def _p384() -> JWK:
    key = ECKey.generate_key("P-384", private=True)
    return {**key.as_dict(private=True), "kid": "a"}


def _rsa() -> JWK:
    key = RSAKey.generate_key(2048, private=True)
    return {**key.as_dict(private=True), "kid": "a", "alg": "RS256"}


def _oct() -> JWK:
    return {**OctKey.generate_key(256).as_dict(private=True), "kid": "a"}


def _public() -> JWK:
    jwk = new_jwk()
    del jwk["d"]
    return jwk


def _mixed() -> JWK:
    one, two = new_jwk(), new_jwk()
    return {**one, "x": two["x"], "y": two["y"]}


WRONG: dict[str, tuple[Callable[[], list[JWK]], str]] = {
    "none": (list[JWK], "keys generate"),
    "not an object": (lambda: [NO_OBJECT], "not a JSON object"),
    "P-384": (lambda: [_p384()], "ES256"),
    "RSA": (lambda: [_rsa()], "ES256"),
    "symmetric": (lambda: [_oct()], "ES256"),
    "RS256": (lambda: [new_jwk(alg="RS256")], "ES256"),
    "alg none": (lambda: [new_jwk(alg="none")], "ES256"),
    "public": (lambda: [_public()], "public key only"),
    "second public": (lambda: [new_jwk(), _public()], "Key 2"),
    "mixed halves": (lambda: [_mixed()], "damaged"),
    "d no base64": (lambda: [new_jwk(d="!!")], "damaged"),
    "d empty": (lambda: [new_jwk(d="")], "damaged"),
    "d of another": (lambda: [new_jwk(d="AAAA")], "damaged"),
    "x of another": (lambda: [new_jwk(x="AAAA")], "damaged"),
    "no y": (lambda: [new_jwk(y=None)], "coordinate"),
    "encryption": (lambda: [new_jwk(use="enc")], "another use"),
    "verify only": (lambda: [new_jwk(key_ops=["verify"])], "may not sign"),
    "kid no text": (lambda: [new_jwk(kid=7)], "kid"),
    "kid two lines": (lambda: [new_jwk(kid="a\nb")], "kid"),
    "kid twice": (lambda: [new_jwk(kid="a"), new_jwk(kid="a")], "twice"),
    "kid too long": (lambda: [new_jwk(kid="\xe9" * 129)], "kid"),
    "key twice": (lambda: [jwk := new_jwk(kid="a"), {**jwk, "kid": "b"}], "second time"),
}


@pytest.mark.spec("C14", "O4")
@pytest.mark.parametrize("case", WRONG)
def test_a_key_that_cannot_serve_stops_start_up(case: str) -> None:
    make, word = WRONG[case]
    members = make()

    with pytest.raises(ConfigurationError, match=word) as caught:
        ClientKeys(json.dumps({"keys": members}))

    said = f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    secrets = [str(jwk["d"]) for jwk in members if jwk is not NO_OBJECT and "d" in jwk]
    assert not [secret for secret in secrets if len(secret) > 4 and secret in said]


@pytest.mark.parametrize(
    "source",
    ["", "[]", "{", '{"keys": 1}', '{"keys": {}}', '{"a":' * 9_000, "no/such/file"],
    ids=lambda source: source[:20],
)
def test_what_is_no_key_set_stops_start_up(source: str) -> None:
    with pytest.raises(ConfigurationError, match="CLIENT_KEYS"):
        ClientKeys(source)


@pytest.mark.spec("P8")
def test_a_key_in_place_of_a_file_name_is_not_repeated(tmp_path: Path) -> None:
    for source in ("MC4CAQAwBQYDK2Vw-secret", "\0secret"):
        with pytest.raises(ConfigurationError) as caught:
            ClientKeys(source)

        assert "secret" not in str(caught.value)
    path = tmp_path / "keys.json"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="not a text file"):
        ClientKeys(path)


@pytest.mark.spec("P8")
def test_keys_never_show_themselves() -> None:
    text = generate_client_keys()
    keys = ClientKeys(text)
    (jwk,) = json.loads(text)["keys"]

    assert "ClientKeys(1 hidden)" == repr(keys)
    assert jwk["d"] not in f"{keys!r}{keys}{keys.__class__.__slots__}"
