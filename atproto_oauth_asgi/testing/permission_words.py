"""What permissions mean, in words for the person who is asked for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from atproto_oauth_asgi.testing.permissions import Permission, parse_permission

_VERBS = {"create": "Create", "update": "Change", "delete": "Delete"}
_COLLECTIONS = {
    "app.bsky.actor.profile": "your Bluesky profile",
    "app.bsky.feed.like": "Bluesky likes",
    "app.bsky.feed.post": "Bluesky posts",
    "app.bsky.feed.repost": "Bluesky reposts",
    "app.bsky.graph.block": "Bluesky blocks",
    "app.bsky.graph.follow": "Bluesky follows",
    "app.bsky.graph.list": "Bluesky lists",
}
_MEDIA = {"audio": "sounds", "image": "pictures", "text": "texts", "video": "videos"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Is one permission, or several of a kind, as a person reads it."""

    title: str
    #: Sentence → the technical name it stands for, if it stands for one.
    lines: tuple[tuple[str, str], ...] = ()
    #: Whether the person may keep it back and allow the rest.
    optional: bool = False
    #: Whether the account itself could be lost.
    grave: bool = False


def explain(
    scopes: Sequence[str], *, included: Callable[[str], Sequence[str]] = lambda _: ()
) -> list[Words]:
    """Say what scopes mean.

    Args:
        scopes: Scope values that the server understands.
        included: Returns what an `include:` value stands for.
    """
    permissions = [found for found in map(parse_permission, scopes) if found is not None]
    words = [Words(title="Know which account you are")]
    if any(map(_shows_email, scopes)):
        words.append(_email(permissions, optional=bool(optional_scopes(scopes))))
    words += [_STATIC[scope] for scope in scopes if scope in _STATIC]
    words += _single(permissions)
    words += _many(permissions)
    for scope in scopes:
        permission = parse_permission(scope)
        if permission is not None and permission.resource == "include":
            inner = [found for found in map(parse_permission, included(scope)) if found is not None]
            lines = [line for each in _many(inner) for line in each.lines]
            name = ("A set of permissions that is called", permission.values[0])
            words.append(Words(title="All of this together", lines=(name, *lines)))
    return words


def optional_scopes(scopes: Sequence[str]) -> set[str]:
    """Return the scopes that a person may keep back on the consent page.

    As at the reference server it is the e-mail address, and only where no `transition:` scope is
    asked for: those of the older kind are granted whole.
    """
    if any(scope.startswith("transition:") for scope in scopes):
        return set()
    return {scope for scope in scopes if _shows_email(scope)}


_STATIC = {
    "transition:generic": Words(
        title="Almost everything in your account",
        lines=(
            ("Create, change and delete any public data", ""),
            ("Upload any file", ""),
            ("Read your private preferences", ""),
            ("Act as you at any service, except for chat", ""),
        ),
    ),
    "transition:chat.bsky": Words(title="Read and send your chat messages"),
}


def _shows_email(scope: str) -> bool:
    permission = parse_permission(scope)
    if permission is None:
        return scope == "transition:email"
    return permission.resource == "account" and permission.values == ("email",)


def _email(permissions: Iterable[Permission], *, optional: bool) -> Words:
    manage = any(
        each.values == ("email",) and "manage" in each.parameter("action") for each in permissions
    )
    title = "See and change your e-mail address" if manage else "See your e-mail address"
    return Words(title=title, optional=optional)


def _single(permissions: Iterable[Permission]) -> Iterable[Words]:
    for permission in permissions:
        value = permission.values[0]
        manage = "manage" in permission.parameter("action")
        match permission.resource, value:
            case "account", "repo":
                yield Words(
                    title="Replace everything that your account has published"
                    if manage
                    else "Copy everything that your account has published",
                    grave=manage,
                )
            case "account", "status":
                yield Words(
                    title="Deactivate and reactivate your account"
                    if manage
                    else "See whether your account is active"
                )
            case "identity", "handle":
                yield Words(title="Change your handle")
            case "identity", _:
                yield Words(
                    title="Full control of your identity",
                    lines=(("The app could take your account away from you for ever", ""),),
                    grave=True,
                )
            case _:
                pass


def _many(permissions: Iterable[Permission]) -> list[Words]:
    records: dict[str, set[str]] = {}
    files: list[str] = []
    calls: list[tuple[str, str]] = []
    for permission in permissions:
        match permission.resource:
            case "repo":
                for collection in permission.values:
                    actions = permission.parameter("action") or tuple(_VERBS)
                    records.setdefault(collection, set()).update(actions)
            case "blob":
                files += permission.values
            case "rpc":
                calls += [(m, a) for m in permission.values for a in permission.parameter("aud")]
            case _:
                pass
    words: list[Words] = []
    if records:
        lines = tuple(_record(*record) for record in sorted(records.items()))
        words.append(Words(title="Public data of your account", lines=lines))
    if files:
        lines = tuple(_file(each) for each in dict.fromkeys(files))
        words.append(Words(title="Files of your account", lines=lines))
    if calls:
        lines = tuple(_call(*call) for call in dict.fromkeys(calls))
        words.append(Words(title="Act as you at other services", lines=lines))
    return words


def _record(collection: str, actions: set[str]) -> tuple[str, str]:
    verbs = [verb for action, verb in _VERBS.items() if action in actions]
    first, *rest = [verbs[0], *(verb.lower() for verb in verbs[1:])]
    did = " and ".join([", ".join([first, *rest[:-1]]), *rest[-1:]])
    if collection == "*":
        return f"{did} records of any kind", ""
    return f"{did} {_COLLECTIONS.get(collection, 'records of the kind')}", collection


def _file(accept: str) -> tuple[str, str]:
    kind, _, rest = accept.partition("/")
    if kind == "*":
        return "Upload any file", ""
    if rest == "*" and kind in _MEDIA:
        return f"Upload {_MEDIA[kind]}", ""
    return "Upload files of the type", accept


def _call(method: str, audience: str) -> tuple[str, str]:
    service = audience.partition("#")[0].removeprefix("did:web:")
    where = "any service" if audience == "*" else service
    if method == "*":
        return f"Call any method of {where}", ""
    return f"Call this method of {where}", method
