from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import cast

import httpx
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey

from atproto_oauth_asgi.dpop import (
    DPoPKey,
    Nonces,
    b64url,
    challenges,
    dpop_error,
    origin_of,
    target_uri,
    token_hash,
)

PDS = "https://pds.birdsong.dev"


def decode(part: str) -> dict[str, object]:
    document: dict[str, object] = json.loads(
        base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    )
    return document


def parts(proof: str) -> tuple[dict[str, object], dict[str, object]]:
    header, claims, _ = proof.split(".")
    return decode(header), decode(claims)


def key_with_short(coordinate: str) -> DPoPKey:
    """Return a key one of whose coordinates begins with a zero byte."""
    for secret in range(1, 5000):
        private = ec.derive_private_key(secret, ec.SECP256R1())
        if getattr(private.public_key().public_numbers(), coordinate) >> 248 == 0:
            return DPoPKey(private)
    raise AssertionError("no such key")


# --- Proofs ----------------------------------------------------------------------------------


@pytest.mark.spec("I1", "I2", "I7")
def test_a_proof_to_an_authorization_server_has_these_members_and_no_others() -> None:
    header, claims = parts(DPoPKey.generate().proof("POST", f"{PDS}/oauth/par", nonce=None))

    assert header["typ"] == "dpop+jwt"
    assert header["alg"] == "ES256"
    assert set(header) == {"typ", "alg", "jwk"}
    jwk = header["jwk"]
    assert isinstance(jwk, dict)
    assert set(jwk) == {"kty", "crv", "x", "y"}  # pyright: ignore[reportUnknownArgumentType]
    assert set(claims) == {"jti", "htm", "htu", "iat"}
    assert claims["htm"] == "POST"
    assert claims["htu"] == f"{PDS}/oauth/par"


@pytest.mark.spec("I2")
@pytest.mark.parametrize("skew", [None, 0, 120, -120])
def test_it_is_dated_by_the_servers_clock(
    monkeypatch: pytest.MonkeyPatch, skew: int | None
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.9)
    key = DPoPKey.generate()
    if skew is None:
        proof = key.proof("GET", PDS, nonce=None)
    else:
        proof = key.proof("GET", PDS, nonce=None, skew=skew)

    assert parts(proof)[1]["iat"] == 1_700_000_000 + (skew or 0)


@pytest.mark.spec("I5", "I6")
def test_nonce_and_token_hash_are_there_when_they_are_given() -> None:
    _, claims = parts(DPoPKey.generate().proof("GET", PDS, nonce='n"\\', ath="hash"))

    assert claims["nonce"] == 'n"\\'
    assert claims["ath"] == "hash"


@pytest.mark.spec("I2", "I3")
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "get", 'X"Y'])
def test_the_method_stands_in_it_as_it_is_sent(method: str) -> None:
    assert parts(DPoPKey.generate().proof(method, PDS, nonce=None))[1]["htm"] == method


@pytest.mark.spec("I2")
def test_no_two_proofs_are_the_same() -> None:
    key = DPoPKey.generate()
    proofs = {str(parts(key.proof("GET", PDS, nonce=None))[1]["jti"]) for _ in range(100)}

    assert len(proofs) == 100
    assert all(len(bytes.fromhex(jti)) == 16 for jti in proofs)


@pytest.mark.spec("I1")
@pytest.mark.parametrize("coordinate", ["x", "y"])
def test_a_coordinate_that_begins_with_zero_keeps_its_length(coordinate: str) -> None:
    key = key_with_short(coordinate)
    proof = key.proof("GET", PDS, nonce=None)
    jwk = parts(proof)[0]["jwk"]

    assert isinstance(jwk, dict)
    assert len(str(jwk["x"])) == len(str(jwk["y"])) == 43  # pyright: ignore[reportUnknownArgumentType]
    assert verified(proof)


def verified(proof: str) -> bool:
    """Check a proof with a JOSE library and with cryptography itself."""
    header, _ = parts(proof)
    jwk = header["jwk"]
    assert isinstance(jwk, dict)
    public = ECKey.import_key({name: str(value) for name, value in jwk.items()})  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    jws.deserialize_compact(
        proof, public, algorithms=["ES256"], registry=jws.JWSRegistry(strict_check_header=False)
    )
    signed, _, signature = proof.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    assert len(raw) == 64
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    try:
        numbers = public.public_key
        assert isinstance(numbers, ec.EllipticCurvePublicKey)
        numbers.verify(der, signed.encode(), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


@pytest.mark.spec("I1")
def test_signatures_hold() -> None:
    key = DPoPKey.generate()

    assert all(verified(key.proof("GET", PDS, nonce=None)) for _ in range(20))


@dataclass
class Signer:
    """Signs with the numbers that a test wants."""

    r: int
    s: int

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return ec.derive_private_key(1, ec.SECP256R1()).public_key()

    def sign(self, data: bytes, algorithm: ec.ECDSA) -> bytes:
        return encode_dss_signature(self.r, self.s)


_NUMBERS = st.one_of(st.integers(1, 2**256 - 1), st.integers(1, 2**16), st.just(2**255))


@pytest.mark.spec("I1")
@given(_NUMBERS, _NUMBERS)
def test_both_numbers_of_a_signature_keep_their_length(r: int, s: int) -> None:
    key = DPoPKey(cast("ec.EllipticCurvePrivateKey", Signer(r, s)))
    signature = key.proof("GET", PDS, nonce=None).rpartition(".")[2]

    assert base64.urlsafe_b64decode(signature + "==") == r.to_bytes(32) + s.to_bytes(32)


def test_base64url_has_no_padding_and_keeps_every_letter() -> None:
    assert [b64url(data) for data in (b"", b"\xfb", b"\xfb\xff", b"\xfb\xff\x17")] == [
        "",
        "-w",
        "-_8",
        "-_8X",
    ]


@pytest.mark.spec("I8")
def test_a_key_survives_sealing_and_never_shows_its_secret() -> None:
    key = DPoPKey.generate()
    again = DPoPKey.from_der(key.to_der())

    assert again.thumbprint == key.thumbprint
    assert verified(again.proof("GET", PDS, nonce=None))
    assert repr(key) == f"DPoPKey(thumbprint='{key.thumbprint}')"
    assert not hasattr(key, "__dict__")


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP256K1()])
def test_only_p256_keys_are_read(curve: ec.EllipticCurve) -> None:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    der = ec.generate_private_key(curve).private_bytes(
        Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
    )
    with pytest.raises(ValueError, match=r"^not a P-256 private key$"):
        DPoPKey.from_der(der)


@pytest.mark.spec("I8")
def test_the_rfcs_thumbprint() -> None:
    # RFC 9449 §7.1, by way of the public members.
    public = (
        '{"crv":"P-256","kty":"EC","x":"l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",'
        '"y":"9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA"}'
    )

    assert b64url(sha256(public.encode()).digest()) == "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"


@pytest.mark.spec("I5")
def test_the_rfcs_token_hash() -> None:
    token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"

    assert token_hash(token) == "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"


# --- Addresses -------------------------------------------------------------------------------


@pytest.mark.spec("I4")
@pytest.mark.parametrize(
    ("url", "htu"),
    [
        ("https://pds.birdsong.dev/xrpc/a.b.c?repo=x&y=z", f"{PDS}/xrpc/a.b.c"),
        ("https://pds.birdsong.dev/xrpc/a.b.c#f", f"{PDS}/xrpc/a.b.c"),
        ("https://pds.birdsong.dev/xrpc/a.b.c?", f"{PDS}/xrpc/a.b.c"),
        ("https://PDS.birdsong.DEV:443/Path", f"{PDS}/Path"),
        ("https://pds.birdsong.dev", f"{PDS}/"),
        ("https://pds.birdsong.dev:8443/x", f"{PDS}:8443/x"),
        ("http://127.0.0.1:80/x", "http://127.0.0.1/x"),
        ("HTTPS://PDS.birdsong.dev:443/x", f"{PDS}/x"),
        ("HTTP://[::1]:80/x", "http://[::1]/x"),
        ("http://pds.birdsong.dev:443/x", "http://pds.birdsong.dev:443/x"),
        ("http://[::1]:2583/x", "http://[::1]:2583/x"),
        ("https://pds.birdsong.dev/a%2Fb%20c/%C3%BC", f"{PDS}/a%2Fb%20c/%C3%BC"),
        ("https://user:pw@pds.birdsong.dev/x", f"{PDS}/x"),
    ],
)
def test_the_address_in_a_proof_has_no_query_and_the_path_as_it_is_sent(url: str, htu: str) -> None:
    assert target_uri(httpx.URL(url)) == htu


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        (f"{PDS}/x?y", PDS),
        ("https://PDS.birdsong.dev:443/", PDS),
        ("http://127.0.0.1:8000/x", "http://127.0.0.1:8000"),
        ("http://[::1]/x", "http://[::1]"),
        ("https://user@pds.birdsong.dev/", PDS),
        ("HTTPS://pds.birdsong.dev:443", PDS),
        ("HTTP://[::1]:80", "http://[::1]"),
    ],
)
def test_origins_are_written_in_one_way(url: str, origin: str) -> None:
    assert origin_of(httpx.URL(url)) == origin


# --- Nonces ----------------------------------------------------------------------------------


def given_nonce(*values: str) -> httpx.Headers:
    return httpx.Headers([("DPoP-Nonce", value) for value in values])


@pytest.mark.spec("I9")
def test_each_origin_has_the_newest_of_its_own_nonces() -> None:
    nonces = Nonces()
    assert nonces.learn(PDS, given_nonce("one")) == "one"
    nonces.learn("https://other.birdsong.dev", given_nonce("theirs"))
    nonces.learn(PDS, given_nonce("two"))
    assert nonces.learn(PDS, httpx.Headers()) is None

    assert nonces.get(PDS) == "two"
    assert nonces.get("https://other.birdsong.dev") == "theirs"
    assert nonces.get("https://third.birdsong.dev") is None


@pytest.mark.spec("I14")
@pytest.mark.parametrize(
    "values",
    [("",), ("a b",), ('a"b',), ("a\\b",), ("a\tb",), ("a\x7fb",), ("a" * 1025,), ("a", "a")],
)
def test_nonces_that_are_none_are_not_kept(values: tuple[str, ...]) -> None:
    nonces = Nonces()
    nonces.learn(PDS, given_nonce("good"))

    assert nonces.learn(PDS, given_nonce(*values)) is None
    assert nonces.get(PDS) == "good"


@pytest.mark.spec("I9")
def test_a_new_session_starts_with_what_others_learnt_and_goes_its_own_way() -> None:
    shared = Nonces()
    one, two = Nonces(shared), Nonces(shared)
    one.learn(PDS, given_nonce("first"))
    assert two.get(PDS) == "first"
    two.learn(PDS, given_nonce("second"))

    assert one.get(PDS) == "first"
    assert shared.get(PDS) == "second"


def test_nonces_of_many_origins_do_not_fill_the_memory() -> None:
    nonces = Nonces()
    origins = [f"https://pds{number}.birdsong.dev" for number in range(Nonces.LIMIT)]
    for origin in [*origins, origins[0]]:
        nonces.learn(origin, given_nonce("n"))
    assert None not in {nonces.get(origin) for origin in origins}

    nonces.learn(PDS, given_nonce("n"))

    # The one that was heard of least recently.
    assert [origin for origin in origins if nonces.get(origin) is None] == [origins[1]]
    assert nonces.get(PDS) == "n"


# --- Challenges ------------------------------------------------------------------------------


def www(*values: str) -> httpx.Headers:
    return httpx.Headers([("WWW-Authenticate", value) for value in values])


@pytest.mark.spec("I10", "I17")
@pytest.mark.parametrize(
    ("values", "error"),
    [
        (('DPoP error="use_dpop_nonce"',), "use_dpop_nonce"),
        (('DPoP algs="ES256", error="invalid_token"',), "invalid_token"),
        (('Bearer realm="x", DPoP algs="ES256 RS256", error="use_dpop_nonce"',), "use_dpop_nonce"),
        (('DPoP error="invalid_token", Bearer error="other"',), "invalid_token"),
        (('Bearer error="invalid_token"', 'DPoP error="use_dpop_nonce"'), "use_dpop_nonce"),
        (("dpop error=use_dpop_nonce",), "use_dpop_nonce"),
        (('DPOP ERROR = "invalid_token"',), "invalid_token"),
        (('Basic, DPoP error="invalid_token"',), "invalid_token"),
        (('Negotiate abc==, DPoP error="invalid_token"',), "invalid_token"),
        (
            ('DPoP error_description="say \\"hi\\", error=x", error="invalid_token"',),
            "invalid_token",
        ),
        (('Bearer error="use_dpop_nonce"',), None),
        (("DPoP",), None),
        (('DPoP algs="error=use_dpop_nonce"',), None),
        (("",), None),
        ((), None),
    ],
)
def test_challenges_are_read_in_any_order_and_spelling(
    values: tuple[str, ...], error: str | None
) -> None:
    assert dpop_error(www(*values)) == error


@pytest.mark.spec("I17")
@given(st.text(st.characters(codec="ascii", exclude_characters="\r\n\0"), max_size=200))
def test_no_header_breaks_the_reading(text: str) -> None:
    for challenge in challenges(www(text, f'DPoP error="x", {text}')):
        assert challenge.scheme == challenge.scheme.lower()
