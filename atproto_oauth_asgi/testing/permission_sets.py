"""Permission sets, and what `include:` stands for (atproto: Permission Sets)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from atproto_oauth_asgi.testing.permissions import (
    Permission,
    format_permission,
    parse_permission,
    well_formed,
)

#: Permissions of a set, as its lexicon lists them or as scope values.
Permissions = Sequence[str | Mapping[str, object]]
_RESOURCES = ("repo", "rpc")


class PermissionSets:
    """Holds the sets that the network knows, by NSID."""

    def __init__(self) -> None:
        self._sets: dict[str, tuple[Mapping[str, object], ...]] = {}

    def add(self, nsid: str, permissions: Permissions) -> None:
        """Publish a set."""
        self._sets[nsid] = tuple(_as_lexicon(each) for each in permissions)

    def __contains__(self, nsid: object) -> bool:
        return nsid in self._sets

    def expand(self, scopes: Sequence[str]) -> list[str]:
        """Return scope values with what every `include:` stands for first, then the others."""
        included: list[str] = []
        others: list[str] = []
        for scope in scopes:
            permission = parse_permission(scope)
            if permission is not None and permission.resource == "include":
                included += self._expanded(permission)
            else:
                others.append(scope)
        return included + others

    def _expanded(self, include: Permission) -> list[str]:
        nsid = include.values[0]
        audience = next(iter(include.parameter("aud")), None)
        found: list[str] = []
        for listed in self._sets.get(nsid, ()):
            permission = _permission(listed, audience)
            if permission is not None and all(_below(nsid, value) for value in permission.values):
                found.append(format_permission(permission))
        return found


def _as_lexicon(permission: str | Mapping[str, object]) -> Mapping[str, object]:
    if not isinstance(permission, str):
        return permission
    parsed = parse_permission(permission)
    if parsed is None:
        raise ValueError(f"{permission} is no permission that a set may hold.")
    name = {"repo": "collection", "rpc": "lxm"}.get(parsed.resource, "attr")
    return {"resource": parsed.resource, name: list(parsed.values), **parsed.parameters}


def _permission(listed: Mapping[str, object], audience: str | None) -> Permission | None:
    """Return the permission that a set grants; `None` for what no set may grant."""
    resource = listed.get("resource")
    if resource not in _RESOURCES:
        return None
    values = _texts(listed.get("collection" if resource == "repo" else "lxm"))
    parameters: dict[str, tuple[str, ...]] = {}
    if resource == "repo" and listed.get("action") is not None:
        parameters["action"] = _texts(listed["action"])
    if resource == "rpc":
        own = _texts(listed.get("aud"))
        if own not in {(), ("*",)}:
            return None
        inherited = () if audience is None or listed.get("inheritAud") is not True else (audience,)
        parameters["aud"] = own or inherited
    permission = Permission(resource=str(resource), values=values, parameters=parameters)
    return permission if values and well_formed(permission) else None


def _below(nsid: str, other: str) -> bool:
    """Say whether an NSID is under the authority of the set that includes it."""
    return other.startswith(nsid.rpartition(".")[0] + ".")


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list | tuple):
        return tuple(str(item) for item in cast("list[object]", value))
    return ()
