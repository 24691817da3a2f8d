"""Every recorded answer of the reference packages is ours, or differs for a reason."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import pytest

from tests.vectors.cases import VECTORS, recorded
from tests.vectors.differences import DIFFERENCES, reason_for
from tests.vectors.ours import answer

#: The rules that each kind of case is about.
RULES = {
    "client_id_discoverable": ("C4", "C5"),
    "client_id_loopback": ("D2", "D3"),
    "loopback_metadata_default": ("D1",),
    "loopback_build": ("D2",),
    "redirect_uri": ("C18", "C19"),
    "redirect_uri_match": ("C10", "D3"),
    "issuer": ("B3",),
    "token_response": ("H2", "H3", "H4", "H5", "H8", "H9"),
    "atproto_did": ("A13", "A14", "A15"),
    "did_service_ref": ("M2",),
    "scope": ("M2", "M3", "M4", "M8"),
    "scope_string": ("M1", "C9"),
    "include_expansion": ("M5",),
    "jwk_public": ("C14",),
}

_KEYS: dict[str, dict[str, object]] = {
    "no_kid": {},
    "empty_kid": {"kid": ""},
    "with_kid": {"kid": "k"},
    "with_use_sig": {"kid": "k", "use": "sig"},
    "use_enc": {"kid": "k", "use": "enc"},
    "use_and_ops_conflict": {"kid": "k", "use": "sig", "key_ops": ["encrypt"]},
    "revoked": {"kid": "k", "revoked": {"revoked_at": 1}},
}


def _read(kind: str, case: Any) -> tuple[str, object, object]:
    """Return the kind of question, the question and the reference's answer of a recorded case."""
    match kind:
        case "client_id_loopback":
            told = case["atproto"]
            return kind, case["value"], None if "error" in told else told
        case "loopback_metadata_default":
            return "loopback_metadata", VECTORS[kind]["client_id"], VECTORS[kind]
        case "loopback_build":
            result = case["result"]
            built = answer("client_id_loopback", result) if isinstance(result, str) else None
            return kind, case["config"], built
        case "redirect_uri_match":
            return kind, case, case["match"]
        case "token_response":
            return kind, case[1]["input"], case[1]["ok"]
        case "scope":
            return kind, case["value"], case["normalized"]
        case "scope_string":
            told = {name: case[name] for name in ("oauth_syntax", "atproto")}
            return kind, case["value"], told
        case "include_expansion":
            return kind, case, case["scopes"]
        case "jwk_public":
            return kind, _KEYS[case[0]], case[1]["ok"]
        case _:
            return kind, case["value"], case["ok"]


def _cases() -> list[Any]:
    found: list[Any] = []
    for kind, rules in RULES.items():
        cases = [None] if kind == "loopback_metadata_default" else recorded(kind)
        found += [
            pytest.param(*_read(kind, case), marks=pytest.mark.spec(*rules), id=f"{kind} {number}")
            for number, case in enumerate(cases)
        ]
    return found


@pytest.mark.parametrize(("kind", "case", "theirs"), _cases())
def test_a_recorded_answer_is_ours_too(kind: str, case: object, theirs: object) -> None:
    ours = answer(kind, case)

    if kind == "loopback_build":
        # Ours always names the redirect URI, for ports are to vary.
        assert _scope_of(ours) == _scope_of(theirs)
    else:
        assert ours == theirs or reason_for(kind, case, ours, theirs), (case, ours, theirs)


def _scope_of(client: Any) -> object:
    return client and client["scope"]


@pytest.mark.spec("M4")
@pytest.mark.parametrize("case", recorded("scope"), ids=lambda case: case["value"])
def test_what_the_reference_calls_known_is_known(case: Any) -> None:
    told = cast("dict[str, bool]", answer("scope_string", case["value"]))

    assert told["oauth_syntax"] is case["oauth_syntax"]
    assert (answer("scope", case["value"]) is not None) is case["known"]


def test_no_kind_is_left_out() -> None:
    assert set(RULES) == set(VECTORS)


def test_how_many_recorded_answers_differ() -> None:
    differing = Counter(
        kind
        for kind in RULES
        if kind not in {"loopback_metadata_default", "loopback_build"}
        for _, case, theirs in [_read(kind, one) for one in recorded(kind)]
        if answer(kind, case) != theirs
    )

    # Whoever changes one of these numbers has changed what is accepted.
    assert differing == {
        "client_id_discoverable": 6,
        "redirect_uri": 5,
        "issuer": 1,
        "token_response": 3,
        "atproto_did": 2,
        "jwk_public": 1,
    }


def test_every_difference_has_a_reason_of_its_own() -> None:
    assert all(difference.reason.endswith(".") for difference in DIFFERENCES)
