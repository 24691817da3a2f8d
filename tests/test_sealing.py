from __future__ import annotations

import base64
import dataclasses
import os
import re
import stat
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from atproto_oauth_asgi.errors import ConfigurationError, SealBroken
from atproto_oauth_asgi.sealing import (
    KeyRing,
    SealContext,
    generate_secret_key,
    key_id_of,
    parse_secret_keys,
)
from atproto_oauth_asgi.secret import make_key_file, read_key_file

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
PLACE = SealContext(
    table="session",
    column="tokens",
    row_id="5f0c",
    did="did:plc:ewvi7nxzyoun6zhxrhs64oiz",
    issuer="https://auth.example.org",
    client_id="https://app.example.com/oauth-client-metadata.json",
)

texts = st.text(st.characters(codec="utf-8"), max_size=20)
places = st.builds(
    SealContext,
    table=texts,
    column=texts,
    row_id=texts,
    did=texts,
    issuer=texts,
    client_id=texts,
)


def test_each_key_derives_what_only_it_can() -> None:
    first, second = KeyRing([NEW, OLD]).derive(b"what for")
    assert (first, second) == tuple(
        HKDF(SHA256(), 32, salt=b"atproto-oauth-asgi seal", info=b"what for").derive(key)
        for key in (NEW, OLD)
    )
    assert KeyRing([NEW]).derive(b"another thing") != (first,)


@given(st.binary(max_size=4000), places)
def test_what_is_sealed_opens_in_its_place(plain: bytes, place: SealContext) -> None:
    ring = KeyRing([NEW, OLD])

    envelope = ring.seal(plain, place)

    assert plain == ring.open(envelope, place)
    assert ring.primary_key_id == key_id_of(envelope)
    assert len(plain) < 8 or plain not in envelope


@given(places, places)
def test_nothing_opens_in_another_place(place: SealContext, other: SealContext) -> None:
    ring = KeyRing([OLD])
    envelope = ring.seal(b"payload", place)

    if place == other:
        assert b"payload" == ring.open(envelope, other)
    else:
        with pytest.raises(SealBroken):
            ring.open(envelope, other)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(SealContext)])
def test_a_row_edited_by_a_thief_does_not_open(field: str) -> None:
    ring = KeyRing([OLD])
    envelope = ring.seal(b"payload", PLACE)
    edited = dataclasses.replace(PLACE, **{field: getattr(PLACE, field) + "x"})

    with pytest.raises(SealBroken) as caught:
        ring.open(envelope, edited)

    assert ring.primary_key_id == caught.value.key_id
    assert str(caught.value) == (
        f"A row of the table {edited.table} does not open in its place: it was edited, copied or"
        " damaged; end the session, and find out who writes to the database."
    )


def test_text_that_slides_from_one_field_into_the_next_does_not_open() -> None:
    ring = KeyRing([OLD])
    envelope = ring.seal(b"payload", dataclasses.replace(PLACE, row_id="ab", did="c"))

    with pytest.raises(SealBroken):
        ring.open(envelope, dataclasses.replace(PLACE, row_id="a", did="bc"))


@given(st.data())
def test_any_changed_byte_is_noticed(data: st.DataObject) -> None:
    ring = KeyRing([NEW, OLD])
    envelope = bytearray(ring.seal(b"a payload", PLACE))
    at = data.draw(st.integers(0, len(envelope) - 1))
    envelope[at] ^= data.draw(st.integers(1, 255))

    with pytest.raises(SealBroken):
        ring.open(bytes(envelope), PLACE)


@pytest.mark.parametrize("envelope", [b"", b"\x01", b"\x01" * 36, b"\x02" + b"\0" * 60])
def test_bytes_that_are_no_envelope_are_refused(envelope: bytes) -> None:
    with pytest.raises(SealBroken) as caught:
        KeyRing([OLD]).open(envelope, PLACE)

    assert caught.value.key_id is None
    assert str(caught.value) == (
        "A sealed column does not hold an envelope of this version; run the version that wrote it,"
        " or end the session."
    )


def test_a_row_is_sealed_anew_each_time_and_under_a_key_of_its_own() -> None:
    ring = KeyRing([OLD])

    assert ring.seal(b"payload", PLACE) != ring.seal(b"payload", PLACE)
    envelope = ring.seal(b"payload", PLACE)
    header, nonce, sealed = envelope[:9], envelope[9:21], envelope[21:]
    fields = [getattr(PLACE, field.name).encode() for field in dataclasses.fields(SealContext)]
    place = b"".join(len(part).to_bytes(4, "big") for part in fields) + b"".join(fields)
    row_key = HKDF(SHA256(), 32, salt=b"atproto-oauth-asgi seal", info=place).derive(OLD)
    assert b"payload" == AESGCM(row_key).decrypt(nonce, sealed, header + place)


def test_keys_rotate_without_a_row_that_does_not_open() -> None:
    before, between, after = KeyRing([OLD]), KeyRing([OLD, NEW]), KeyRing([NEW, OLD])
    old, new = between.seal(b"old", PLACE), after.seal(b"new", PLACE)

    assert before.primary_key_id == between.primary_key_id == key_id_of(old)
    assert after.primary_key_id == key_id_of(new) != key_id_of(old)
    assert between.key_ids == (*before.key_ids, after.primary_key_id)
    assert b"old" == after.open(old, PLACE)
    assert b"new" == between.open(new, PLACE)
    with pytest.raises(SealBroken, match="put that key back") as caught:
        before.open(new, PLACE)
    assert after.primary_key_id == caught.value.key_id


@pytest.mark.spec("P8")
def test_a_ring_never_shows_its_keys() -> None:
    ring = KeyRing([OLD, NEW])

    assert "KeyRing(2 hidden)" == repr(ring)
    assert all(16 == len(key_id) for key_id in ring.key_ids)
    assert OLD.hex()[:16] not in ring.key_ids


@pytest.mark.parametrize(
    ("keys", "word"),
    [([], "empty"), ([OLD[:31]], "31 bytes"), ([OLD, OLD], "twice"), ([OLD * 2], "64 bytes")],
)
def test_a_ring_of_wrong_keys_is_refused(keys: list[bytes], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        KeyRing(keys)


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=4, unique=True))
def test_secret_keys_are_read_with_any_separator_and_padding(keys: list[bytes]) -> None:
    words = [base64.urlsafe_b64encode(key).decode() for key in keys]

    assert tuple(keys) == parse_secret_keys(", ".join(words))
    assert tuple(keys) == parse_secret_keys("\n".join(word.rstrip("=") for word in words) + "\n")


def test_a_generated_key_is_fresh_and_of_32_bytes() -> None:
    one, two = generate_secret_key(), generate_secret_key()

    assert one != two
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", one)
    assert 32 == len(parse_secret_keys(one)[0])


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("short", "Key 1 of SECRET_KEYS"),
        ("!" * 43, "not base64url"),
        ("+/" * 21 + "A", "not base64url"),
        ("A" * 44, "33 bytes"),
        ("A" * 43 + "X", "33 bytes"),
        ("A" * 42, "31 bytes"),
        ("A" * 41, "not base64url"),
        ("\N{FULLWIDTH LATIN CAPITAL LETTER A}" * 43, "not base64url"),
        (f"{'A' * 43} {'A' * 43}=", "Key 2 of SECRET_KEYS is there twice"),
    ],
)
def test_a_wrong_secret_key_says_how_to_make_one_and_is_not_repeated(text: str, word: str) -> None:
    with pytest.raises(ConfigurationError, match=word) as caught:
        parse_secret_keys(text)

    assert "secrets generate" in str(caught.value) or "twice" in word
    assert text not in f"{caught.value} {caught.value.__context__!r}"


def test_a_key_file_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "app.db.key"

    assert read_key_file(path) is None
    keys = make_key_file(path)

    assert keys == make_key_file(path) == read_key_file(path)
    assert [path] == list(tmp_path.iterdir())
    if os.name == "posix":
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)


def test_the_loser_of_a_race_for_the_key_file_uses_the_winners_key(tmp_path: Path) -> None:
    path, found = tmp_path / "key", list[tuple[bytes, ...]]()
    start = threading.Barrier(8)

    def race() -> None:
        start.wait()
        found.append(make_key_file(path))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 8 == len(found)
    assert 1 == len(set(found))
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff", "é".encode(), b"nonsense"])
def test_a_damaged_key_file_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)

    for use in (read_key_file, make_key_file):
        with pytest.raises(ConfigurationError) as caught:
            use(path)
        assert str(caught.value) == (
            f"The key file {path} does not hold a key; put it back from a backup, or delete it and"
            " the database beside it, which cannot be opened without it."
        )

    assert content == path.read_bytes()


def test_a_key_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_key_file(tmp_path)

    assert str(caught.value) == (
        f"The key file {tmp_path} cannot be read; give this process access to it, or set"
        " SECRET_KEYS."
    )


def test_a_place_where_no_key_file_can_be_made_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "key"
    with pytest.raises(ConfigurationError) as caught:
        make_key_file(path)

    assert str(caught.value) == (
        f"The key file {path} cannot be made; let this process write there, or set SECRET_KEYS,"
        " made with `atproto-oauth-asgi secrets generate`."
    )


def test_a_link_to_nowhere_is_not_taken_for_a_key_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.symlink_to(tmp_path / "gone")

    with pytest.raises(ConfigurationError, match="leads nowhere"):
        make_key_file(path)

    assert [path] == list(tmp_path.iterdir())
