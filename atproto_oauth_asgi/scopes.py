"""What a grant allows: `covers`, `missing`, permission sets, and the check of configured scopes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from atproto_oauth_asgi.errors import ConfigurationError
from atproto_oauth_asgi.permissions import (
    EXAMPLES,
    RESOURCES,
    STATIC_SCOPES,
    AccountPermission,
    BlobPermission,
    IdentityPermission,
    IncludeScope,
    RepoPermission,
    RPCPermission,
    Scope,
    StaticScope,
    UnknownScope,
    parse_scope,
    permission_from_lexicon,
)

#: The `permissions` array of each known permission set, by the set's NSID.
PermissionSets = Mapping[str, Sequence[Mapping[str, object]]]

_CHAT = "chat.bsky."


def covers(
    granted: str | Iterable[str],
    needed: str | Iterable[str],
    *,
    permission_sets: PermissionSets | None = None,
) -> bool:
    """Tell whether a grant allows everything that is needed.

    Both are scope strings or tokens. Meanings are compared, never letters: `repo:*` covers
    `repo:app.bsky.feed.post?action=create`, and several granted tokens may cover one needed token
    together. `transition:` scopes cover what the reference PDS lets them do. A token that is not
    understood covers, and is covered by, only itself.

    A server replaces a granted `include:` by the permissions of the set (`atproto Permissions:
    Permission Sets`), so a needed `include:` is covered when the grant

    - holds the `include:` itself, or
    - covers every permission of the set, where `permission_sets` has it, or
    - where it does not: holds `transition:generic` (and `transition:chat.bsky` for a set under
      `chat.bsky`), or any `repo` or `rpc` permission made only of NSIDs under the set's own
      authority (an `rpc` also for the `aud` asked for, or `*`).

    The last rule is evidence, not proof, and errs on the side that the PDS puts right with a 403:
    erring on the other, an app would send people to log in again for ever, for a grant that never
    names the set. An app that asks for permissions under the same authority one by one *and* by set
    should pass `permission_sets`. This function decides what to show and what to ask for; it does
    not guard anything.
    """
    return not missing(granted, needed, permission_sets=permission_sets)


def missing(
    granted: str | Iterable[str],
    needed: str | Iterable[str],
    *,
    permission_sets: PermissionSets | None = None,
) -> tuple[str, ...]:
    """Return the needed tokens that a grant does not cover, in order and canonical spelling.

    See `covers` for the meaning of the arguments.
    """
    grant = tuple(parse_scope(token) for token in tokens(granted))
    sets = permission_sets or {}
    return tuple(
        dict.fromkeys(
            str(scope)
            for scope in (parse_scope(token) for token in tokens(needed))
            if not _covered(grant, scope, sets)
        )
    )


def tokens(scope: str | Iterable[str]) -> tuple[str, ...]:
    """Split a scope string, or several, into its tokens."""
    texts = (scope,) if isinstance(scope, str) else scope
    return tuple(token for text in texts for token in text.split(" ") if token)


def canonical(scope: str | Iterable[str]) -> str:
    """Write a scope in its one spelling: `atproto` first, then sorted, nothing twice."""
    spelled = {str(parse_scope(token)) for token in tokens(scope)}
    return " ".join(sorted(spelled, key=lambda token: (token != "atproto", token)))


def expand_include(
    include: IncludeScope, permissions: Iterable[Mapping[str, object]]
) -> tuple[str, ...]:
    """Return the scope tokens a permission set stands for (`atproto Permissions: Permission Sets`).

    Entries that a set may not hold are left out: other resources than `repo` and `rpc`, wildcards,
    NSIDs outside the set's own authority, an `aud` of the set's own choosing.
    """
    return tuple(str(permission) for permission in _expand(include, permissions))


def _expand(
    include: IncludeScope, permissions: Iterable[Mapping[str, object]]
) -> list[RepoPermission | RPCPermission]:
    expanded: list[RepoPermission | RPCPermission] = []
    for listed in permissions:
        entry = dict(listed)
        if entry.get("resource") == "rpc":
            if entry.get("aud", "*") != "*":
                continue
            if entry.get("inheritAud") is True and "aud" not in entry and include.audience:
                del entry["inheritAud"]
                entry["aud"] = include.audience
        permission = permission_from_lexicon(entry)
        if permission and all(map(include.has_authority_over, _names(permission))):
            expanded.append(permission)
    return expanded


def _names(permission: RepoPermission | RPCPermission) -> tuple[str, ...]:
    if isinstance(permission, RepoPermission):
        return permission.collections
    return permission.methods


def _covered(grant: tuple[Scope, ...], scope: Scope, sets: PermissionSets) -> bool:
    if scope in grant:
        return True
    match scope:
        case IncludeScope():
            return _covers_include(grant, scope, sets)
        case RepoPermission():
            return _covers_repo(grant, scope)
        case RPCPermission():
            return _covers_rpc(grant, scope)
        case BlobPermission():
            return _covers_blob(grant, scope)
        case AccountPermission():
            return _covers_account(grant, scope)
        case IdentityPermission():
            return IdentityPermission(attribute="*") in grant
        case StaticScope() | UnknownScope():
            pass
    return False


def _has(grant: tuple[Scope, ...], static: str) -> bool:
    return StaticScope(value=static) in grant


def _covers_repo(grant: tuple[Scope, ...], scope: RepoPermission) -> bool:
    if _has(grant, "transition:generic"):
        return True
    held = [item for item in grant if isinstance(item, RepoPermission)]
    return all(
        any(action in item.actions and _within(name, item.collections) for item in held)
        for name in scope.collections
        for action in scope.actions
    )


def _covers_rpc(grant: tuple[Scope, ...], scope: RPCPermission) -> bool:
    held = [item for item in grant if isinstance(item, RPCPermission)]
    generic, chat = _has(grant, "transition:generic"), _has(grant, "transition:chat.bsky")
    return all(
        (chat if name.startswith(_CHAT) else generic)
        or any(
            item.audience in {"*", scope.audience} and _within(name, item.methods) for item in held
        )
        for name in scope.methods
    )


def _within(name: str, held: tuple[str, ...]) -> bool:
    return name in held or held == ("*",)


def _covers_blob(grant: tuple[Scope, ...], scope: BlobPermission) -> bool:
    if _has(grant, "transition:generic"):
        return True
    held = {
        pattern for item in grant if isinstance(item, BlobPermission) for pattern in item.accept
    }
    return "*/*" in held or all(
        pattern in held or pattern.partition("/")[0] + "/*" in held for pattern in scope.accept
    )


def _covers_account(grant: tuple[Scope, ...], scope: AccountPermission) -> bool:
    held = {
        action
        for item in grant
        if isinstance(item, AccountPermission) and item.attribute == scope.attribute
        for action in item.actions
    }
    if scope.attribute == "email" and _has(grant, "transition:email"):
        held.add("read")
    return "manage" in held or held.issuperset(scope.actions)


def _covers_include(grant: tuple[Scope, ...], scope: IncludeScope, sets: PermissionSets) -> bool:
    if scope.nsid in sets:
        # A set that comes to nothing is granted by nothing but its own name.
        expanded = _expand(scope, sets[scope.nsid])
        return bool(expanded) and all(_covered(grant, item, sets) for item in expanded)
    # A set holds `repo` and `rpc` under its own authority only, so these two cover any of them.
    if _has(grant, "transition:generic") and (
        not scope.nsid.startswith(_CHAT) or _has(grant, "transition:chat.bsky")
    ):
        return True
    return any(_is_evidence(item, scope) for item in grant)


def _is_evidence(item: Scope, include: IncludeScope) -> bool:
    if not isinstance(item, RepoPermission | RPCPermission):
        return False
    if (
        isinstance(item, RPCPermission)
        and include.audience is not None
        and item.audience not in {"*", include.audience}
    ):
        return False
    return all(map(include.has_authority_over, _names(item)))


def check_scope(text: str, name: str) -> str:
    """Check a configured scope and return its canonical spelling.

    Any white space may separate the tokens. A server drops what it does not understand without a
    word (`atproto OAuth: Authorization Scopes`), so a mistake is found here or by a user.

    Args:
        text: The scope tokens.
        name: The setting they come from, for the message.

    Raises:
        ConfigurationError: A token is not one that AT Protocol servers understand alike.
    """
    for token in text.split():
        scope = parse_scope(token)
        if isinstance(scope, UnknownScope):
            raise ConfigurationError(
                f"{name} has the scope “{token}”, but {scope.reason}; {_mend(token)}."
            )
        if isinstance(scope, AccountPermission) and len(scope.actions) > 1:
            raise ConfigurationError(
                f"{name} has the scope “{token}”, but some servers accept only one action of an"
                " account; write action=manage alone, which includes reading."
            )
    return canonical(text.split())


def check_scopes(scope: str, optional_scope: str) -> tuple[str, str]:
    """Check SCOPE and OPTIONAL_SCOPE together and return both in canonical spelling.

    Raises:
        ConfigurationError: See `check_scope`; `atproto` is missing from SCOPE; or
            `transition:chat.bsky` stands without `transition:generic`.
    """
    asked = check_scope(scope, "SCOPE")
    optional = check_scope(optional_scope, "OPTIONAL_SCOPE")
    if not _has_token(asked, "atproto"):
        raise ConfigurationError(
            "SCOPE lacks “atproto”, without which no server signs anybody in; write"
            f" “{canonical([asked, 'atproto'])}”."
        )
    for name, text, beside in (
        ("SCOPE", asked, asked),
        ("OPTIONAL_SCOPE", optional, f"{asked} {optional}"),
    ):
        if _has_token(text, "transition:chat.bsky") and not _has_token(
            beside, "transition:generic"
        ):
            raise ConfigurationError(
                f"{name} has “transition:chat.bsky”, which works only beside"
                f" “transition:generic”; add “transition:generic” to {name}."
            )
    return asked, optional


def _has_token(scope: str, token: str) -> bool:
    return token in scope.split()


def _mend(token: str) -> str:
    if token == "blob:*":
        return "write “blob:*/*”"
    resource = token.partition("?")[0].partition(":")[0]
    if resource in RESOURCES:
        return f"write it as in {EXAMPLES[resource]}"
    near = difflib.get_close_matches(token, STATIC_SCOPES) or difflib.get_close_matches(
        resource, RESOURCES
    )
    if near:
        return f"perhaps {EXAMPLES.get(near[0], near[0])} is meant"
    return f"use {', '.join(STATIC_SCOPES)} or a permission of {', '.join(RESOURCES)}"
