"""Where the embedded network does otherwise than the reference server, and why."""

from __future__ import annotations

from dataclasses import dataclass

from tests.parity.outcome import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Is a row whose outcome is another one on the embedded network."""

    #: Members that are otherwise than in the record.
    embedded: Outcome
    #: The same in words.
    words: str
    #: What an app author should know of it.
    reason: str


_PROXY = Difference(
    embedded={"nonce": True},
    words="asks for a DPoP proof, and its answer carries a nonce",
    reason=(
        "A server without an AppView refuses the call before it looks at its authorization; "
        "the embedded one looks first, as servers with an AppView do."
    ),
)

DIFFERENCES: dict[str, Difference] = {
    "scope atproto: proxied rpc": _PROXY,
    "scope atproto: getPreferences": _PROXY,
    "rpc granted: proxied call": _PROXY,
    "pds unknown method": _PROXY,
    "repo body that is no JSON": Difference(
        embedded={
            "body": {
                "error": "SyntaxError",
                "message": (
                    "The body is no JSON: Expecting property name enclosed in double quotes: "
                    "line 1 column 2 (char 1)"
                ),
            }
        },
        words="another sentence",
        reason="The sentence is that of the language the server is written in; the code is equal.",
    ),
    "DID document": Difference(
        embedded={
            "context": [
                "https://www.w3.org/ns/did/v1",
                "https://w3id.org/security/multikey/v1",
                "https://w3id.org/security/suites/secp256k1-2019/v1",
            ],
            "method": {
                "controller": "did:plc:…",
                "id": "did:plc:…#atproto",
                "publicKeyMultibase": "",
                "type": "Multikey",
            },
        },
        words="names the signing key as a Multikey",
        reason=(
            "The directory that can be installed is of 2023 and names the signing key in the "
            "old way; the embedded one writes it as plc.directory does today."
        ),
    ),
}
