"""The permission grammar as the reference PDS enforces it; written apart from the library's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote

_NSID = re.compile(
    r"[a-zA-Z](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)+"
    r"\.[a-zA-Z][a-zA-Z0-9]{0,62}"
)
_AUDIENCE = re.compile(r"did:[a-z]+:[A-Za-z0-9._:%-]+#[A-Za-z0-9_.-]+")
_MIME = re.compile(r"\*/\*|[a-z0-9!#$&^_.+-]+/(?:\*|[a-z0-9!#$&^_.+-]+)")
_SCOPE = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+(?: [\x21\x23-\x5B\x5D-\x7E]+)*")
REPO_ACTIONS = ("create", "update", "delete")
_ACTIONS = frozenset(REPO_ACTIONS)
_STATIC = frozenset({"atproto", "transition:generic", "transition:email", "transition:chat.bsky"})
#: Resource → (name of the positional parameter, other parameters).
_SHAPES = {
    "repo": ("collection", {"action"}),
    "rpc": ("lxm", {"aud"}),
    "blob": ("accept", set[str]()),
    "account": ("attr", {"action"}),
    "identity": ("attr", set[str]()),
    "include": ("nsid", {"aud"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """Is one scope value, understood."""

    resource: str
    values: tuple[str, ...]
    parameters: dict[str, tuple[str, ...]]

    def parameter(self, name: str) -> tuple[str, ...]:
        """Return the values of a parameter."""
        return self.parameters.get(name, ())


def parse_permission(scope: str) -> Permission | None:
    """Return the permission that a scope value names; `None` if it is static or ill-formed."""
    head, mark, query = scope.partition("?")
    resource, colon, positional = head.partition(":")
    if resource not in _SHAPES:
        return None
    main, others = _SHAPES[resource]
    parameters: dict[str, tuple[str, ...]] = {}
    if mark:
        for name, value in parse_qsl(query, keep_blank_values=True):
            parameters[name] = (*parameters.get(name, ()), value)
    if colon:
        if main in parameters:
            return None
        parameters[main] = (unquote(positional),)
    values = parameters.pop(main, ())
    permission = Permission(resource=resource, values=values, parameters=parameters)
    if parameters.keys() - others or not values or not well_formed(permission):
        return None
    return permission


def format_permission(permission: Permission) -> str:
    """Return a permission as a scope value, in the reference server's one way to write it."""
    main = _SHAPES[permission.resource][0]
    values = sorted(set(permission.values)) if len(permission.values) > 1 else permission.values
    values = ("*",) if "*" in values else tuple(values)
    head = permission.resource
    pairs: list[tuple[str, str]] = []
    if len(values) == 1:
        head += f":{_escaped(values[0])}"
    else:
        pairs += [(main, value) for value in values]
    for name, given in permission.parameters.items():
        if name == "action" and permission.resource == "repo":
            actions = [action for action in REPO_ACTIONS if action in given]
            pairs += [(name, action) for action in actions if len(actions) < len(REPO_ACTIONS)]
        else:
            pairs += [(name, value) for value in given]
    query = "&".join(f"{name}={_escaped(value)}" for name, value in pairs)
    return f"{head}?{query}" if query else head


def needed(resource: str, value: str, **parameters: str) -> str:
    """Return the scope value that a refusal says is missing."""
    named: dict[str, tuple[str, ...]] = {name: (given,) for name, given in parameters.items()}
    return format_permission(Permission(resource=resource, values=(value,), parameters=named))


def _escaped(value: str) -> str:
    return quote(value, safe=":/+,@%*")


def is_scope(scope: str) -> bool:
    """Say whether a `scope` is well-formed (RFC 6749 §3.3)."""
    return _SCOPE.fullmatch(scope) is not None


def is_understood(scope: str) -> bool:
    """Say whether the server grants the scope at all; it drops others without a word."""
    return scope in _STATIC or parse_permission(scope) is not None


class Grants:
    """Is a granted scope, asked by the PDS."""

    def __init__(self, scope: str) -> None:
        self._static = frozenset(scope.split(" ")) & _STATIC
        parsed = (parse_permission(value) for value in scope.split(" "))
        self._permissions = [permission for permission in parsed if permission is not None]

    def allows_repo(self, collection: str, action: str) -> bool:
        """Say whether records of a collection may be written with an action."""
        return "transition:generic" in self._static or any(
            {collection, "*"} & set(permission.values)
            and action in (permission.parameter("action") or _ACTIONS)
            for permission in self._of("repo")
        )

    def allows_blob(self, mime: str) -> bool:
        """Say whether a blob of a media type may be uploaded."""
        accepted = {"*/*", mime.partition("/")[0] + "/*", mime}
        return "transition:generic" in self._static or any(
            accepted & set(permission.values) for permission in self._of("blob")
        )

    def allows_rpc(self, method: str, audience: str) -> bool:
        """Say whether a method of another service may be called."""
        chat = method.startswith("chat.bsky.")
        if ("transition:chat.bsky" if chat else "transition:generic") in self._static:
            return True
        return any(
            {method, "*"} & set(permission.values)
            and {audience, "*"} & set(permission.parameter("aud"))
            for permission in self._of("rpc")
        )

    def allows_email(self) -> bool:
        """Say whether the account's e-mail address may be read."""
        return "transition:email" in self._static or self.allows_account("email", "read")

    def allows_account(self, attribute: str, action: str) -> bool:
        """Say whether an attribute of the account may be read or managed."""
        return any(
            attribute in permission.values
            and {"manage", action} & set(permission.parameter("action") or ("read",))
            for permission in self._of("account")
        )

    def allows_identity(self, attribute: str) -> bool:
        """Say whether an attribute of the identity may be changed."""
        return any({attribute, "*"} & set(permission.values) for permission in self._of("identity"))

    def _of(self, resource: str) -> Iterable[Permission]:
        return (found for found in self._permissions if found.resource == resource)


def well_formed(permission: Permission) -> bool:
    """Say whether the server understands all values of a permission."""
    values, parameter = permission.values, permission.parameter
    match permission.resource:
        case "repo":
            return _all(values, _NSID, "*") and set(parameter("action")) <= _ACTIONS
        case "rpc":
            audience = parameter("aud")
            return (
                _all(values, _NSID, "*")
                and len(audience) == 1
                and _all(audience, _AUDIENCE, "*")
                and not ("*" in values and audience == ("*",))
            )
        case "blob":
            return _all(values, _MIME)
        case "account":
            return (
                len(values) == 1
                and values[0] in {"email", "repo", "status"}
                and set(parameter("action")) <= {"read", "manage"}
            )
        case "identity":
            return len(values) == 1 and values[0] in {"handle", "*"}
        case _:
            return (
                len(values) == 1
                and _all(values, _NSID)
                and len(parameter("aud")) <= 1
                and _all(parameter("aud"), _AUDIENCE)
            )


def _all(values: Iterable[str], pattern: re.Pattern[str], other: str | None = None) -> bool:
    return all(value == other or pattern.fullmatch(value) for value in values)
