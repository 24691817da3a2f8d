"""The permission grammar: what one scope token means and its one spelling.

`atproto Permissions: Scope String Syntax`. A token is read once into one of the frozen classes
below; `str()` of it is the canonical spelling. Authorization servers compare requested and
declared scopes as literal strings, so every part of this package writes the canonical one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import parse_qsl, quote, unquote

STATIC_SCOPES = ("atproto", "transition:generic", "transition:chat.bsky", "transition:email")
REPO_ACTIONS = ("create", "update", "delete")
ACCOUNT_ACTIONS = ("read", "manage")
ACCOUNT_ATTRIBUTES = ("email", "repo")
IDENTITY_ATTRIBUTES = ("handle", "*")

# Parameters of each resource, the positional one first; True where it may be repeated.
_PARAMETERS: Mapping[str, Mapping[str, bool]] = {
    "repo": {"collection": True, "action": True},
    "rpc": {"lxm": True, "aud": False},
    "blob": {"accept": True},
    "account": {"attr": False, "action": True},
    "identity": {"attr": False},
    "include": {"nsid": False, "aud": False},
}
RESOURCES = tuple(_PARAMETERS)

# Granted scopes are a server's words: what is cached must stay small whatever it sends.
_CACHED_LENGTH = 512

_TOKEN = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
_NSID = re.compile(
    r"[a-zA-Z](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
    r"(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)+"
    r"\.[a-zA-Z][a-zA-Z0-9]{0,62}"
)
_NSID_LENGTH, _AUTHORITY_LENGTH = 317, 253
_SERVICE = re.compile(
    r"did:(?:plc:[a-z2-7]{24}"
    r"|web:(?:localhost%3A[0-9]{1,5}|[a-zA-Z0-9](?:[a-zA-Z0-9._-]*[a-zA-Z0-9])?))"
    r"#(?:[a-zA-Z0-9._~!$&'()*+,;=:@/?-]|%[0-9a-fA-F]{2})+"
)
_MIME = re.compile(r"\*/\*|[^\s/*]+/(?:\*|[^\s/*]+)")
_STRAY_PERCENT = re.compile(r"%(?![0-9a-fA-F]{2})")


def is_nsid(text: str) -> bool:
    """Tell whether the text is an NSID (`atproto NSID: Syntax`)."""
    return (
        len(text) <= _NSID_LENGTH
        and _NSID.fullmatch(text) is not None
        and len(text.rpartition(".")[0]) <= _AUTHORITY_LENGTH
    )


def is_scope_string(text: str) -> bool:
    """Tell whether the text is an OAuth scope value: tokens and single spaces (RFC 6749 §3.3)."""
    return all(_TOKEN.fullmatch(token) for token in text.split(" "))


def _spell(resource: str, named: Mapping[str, Sequence[str]]) -> str:
    """Write a permission; the first parameter is positional when it has one value."""
    first, *others = _PARAMETERS[resource]
    positional = ""
    if len(named[first]) == 1:
        positional = ":" + quote(named[first][0], safe="!*'():/+,@")
    else:
        others = [first, *others]
    # A raw "+" would read as a space, so here it stays encoded, unlike in the positional part.
    pairs = [f"{name}={quote(value, safe='*:/,@')}" for name in others for value in named[name]]
    return f"{resource}{positional}" + ("?" + "&".join(pairs) if pairs else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticScope:
    """Is one of the fixed words: `atproto` and the three `transition:` scopes."""

    value: str

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoPermission:
    """Allows writing records of the collections (NSIDs, or `*`) with the actions."""

    collections: tuple[str, ...]
    actions: tuple[str, ...] = REPO_ACTIONS

    def __str__(self) -> str:
        actions = () if self.actions == REPO_ACTIONS else self.actions
        return _spell("repo", {"collection": self.collections, "action": actions})


@dataclass(frozen=True, slots=True, kw_only=True)
class RPCPermission:
    """Allows calling the methods (NSIDs, or `*`) of a service (`DID#fragment`, or `*`)."""

    methods: tuple[str, ...]
    audience: str

    def __str__(self) -> str:
        return _spell("rpc", {"lxm": self.methods, "aud": (self.audience,)})


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobPermission:
    """Allows uploading blobs of the MIME patterns (`type/subtype`, `type/*` or `*/*`)."""

    accept: tuple[str, ...]

    def __str__(self) -> str:
        return _spell("blob", {"accept": self.accept})


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountPermission:
    """Allows reading or managing one attribute of the account's hosting."""

    attribute: str
    actions: tuple[str, ...] = ("read",)

    def __str__(self) -> str:
        actions = () if self.actions == ("read",) else self.actions
        return _spell("account", {"attr": (self.attribute,), "action": actions})


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityPermission:
    """Allows changing the handle, or with `*` the whole identity."""

    attribute: str

    def __str__(self) -> str:
        return _spell("identity", {"attr": (self.attribute,)})


@dataclass(frozen=True, slots=True, kw_only=True)
class IncludeScope:
    """Asks for a published permission set by NSID; `audience` is what its `rpc`s may inherit."""

    nsid: str
    audience: str | None = None

    def __str__(self) -> str:
        audience = () if self.audience is None else (self.audience,)
        return _spell("include", {"nsid": (self.nsid,), "aud": audience})

    def has_authority_over(self, nsid: str) -> bool:
        """Tell whether the NSID lies in the set's own group or below it."""
        return nsid.startswith(self.nsid.rpartition(".")[0] + ".")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownScope:
    """Is a token that this version does not understand; it means nothing but its own letters."""

    text: str
    #: Why it was not understood, for a developer.
    reason: str = field(compare=False, default="it is not a known scope")

    def __str__(self) -> str:
        return self.text


Permission = (
    RepoPermission | RPCPermission | BlobPermission | AccountPermission | IdentityPermission
)
Scope = StaticScope | Permission | IncludeScope | UnknownScope
_Known = Permission | IncludeScope
_Values = Mapping[str, Sequence[str]]


class _NotUnderstoodError(ValueError):
    """Carries the reason why a token is not a permission."""


def parse_scope(token: str) -> Scope:
    """Read one scope token; what is not understood comes back as `UnknownScope`, never an error."""
    if len(token) <= _CACHED_LENGTH:
        return _parse_cached(token)
    return _parse(token)


def _parse(token: str) -> Scope:
    if token in STATIC_SCOPES:
        return StaticScope(value=token)
    try:
        return _read(token)
    except _NotUnderstoodError as exc:
        return UnknownScope(text=token, reason=str(exc))


_parse_cached = lru_cache(maxsize=1024)(_parse)


def _read(token: str) -> _Known:
    if not _TOKEN.fullmatch(token):
        raise _NotUnderstoodError("it has a character that a scope cannot have")
    head, _, query = token.partition("?")
    resource, colon, positional = head.partition(":")
    if resource not in _PARAMETERS:
        raise _NotUnderstoodError(f"“{resource}” is not a known resource")
    values: dict[str, list[str]] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        values.setdefault(name, []).append(value)
    if colon:
        first = next(iter(_PARAMETERS[resource]))
        if first in values:
            raise _NotUnderstoodError(f"“{first}” is given twice, by position and by name")
        if _STRAY_PERCENT.search(positional):
            raise _NotUnderstoodError("it has a “%” that encodes nothing")
        try:
            values[first] = [unquote(positional, errors="strict")]
        except UnicodeDecodeError as exc:
            raise _NotUnderstoodError("it has a “%” that encodes no text") from exc
    return _build(resource, values)


def _build(resource: str, values: _Values) -> _Known:
    parameters = _PARAMETERS[resource]
    for name, given in values.items():
        if name not in parameters:
            raise _NotUnderstoodError(f"“{resource}” has no parameter “{name}”")
        if len(given) > 1 and not parameters[name]:
            raise _NotUnderstoodError(f"“{name}” may be given only once")
    first = next(iter(parameters))
    if not values.get(first):
        raise _NotUnderstoodError(f"“{resource}” needs “{first}”")
    return _BUILDERS[resource](values)


def permission_from_lexicon(entry: Mapping[str, object]) -> RepoPermission | RPCPermission | None:
    """Read one entry of a permission set; `None` when it is of no use in one.

    Only `repo` and `rpc` may stand in a set; lists must be lists and single values strings.
    """
    resource = entry.get("resource")
    if not isinstance(resource, str) or resource not in {"repo", "rpc"}:
        return None
    values: dict[str, list[str]] = {}
    for name, given in entry.items():
        if name in {"type", "resource"}:
            continue
        items: list[object] = [*given] if isinstance(given, list | tuple) else [given]  # pyright: ignore[reportUnknownVariableType]  # JSON of a stranger
        if _PARAMETERS[resource].get(name) != isinstance(given, list | tuple):
            return None
        values[name] = [item for item in items if isinstance(item, str)]
        if not items or len(values[name]) != len(items):
            return None
    try:
        permission = _build(resource, values)
    except _NotUnderstoodError:
        return None
    return permission if isinstance(permission, RepoPermission | RPCPermission) else None


EXAMPLES: Mapping[str, str] = {
    "repo": "“repo:com.example.post” or “repo:*”",
    "rpc": "“rpc:com.example.getPost?aud=did:web:api.example.com%23service”",
    "blob": "“blob:image/*” or “blob:*/*”",
    "account": "“account:email” or “account:repo?action=manage”",
    "identity": "“identity:handle” or “identity:*”",
    "include": "“include:com.example.authBasic”",
}


def _nsids(given: Sequence[str], what: str) -> tuple[str, ...]:
    for text in given:
        if text != "*" and not is_nsid(text):
            raise _NotUnderstoodError(
                f"“{text}” is no {what}: it must be a whole NSID such as com.example.post, or “*”"
            )
    return ("*",) if "*" in given else tuple(sorted(set(given)))


def _chosen(given: Sequence[str], known: tuple[str, ...], what: str) -> tuple[str, ...]:
    for text in given:
        if text not in known:
            raise _NotUnderstoodError(f"“{text}” is no {what}: use {', '.join(known)}")
    return tuple(text for text in known if text in given)


def _service(text: str) -> str:
    if not _SERVICE.fullmatch(text):
        raise _NotUnderstoodError(
            "“aud” must name a service, as in did:web:api.example.com%23service"
        )
    return text


def _repo(values: _Values) -> RepoPermission:
    return RepoPermission(
        collections=_nsids(values["collection"], "collection"),
        actions=_chosen(values.get("action", REPO_ACTIONS), REPO_ACTIONS, "action"),
    )


def _rpc(values: _Values) -> RPCPermission:
    if "aud" not in values:
        raise _NotUnderstoodError("“rpc” needs “aud”")
    audience = values["aud"][0]
    methods = _nsids(values["lxm"], "method")
    if audience == "*" == methods[0]:
        raise _NotUnderstoodError("“lxm” and “aud” may not both be “*”")
    return RPCPermission(
        methods=methods, audience=audience if audience == "*" else _service(audience)
    )


def _blob(values: _Values) -> BlobPermission:
    accept = {text.lower() for text in values["accept"]}
    for text in accept:
        if not _MIME.fullmatch(text):
            raise _NotUnderstoodError(f"“{text}” is no MIME pattern")
    if "*/*" in accept:
        return BlobPermission(accept=("*/*",))
    return BlobPermission(
        accept=tuple(
            sorted(
                text
                for text in accept
                if text.endswith("/*") or text.partition("/")[0] + "/*" not in accept
            )
        )
    )


def _account(values: _Values) -> AccountPermission:
    (attribute,) = _chosen(values["attr"], ACCOUNT_ATTRIBUTES, "attribute of an account")
    actions = _chosen(values.get("action", ("read",)), ACCOUNT_ACTIONS, "action")
    return AccountPermission(attribute=attribute, actions=actions)


def _identity(values: _Values) -> IdentityPermission:
    (attribute,) = _chosen(values["attr"], IDENTITY_ATTRIBUTES, "attribute of an identity")
    return IdentityPermission(attribute=attribute)


def _include(values: _Values) -> IncludeScope:
    nsid = values["nsid"][0]
    if not is_nsid(nsid):
        raise _NotUnderstoodError(f"“{nsid}” is no NSID of a permission set")
    audience = values.get("aud")
    return IncludeScope(nsid=nsid, audience=_service(audience[0]) if audience else None)


_BUILDERS: Mapping[str, Callable[[_Values], _Known]] = {
    "repo": _repo,
    "rpc": _rpc,
    "blob": _blob,
    "account": _account,
    "identity": _identity,
    "include": _include,
}
