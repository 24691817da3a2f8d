"""Where this library and the reference packages differ on purpose, and why.

Each entry is a kind of question, a reason, and what tells that a difference is of this class. A
difference of no class is a defect of one of the two.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote

from atproto_oauth_asgi.identifiers import is_reserved

#: The question, our answer, the reference's.
Test = Callable[[Any, Any, Any], bool]

_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z](?:[a-z0-9-]*[a-z0-9])?")
#: What the WHATWG URL parser of the reference makes another host, port or path of.
_RESPELLED = re.compile(
    r"[^!-~]|[\\^|{}<>`\"'\[]|%|^/|//|/\.|^\w*[A-Z]|:0|:/|:$|0\d|0x|127\.\d+\.?\d*(?:[:/]|$)"
    r"|localhost",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Difference:
    kinds: frozenset[str]
    reason: str
    applies: Test


def _stricter(ours: object, theirs: object) -> bool:
    return (ours is None or ours is False) and theirs is not None and theirs is not False


def _host_of(did: str) -> str:
    return did.removeprefix("did:web:").partition("#")[0]


def _unreachable(did: object) -> bool:
    """Tell a did:web that no server on the internet can have."""
    text = str(did)
    host = _host_of(text)
    return text.startswith("did:web:") and (
        not _HOST.fullmatch(host) or is_reserved(host, allow_test=True)
    )


def _punycode(did: object) -> bool:
    text = str(did)
    return text.startswith("did:web:") and ("xn--" in text.lower() or _host_of(text)[-1:].isdigit())


def _audience(token: str) -> str:
    return unquote(token.partition("aud=")[2].partition("&")[0])


DIFFERENCES = (
    Difference(
        frozenset({"client_id_discoverable", "redirect_uri"}),
        "A BASE_URL makes fewer addresses than servers take: no query, no fragment, no odd path, no"
        " port, a public host name.",
        lambda case, ours, theirs: _stricter(ours, theirs),
    ),
    Difference(
        frozenset({"jwk_public"}),
        "A key for encryption, or for another algorithm than ES256, cannot sign here (C14).",
        lambda case, ours, theirs: (
            _stricter(ours, theirs)
            and (case.get("use") == "enc" or case.get("alg", "ES256") != "ES256")
        ),
    ),
    Difference(
        frozenset({"atproto_did", "did_service_ref"}),
        "The reference's syntax lets did:web names pass that no host can have (capitals, one label,"
        " numbers, `_`) and leaves them to its fetcher; here two spellings are never two accounts.",
        lambda case, ours, theirs: _stricter(ours, theirs) and _unreachable(case),
    ),
    Difference(
        frozenset({"atproto_did", "did_service_ref"}),
        "The reference decodes punycode and numbers in host names, which DNS will do here.",
        lambda case, ours, theirs: ours is True and theirs is False and _punycode(case),
    ),
    Difference(
        frozenset({"scope", "include_expansion"}),
        "As above, for an audience.",
        lambda case, ours, theirs: (
            (_unreachable(_audience(str(case))) or _punycode(_audience(str(case))))
            if isinstance(case, str)
            else _unreachable(case.get("aud"))
        ),
    ),
    Difference(
        frozenset({"issuer"}),
        "As above.",
        lambda case, ours, theirs: ours is True and "xn--" in case.lower(),
    ),
    Difference(
        frozenset({"scope"}),
        "The reference takes a second `?` off; the grammar has one.",
        lambda case, ours, theirs: ours is None and "??" in case,
    ),
    Difference(
        frozenset({"scope"}),
        "The reference asks of the whole scope, not of each token, whether OAuth allows its letters"
        " (`scope_string`).",
        lambda case, ours, theirs: ours is None and re.fullmatch(r"[!#-\[\]-~]+", case) is None,
    ),
    Difference(
        frozenset({"did_document"}),
        "The specification's first handle is the first that is well-formed (A11); the reference"
        " takes the first `at://`.",
        lambda case, ours, theirs: (
            ours is not None and theirs is not None and ours["pds"] == theirs["pds"]
            and theirs["handle"] == "x"
        ),
    ),
    Difference(
        frozenset({"scope"}),
        "`account:status` is the reference's only; the specification has no such attribute (M8).",
        lambda case, ours, theirs: ours is None and str(theirs).startswith("account:status"),
    ),
    Difference(
        frozenset({"scope"}),
        "The reference leaves several actions of an account in the order given; here there is one"
        " spelling, and settings with it are refused (M8).",
        lambda case, ours, theirs: (
            str(theirs).startswith("account:")
            and sorted(re.split("[?&]", str(ours))) == sorted(set(re.split("[?&]", str(theirs))))
        ),
    ),
    Difference(
        frozenset({"scope"}),
        "The reference prints `%25` as `%`, and `+` in parameters as it is: both read back as"
        " something else.",
        lambda case, ours, theirs: (
            str(ours) != theirs
            and str(ours).replace("%25", "%").replace("%2B", "+")
            == str(theirs).replace("%25", "%").replace("%2B", "+")
        ),
    ),
    Difference(
        frozenset({"scope"}),
        "The reference drops doubles before it has written MIME types in lower case.",
        lambda case, ours, theirs: (
            str(case).startswith("blob?")
            and str(theirs).replace("blob?accept=", "blob:").replace("+", "%2B")
            == str(ours).replace("+", "%2B")
        ),
    ),
    Difference(
        frozenset({"allows"}),
        "MIME types have no case (RFC 2045 §5.1); a server writes what it grants in lower case.",
        lambda case, ours, theirs: (
            ours is True and case["resource"] == "Blob"
            and re.search(r"(?:blob:|accept=)\S*[A-Z]", unquote(case["granted"])) is not None
        ),
    ),
    Difference(
        frozenset({"client_id_loopback", "loopback_metadata"}),
        "The reference reads redirect URIs as a browser does (other spellings of loopback, dots,"
        " spaces) and takes a second `?` off; servers compare them as strings, so one is enough.",
        lambda case, ours, theirs: (
            _stricter(ours, theirs)
            and (case.startswith(("http://localhost??", "http://localhost/??"))
                 or any(_RESPELLED.search(uri) for uri in theirs["redirect_uris"]))
        ),
    ),
    Difference(
        frozenset({"redirect_uri_match"}),
        "As above; and only loopback addresses may vary, not the name `localhost`.",
        lambda case, ours, theirs: (
            _stricter(ours, theirs)
            and any(_RESPELLED.search(uri.removeprefix("http://")) for uri in case.values())
        ),
    ),
    Difference(
        frozenset({"issuer"}),
        "The reference's type takes a path and any host; the profile asks for a bare origin (B3),"
        " of a server that can be on the internet.",
        lambda case, ours, theirs: (
            _stricter(ours, theirs)
            and (case.count("/") > 2 or not _HOST.fullmatch(re.split(r"[/:]", case)[3]))
        ),
    ),
    Difference(
        frozenset({"token_response"}),
        "Unknown and unusable members are ignored (RFC 6749 §5.1): `id_token`, an `expires_in` of"
        " another type, `null` for no refresh token, `token_type` in any case.",
        lambda case, ours, theirs: ours is True and theirs is False and (
            "id_token" in case
            or not isinstance(case.get("expires_in"), int | float)
            or isinstance(case.get("expires_in"), bool)
            or case.get("refresh_token", "") is None
            or case["token_type"] != "DPoP"
            or _punycode(case["sub"])
        ),
    ),
    Difference(
        frozenset({"token_response"}),
        "Empty tokens are none; a `sub` has to be an account that can be looked up.",
        lambda case, ours, theirs: _stricter(ours, theirs) and (
            "" in {case["access_token"], case.get("refresh_token")} or _unreachable(case["sub"])
        ),
    ),
    Difference(
        frozenset({"htu"}),
        "What the guard does not let out needs no proof.",
        lambda case, ours, theirs: ours is None,
    ),
    Difference(
        frozenset({"htu"}),
        "Ports beyond 65535 are refused when they are dialled.",
        lambda case, ours, theirs: (
            theirs is None and re.search(r":\+?(?:\d{6}|[7-9]\d{4}|0)", case) is not None
        ),
    ),
    Difference(
        frozenset({"htu"}),
        "The path is the one that httpx sends, which drops dots in other places than a browser.",
        lambda case, ours, theirs: "/." in case,
    ),
)  # fmt: skip


def reason_for(kind: str, case: object, ours: object, theirs: object) -> str | None:
    """Return why the two may differ here; None when they may not."""
    for difference in DIFFERENCES:
        if kind in difference.kinds and difference.applies(cast("Any", case), ours, theirs):
            return difference.reason
    return None
