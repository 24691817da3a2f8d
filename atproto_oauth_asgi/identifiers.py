"""What names an account: handles, DIDs, and what people type to say who they are."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final, NewType
from urllib.parse import unquote

from atproto_oauth_asgi.errors import InvalidIdentifier, UnsupportedDID
from atproto_oauth_asgi.origins import is_domain_name, parse_origin

Did = NewType("Did", str)
"""A DID of an AT Protocol account: the only key under which an app should file a person."""

Handle = NewType("Handle", str)
"""A handle in lower case. It is for display; it may belong to somebody else tomorrow."""

_MAX_DID = 2048

_DID = re.compile(r"did:[a-z]+:[a-zA-Z0-9._:%-]*[a-zA-Z0-9._-]")
_DID_PLC = re.compile(r"did:plc:[a-z2-7]{24}")
_LOCAL_WEB = re.compile(r"localhost(?:%3A([1-9][0-9]{0,4}))?")
_MAX_PORT = 65_535

#: Top-level domains that no public name can have (atproto: Handle, "Additional Non-Syntax").
_RESERVED_TLDS: Final = frozenset(
    {"alt", "arpa", "example", "internal", "invalid", "local", "localhost", "onion"}
)

_MAX_TYPED = 4096
_KEPT_AS_EVIDENCE = 253

# `https://bsky.app/profile/alice.example.com/post/…`, with or without the scheme.
_PROFILE = re.compile(r"(?:https?://)?[^/?#@\s]+/profile/@?([^/?#]+)(?:[/?#].*)?", re.IGNORECASE)
_AT_URI = re.compile(r"at://([^/?#]+)(?:[/?#].*)?", re.IGNORECASE)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://.*", re.IGNORECASE)

# Marks without a glyph that are neither control (Cc) nor format (Cf) characters.
_INVISIBLE_MARKS = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0xFE00, 0xFE10)}


def is_reserved(name: str, *, allow_test: bool) -> bool:
    """Return whether the name lies under a top-level domain that must never be looked up."""
    tld = name.rpartition(".")[2]
    return tld in _RESERVED_TLDS or (tld == "test" and not allow_test)


def parse_handle(text: str, *, allow_test: bool = False) -> Handle:
    """Return the handle in lower case.

    Args:
        text: A handle and nothing else: no `@`, no spaces.
        allow_test: Whether names under `.test` are welcome, as in development.

    Raises:
        InvalidIdentifier: It is no handle, or its top-level domain is reserved.
    """
    if not is_domain_name(text):
        raise InvalidIdentifier(
            "This is not a handle; give a full domain name such as alice.bsky.social.",
            identifier=text[:_KEPT_AS_EVIDENCE],
        )
    handle = Handle(text.lower())
    if is_reserved(handle, allow_test=allow_test):
        raise InvalidIdentifier(
            "The handle ends in a reserved top-level domain and cannot be resolved; "
            "`.test` is for ALLOW_INSECURE_LOOPBACK only.",
            identifier=handle,
        )
    return handle


def parse_did(text: str, *, allow_test: bool = False, allow_insecure: bool = False) -> Did:
    """Return the text as a DID that an AT Protocol account can have: did:plc or did:web.

    Args:
        text: The DID, in its exact spelling; DIDs are case-sensitive.
        allow_test: Whether did:web names under `.test` are welcome.
        allow_insecure: Whether `did:web:localhost%3A<port>` is welcome, as in development.

    Raises:
        InvalidIdentifier: It is no DID at all.
        UnsupportedDID: It is a DID, but of another method, or a did:web with a path or a port.
    """
    if len(text) > _MAX_DID or _DID.fullmatch(text) is None:
        raise InvalidIdentifier(
            "This is not a DID; a DID looks like did:plc:… or did:web:….",
            identifier=text[:_KEPT_AS_EVIDENCE],
        )
    method, _, name = text.removeprefix("did:").partition(":")
    if method == "plc":
        supported = _DID_PLC.fullmatch(text) is not None
    elif method == "web":
        supported = _is_web_name(name, allow_test=allow_test) or (
            allow_insecure and _is_local_web_name(name)
        )
    else:
        supported = False
    if not supported:
        raise UnsupportedDID(
            "AT Protocol accounts have a did:plc of 32 characters or a did:web of a public host "
            "name without path and port; use one of those.",
            identifier=text,
        )
    return Did(text)


def _is_web_name(name: str, *, allow_test: bool) -> bool:
    # Upper case would give one host several DIDs, so several accounts.
    return (
        name == name.lower()
        and is_domain_name(name)
        and not is_reserved(name, allow_test=allow_test)
    )


def _is_local_web_name(name: str) -> bool:
    match = _LOCAL_WEB.fullmatch(name)
    return match is not None and int(match[1] or 80) <= _MAX_PORT


@dataclass(frozen=True, slots=True, kw_only=True)
class HandleInput:
    """Is a handle to log in with."""

    handle: Handle


@dataclass(frozen=True, slots=True, kw_only=True)
class DidInput:
    """Is a DID to log in with."""

    did: Did


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInput:
    """Is the origin of a PDS or of an authorization server; the account is chosen there."""

    origin: str


def parse_identifier(
    text: str, *, allow_test: bool = False, allow_insecure: bool = False
) -> HandleInput | DidInput | ServerInput:
    """Understand what somebody typed or pasted, without asking anybody.

    A handle may come with `@`, spaces, capitals, full-width letters or invisible characters, as
    `at://…`, or as the address of a profile page. A server must come with its scheme, since
    `bsky.social` alone is a well-formed handle (atproto OAuth: Identity Authentication).

    Args:
        text: The text as it was typed.
        allow_test: Whether handles under `.test` are welcome.
        allow_insecure: Whether `http://` loopback servers and did:web:localhost are welcome.

    Raises:
        InvalidIdentifier: It is none of these; its `sentence` tells the person what to enter.
        UnsupportedDID: It is a DID that no AT Protocol account can have.
    """
    if len(text) > _MAX_TYPED:
        raise _refused(text, "That is too long. Please enter your handle.")
    typed = _visible(text)
    found = _PROFILE.fullmatch(typed) or _AT_URI.fullmatch(typed)
    if found is not None:
        return _account(unquote(found[1]), allow_test=allow_test, allow_insecure=allow_insecure)
    if _URL.fullmatch(typed):
        return _server(typed, allow_insecure=allow_insecure)
    return _account(typed.removeprefix("@"), allow_test=allow_test, allow_insecure=allow_insecure)


def _visible(text: str) -> str:
    # NFKC turns the full-width letters, dots and at signs of East Asian keyboards into ASCII.
    folded = unicodedata.normalize("NFKC", text)
    return "".join(
        character
        for character in folded
        if unicodedata.category(character) not in {"Cc", "Cf", "Co", "Cs", "Cn"}
        and ord(character) not in _INVISIBLE_MARKS
    ).strip()


def _account(name: str, *, allow_test: bool, allow_insecure: bool) -> HandleInput | DidInput:
    if name.startswith("did:"):
        try:
            did = parse_did(name, allow_test=allow_test, allow_insecure=allow_insecure)
        except InvalidIdentifier as exc:
            raise _refused(name, "That DID is not complete or has a typing error.") from exc
        return DidInput(did=did)
    if not name:
        raise _refused(name, "Please enter your handle, for example alice.bsky.social.")
    if "@" in name:
        raise _refused(
            name,
            "That looks like an e-mail address. Please enter your handle instead, "
            "for example alice.bsky.social.",
        )
    if not is_domain_name(name):
        raise _refused(
            name, "Please enter your full handle with its dots, for example alice.bsky.social."
        )
    try:
        return HandleInput(handle=parse_handle(name, allow_test=allow_test))
    except InvalidIdentifier as exc:
        raise _refused(name, "Handles with that ending cannot be used to sign in.") from exc


def _server(url: str, *, allow_insecure: bool) -> ServerInput:
    origin = parse_origin(url, allow_insecure=allow_insecure)
    if origin is None:
        raise _refused(
            url,
            "Please enter your handle, or only the address of your server, "
            "for example https://pds.example.com.",
        )
    return ServerInput(origin=origin)


def _refused(text: str, sentence: str) -> InvalidIdentifier:
    # People type passwords into the wrong field: the text is evidence, never part of a message.
    error = InvalidIdentifier(sentence, identifier=text[:_KEPT_AS_EVIDENCE])
    error.sentence = sentence
    return error
