"""Thousands of generated questions of syntax: the reference packages and we answer alike."""

from __future__ import annotations

import json
import subprocess
from base64 import urlsafe_b64decode
from collections import Counter, defaultdict
from random import Random
from typing import Any
from urllib.parse import quote

import pytest

from atproto_oauth_asgi.dpop import DPoPKey
from atproto_oauth_asgi.errors import ConfigurationError
from atproto_oauth_asgi.keys import ClientKeys, generate_client_keys
from atproto_oauth_asgi.settings import Settings
from tests.reference.install import Installed
from tests.vectors.cases import MAKERS, cases, mutated, scope_token
from tests.vectors.differences import reason_for
from tests.vectors.ours import answer

SEED = 20261126
EACH = 1500


def ask(installed: Installed, questions: list[tuple[str, Any]]) -> list[Any]:
    """Let the reference packages answer."""
    done = subprocess.run(
        [installed.node, installed.scripts / "parsers.mjs"],
        input=json.dumps(questions),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers: list[Any] = json.loads(done.stdout)
    assert len(answers) == len(questions)
    return answers


@pytest.mark.spec(
    "A1", "A13", "A14", "A15", "A17", "B3", "C4", "C10", "C14", "C18", "D1", "D2", "D3",
    "E4", "H2", "H4", "H5", "I4", "M2", "M3", "M4", "M5", "M8",
)  # fmt: skip
def test_generated_questions_have_the_same_answers(reference_install: Installed) -> None:
    questions = list(cases(SEED, EACH))
    unexplained: list[object] = []
    agreed: dict[str, Counter[str]] = defaultdict(Counter)
    for (kind, case), theirs in zip(questions, ask(reference_install, questions), strict=True):
        ours = json.loads(json.dumps(answer(kind, case)))
        if ours == theirs:
            agreed[kind][json.dumps(ours)] += 1
        elif reason_for(kind, case, ours, theirs) is None:
            unexplained.append((kind, case, ours, theirs))

    assert unexplained == []
    # Questions that all have one answer would show nothing.
    for kind, answers in agreed.items():
        assert kind == "pkce" or answers.most_common(2)[-1][1] >= 5, kind
    assert set(agreed) == set(MAKERS)


@pytest.mark.spec("M2", "M8")
def test_what_we_print_reads_back_as_the_same_at_the_reference(
    reference_install: Installed,
) -> None:
    random = Random(SEED)
    tokens = [scope_token(random) for _ in range(EACH)]
    printed = [str(one) for one in (answer("scope", token) for token in tokens) if one is not None]
    again = ask(reference_install, [("scope", one) for one in printed])

    # The reference's own print of a few does not read back; see `differences`.
    assert [
        one for one, theirs in zip(printed, again, strict=True)
        if theirs != one and not reason_for("scope", one, one, theirs)
    ] == []  # fmt: skip


@pytest.mark.spec("C3", "C7", "C8", "C10", "C11", "C12", "C13", "C14", "C18", "C23", "I1", "O4")
def test_documents_and_keys_that_we_publish_are_accepted(reference_install: Installed) -> None:
    random = Random(SEED)
    questions: list[tuple[str, Any]] = []
    for _ in range(300):
        base_url = mutated(random, "https://app.example.com/site")
        keys = random.choice((None, ClientKeys(generate_client_keys())))
        try:
            metadata = Settings(
                base_url=base_url,
                client_name="Birdsong",
                scope="atproto repo:app.bsky.feed.post",
                optional_scope="blob:image/*",
                client_keys=keys,
                secret_keys=(b"k" * 32,),
            ).client_metadata
        except ConfigurationError:
            continue
        questions += [
            ("client_metadata", metadata.document()),
            ("client_id_discoverable", metadata.client_id),
            ("redirect_uri", metadata.redirect_uri),
        ]
        questions += [("jwk_public", key) for key in (keys.public_jwks()["keys"] if keys else ())]
    accepted = ask(reference_install, questions)

    assert len(questions) > 60
    assert [question for question, fine in zip(questions, accepted, strict=True) if not fine] == []


@pytest.mark.spec("I1", "O4")
def test_thumbprints_are_the_same(reference_install: Installed) -> None:
    keys = [ClientKeys(generate_client_keys()).public_jwks()["keys"][0] for _ in range(20)]
    proofs = [DPoPKey.generate() for _ in range(20)]
    public = [_jwk(proof.proof("GET", "https://a.example/", nonce=None)) for proof in proofs]
    theirs = ask(reference_install, [("thumbprint", key) for key in (*keys, *public)])

    assert theirs == [*(key["kid"] for key in keys), *(proof.thumbprint for proof in proofs)]


def _jwk(proof: str) -> dict[str, str]:
    header: dict[str, Any] = json.loads(urlsafe_b64decode(proof.partition(".")[0] + "=="))
    jwk: dict[str, str] = header["jwk"]
    return jwk


@pytest.mark.spec("M2")
def test_an_audience_is_quoted_as_the_reference_quotes_it(reference_install: Installed) -> None:
    tokens = [
        f"rpc:com.example.get?aud={quote(f'did:web:a.example.com#{fragment}', safe=':')}"
        for fragment in ("svc", "a-b", "a.b", "a_b", "a:b", "a@b", "a/b")
    ]

    assert ask(reference_install, [("scope", token) for token in tokens]) == [
        answer("scope", token) for token in tokens
    ]
