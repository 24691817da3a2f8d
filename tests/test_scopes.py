from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atproto_oauth_asgi.errors import ConfigurationError
from atproto_oauth_asgi.permissions import (
    AccountPermission,
    BlobPermission,
    IdentityPermission,
    IncludeScope,
    RepoPermission,
    RPCPermission,
    Scope,
    UnknownScope,
    is_nsid,
    is_scope_string,
    parse_scope,
)
from atproto_oauth_asgi.scopes import (
    canonical,
    check_scope,
    check_scopes,
    covers,
    expand_include,
    missing,
)

AUD = "did:web:api.example.com%23svc"
APPVIEW = "did:web:api.bsky.app%23bsky_appview"


@pytest.mark.spec("M5")
def test_what_a_permission_set_may_not_hold_does_not_hide_the_rest() -> None:
    include = IncludeScope(nsid="com.example.authBasic")
    chosen = {"resource": "rpc", "lxm": ["com.example.get"], "aud": "did:web:api.example.com#svc"}
    repo = {"resource": "repo", "collection": ["com.example.post"]}

    assert expand_include(include, [chosen, repo]) == ("repo:com.example.post",)


@pytest.mark.spec("M5")
@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"lxm": ["com.example.get"], "inheritAud": True}, f"rpc:com.example.get?aud={AUD}"),
        ({"lxm": ["com.example.get"], "aud": "*"}, "rpc:com.example.get?aud=*"),
        ({"lxm": ["com.example.get"]}, None),
        ({"lxm": ["*"], "inheritAud": True}, None),
        ({"lxm": "com.example.get", "aud": "*"}, None),
        ({"lxm": ["com.example.get"], "aud": ["*"]}, None),
        ({"lxm": ["com.example.get", 1], "aud": "*"}, None),
        ({"lxm": [], "aud": "*"}, None),
        ({"lxm": ["com.example.get"], "aud": "*", "action": []}, None),
        ({"lxm": ["com.example.sub.get"], "aud": "*"}, "rpc:com.example.sub.get?aud=*"),
        ({"lxm": ["com.exampl.get"], "aud": "*"}, None),
        ({"lxm": ["com.example"], "aud": "*"}, None),
        ({"lxm": ["com.example.get"], "aud": "*", "inheritAud": False}, None),
    ],
)
def test_a_call_in_a_permission_set_has_only_the_audience_it_may(
    entry: dict[str, object], expected: str | None
) -> None:
    include = IncludeScope(nsid="com.example.authBasic", audience="did:web:api.example.com#svc")
    permission: Mapping[str, object] = {"type": "permission", "resource": "rpc"} | entry

    assert ((expected,) if expected else ()) == expand_include(include, [permission])


@pytest.mark.spec("M5")
@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (["create", "update"], ("repo:com.example.post?action=create&action=update",)),
        (["create", "update", "delete"], ("repo:com.example.post",)),
        ([], ()),
        ("create", ()),
        (["create", "read"], ()),
    ],
)
def test_records_in_a_permission_set_have_only_the_actions_listed(
    action: object, expected: tuple[str, ...]
) -> None:
    entry = {"resource": "repo", "collection": ["com.example.post"], "action": action}

    assert expected == expand_include(IncludeScope(nsid="com.example.authBasic"), [entry])


@pytest.mark.spec("M4")
@pytest.mark.parametrize(
    "token",
    [
        "",
        "repo",
        "repo:",
        "repo:app.bsky",
        "repo:app.bsky.*",
        "repo:app.bsky.feed.post?action=read",
        "repo:app.bsky.feed.post?action=",
        "repo:app.bsky.feed.post?collection=",
        "repo:app.bsky.feed.post?collection=app.bsky.feed.like",
        "repo:app.bsky.feed.post%",
        "repo:app.bsky.feed.post%zz",
        "repo:%2A%00",
        "repo\N{NO-BREAK SPACE}:*",
        "Repo:*",
        "repo:app.bsky.feed.1post",
        "repo:app.bsky.feed.po-st",
        "repo:-app.bsky.feed.post",
        "repo:" + "a" * 300 + ".b.c",
        "rpc:app.bsky.a.b?aud=did:web:api.bsky.app",
        "rpc:app.bsky.a.b?aud=did:web:a%23b&aud=did:web:c%23d",
        "rpc:app.bsky.a.b?aud=did:web:a:b%23c",
        "rpc:app.bsky.a.b?aud=did:plc:short%23c",
        "blob:*/png",
        "blob:image/",
        "blob:image/a/b",
        "blob:image/%ff",
        "blob?accept=image/svg+xml",
        "account:status",
        "account:email?action=delete",
        "identity",
        "include:com.example.set?aud=*",
        "include:com.example.set?x=y",
        "space:com.example.bookmarks?authority=self",
        "atproto?x=1",
        "transition:everything",
    ],
)
def test_what_is_not_understood_is_kept_and_covers_only_itself(token: str) -> None:
    scope = parse_scope(token)

    assert isinstance(scope, UnknownScope)
    assert token == str(scope)
    assert not covers(token, "repo:app.bsky.feed.post atproto")
    assert not covers("atproto transition:generic repo:* blob:*/*", [token]) or not token
    assert covers(f"atproto {token}", token)


@pytest.mark.parametrize(
    "text", ["atproto\trepo:*", "atproto\nrepo:*", "atproto\N{NO-BREAK SPACE}repo:*"]
)
def test_nothing_but_a_space_separates_granted_tokens(text: str) -> None:
    assert not covers(text, "atproto")
    assert not covers(text, "repo:*")


def test_the_longest_nsid_is_read() -> None:
    authority = ".".join([*(letter * 63 for letter in "abc"), "d" * 61])
    longest = f"{authority}.{'n' * 63}"

    assert (len(authority), len(longest)) == (253, 317)
    assert is_nsid(longest)
    assert not is_nsid(longest + "n")
    # The authority is the name of a host turned round, and as long at the most.
    assert not is_nsid(f"{authority}d.name")


def test_a_very_long_token_is_read_without_being_remembered() -> None:
    many = "&".join(f"collection=com.example.c{i}" for i in range(5000))

    scope = parse_scope(f"repo?{many}")

    assert isinstance(scope, RepoPermission)
    assert 5000 == len(scope.collections)


def test_percent_and_plus_survive_a_round_trip() -> None:
    scope = parse_scope("blob?accept=image/svg%2Bxml&accept=text/x%2541")

    assert BlobPermission(accept=("image/svg+xml", "text/x%41")) == scope
    assert "blob?accept=image/svg%2Bxml&accept=text/x%2541" == str(scope)
    assert "blob:text/x%2541" == str(parse_scope("blob:text/x%2541"))


def test_what_is_positional_may_also_be_named() -> None:
    identity, account = (
        parse_scope("identity?attr=handle"),
        parse_scope("account?action=manage&attr=repo"),
    )

    assert identity == IdentityPermission(attribute="handle")
    assert account == AccountPermission(attribute="repo", actions=("manage",))


def test_redundant_patterns_and_values_are_written_once() -> None:
    assert "blob:image/*" == str(parse_scope("blob?accept=image/PNG&accept=image/*"))
    assert "blob:*/*" == str(parse_scope("blob?accept=image/png&accept=*/*"))
    assert "repo:*" == str(parse_scope("repo?collection=*&collection=com.example.a"))
    assert "repo:*?action=create&action=delete" == str(
        parse_scope("repo:*?action=delete&action=create&action=delete")
    )
    assert "account:email" == str(parse_scope("account:email?action=read"))


@pytest.mark.spec("H10", "M2")
@pytest.mark.parametrize(
    ("granted", "needed"),
    [
        ("atproto", "atproto"),
        ("repo:*", "repo:app.x.y?action=create"),
        ("repo?collection=app.x.a&collection=app.x.y", "repo:app.x.y?action=create"),
        ("repo:app.x.a repo:app.x.b", "repo?collection=app.x.a&collection=app.x.b"),
        ("repo:*?action=create repo:app.x.a?action=update&action=delete", "repo:app.x.a"),
        ("rpc:*?aud=" + AUD, "rpc:app.x.get?aud=" + AUD),
        ("rpc:*?aud=did:web:api.example.com#svc", "rpc:app.x.get?aud=" + AUD),
        ("rpc:app.x.get?aud=*", "rpc:app.x.get?aud=" + AUD),
        ("rpc:app.x.a?aud=* rpc:app.x.b?aud=" + AUD, f"rpc?lxm=app.x.a&lxm=app.x.b&aud={AUD}"),
        ("blob:*/*", "blob:image/png"),
        ("blob:image/*", "blob?accept=image/png&accept=image/webp"),
        ("blob:image/* blob:video/mp4", "blob?accept=image/PNG&accept=video/mp4"),
        ("account:email?action=manage", "account:email"),
        ("account:email?action=manage", "account:email?action=read&action=manage"),
        ("identity:*", "identity:handle"),
        ("transition:email", "account:email"),
        ("transition:generic", "repo:*"),
        ("transition:generic", "blob:*/*"),
        ("transition:generic", "rpc:app.bsky.feed.getFeed?aud=" + AUD),
        ("transition:generic", "rpc:*?aud=" + AUD),
        ("transition:chat.bsky", "rpc:chat.bsky.convo.getLog?aud=" + AUD),
        ("space:com.example.x", "space:com.example.x"),
    ],
)
def test_a_grant_covers_what_it_means(granted: str, needed: str) -> None:
    assert covers(f"atproto {granted}", needed)
    assert covers(granted.split(" "), ["atproto", needed]) == ("atproto" in granted.split(" "))


@pytest.mark.spec("H10", "M6")
@pytest.mark.parametrize(
    ("granted", "needed"),
    [
        ("", "atproto"),
        ("transition:generic", "atproto"),
        ("repo:app.x.y", "repo:*"),
        ("repo:app.x.y", "repo:app.x.yy"),
        ("repo:app.x.y?action=create", "repo:app.x.y"),
        ("repo:app.x.a?action=create repo:app.x.b", "repo?collection=app.x.a&collection=app.x.b"),
        ("rpc:app.x.get?aud=" + AUD, "rpc:app.x.get?aud=*"),
        ("rpc:app.x.get?aud=" + AUD, "rpc:*?aud=" + AUD),
        ("rpc:*?aud=" + APPVIEW, "rpc:app.x.get?aud=" + AUD),
        ("blob:image/png", "blob:image/*"),
        ("blob:image/*", "blob:*/*"),
        ("blob:image/*", "blob:imagex/png"),
        ("account:email", "account:email?action=manage"),
        ("account:repo?action=manage", "account:email"),
        ("identity:handle", "identity:*"),
        ("transition:email", "account:email?action=manage"),
        ("transition:email", "account:repo"),
        ("transition:generic", "rpc:chat.bsky.convo.getLog?aud=" + AUD),
        ("transition:generic", "account:email"),
        ("transition:generic", "identity:handle"),
        ("transition:generic", "transition:email"),
        ("transition:chat.bsky", "repo:chat.bsky.actor.declaration"),
        ("transition:chat.bsky", "rpc:chat.bskyx.get?aud=" + AUD),
        ("repo:*", "space:com.example.x"),
        ("repo:* transition:generic", "repo:*x"),
    ],
)
def test_a_grant_covers_nothing_more(granted: str, needed: str) -> None:
    assert not covers(granted, needed)
    assert (str(parse_scope(needed)),) == missing(granted, needed)


SETS: dict[str, Sequence[Mapping[str, object]]] = {
    "com.example.authFull": [
        {"type": "permission", "resource": "repo", "collection": ["com.example.post"]},
        {
            "type": "permission",
            "resource": "rpc",
            "lxm": ["com.example.get"],
            "inheritAud": True,
        },
    ],
    "com.example.authNothing": [],
}
FULL = "include:com.example.authFull?aud=" + AUD


@pytest.mark.spec("H10", "M5")
@pytest.mark.parametrize(
    ("granted", "known", "unknown"),
    [
        (FULL, True, True),
        ("include:com.example.authFull?aud=did:web:api.example.com#svc", True, True),
        (f"repo:com.example.post rpc:com.example.get?aud={AUD}", True, True),
        ("repo:com.example.post", False, True),
        (f"rpc:com.example.get?aud={AUD}", False, True),
        ("rpc:com.example.get?aud=*", False, True),
        (f"rpc:com.example.get?aud={APPVIEW}", False, False),
        ("repo?collection=com.example.post&collection=org.other.post", False, False),
        (f"repo:* rpc:*?aud={AUD}", True, False),
        ("repo:com.examplex.post", False, False),
        ("transition:generic", True, True),
        ("atproto", False, False),
        ("include:com.example.authFull", False, False),
    ],
)
def test_an_include_is_covered_by_its_expansion(granted: str, known: bool, unknown: bool) -> None:
    assert known == covers(granted, FULL, permission_sets=SETS)
    assert unknown == covers(granted, FULL)


def test_a_set_that_grants_nothing_is_covered_only_by_name() -> None:
    needed = "include:com.example.authNothing"

    assert not covers("repo:com.example.post transition:generic", needed, permission_sets=SETS)
    assert covers(needed, needed, permission_sets=SETS)


def test_chat_sets_need_the_chat_transition() -> None:
    needed = "include:chat.bsky.authFull"

    assert not covers("transition:generic", needed)
    assert covers("transition:generic transition:chat.bsky", needed)


def test_missing_names_whole_tokens_once_and_in_order() -> None:
    needed = ["blob:image/*", "repo?collection=app.x.b&collection=app.x.a", "blob:image/*"]

    expected = ("blob:image/*", "repo?collection=app.x.a&collection=app.x.b")
    assert expected == missing("atproto repo:app.x.a", needed)


@pytest.mark.spec("M2")
def test_the_canonical_scope_does_not_depend_on_order_or_spelling() -> None:
    one = canonical("repo:com.example.post atproto rpc:com.example.get?aud=did:web:a.com#b")
    two = canonical(["rpc:com.example.get?aud=did:web:a.com%23b", "atproto repo:com.example.post"])

    assert one == two
    assert one.startswith("atproto ")
    assert canonical("account:email atproto") == "atproto account:email"
    assert one == check_scope(f"  {two}\n\tatproto ", "SCOPE")


@pytest.mark.spec("M3", "M8")
@pytest.mark.parametrize(
    ("token", "sentence"),
    tomllib.loads(Path(__file__).with_name("scope_mistakes.toml").read_text("utf-8")).items(),
)
def test_a_mistake_in_a_configured_scope_says_which_and_how_to_mend_it(
    token: str, sentence: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_scope(f"atproto {token}", "OPTIONAL_SCOPE")

    assert f"OPTIONAL_SCOPE has the scope “{token}”, but {sentence}" == str(caught.value)


def test_permissions_of_every_resource_may_be_configured() -> None:
    scope = (
        "atproto account:email account:repo?action=manage blob:image/* identity:handle"
        " include:com.example.set repo:* rpc:com.example.get?aud=* transition:generic"
    )

    assert scope == check_scope(scope, "SCOPE")


@pytest.mark.spec("M1", "M6")
@pytest.mark.parametrize(
    ("scope", "optional", "beginning"),
    [
        (
            "repo:*",
            "",
            (
                "SCOPE lacks “atproto”, without which no server signs anybody in;"
                " write “atproto repo:*”."
            ),
        ),
        ("account:email", "", "SCOPE lacks “atproto”, without which no server signs anybody in;"),
        ("atproto transition:chat.bsky", "transition:generic", "SCOPE has “transition:chat"),
        ("atproto", "transition:chat.bsky", "OPTIONAL_SCOPE has “transition:chat.bsky”, which"),
        ("atproto openid", "", "SCOPE has the scope “openid”, but"),
        ("atproto", "openid", "OPTIONAL_SCOPE has the scope “openid”, but"),
    ],
)
def test_scopes_that_cannot_work_together_are_refused(
    scope: str, optional: str, beginning: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_scopes(scope, optional)

    assert str(caught.value).startswith(beginning)


def test_an_optional_scope_may_lean_on_the_asked_one() -> None:
    expected = ("atproto transition:generic", "transition:chat.bsky")

    assert expected == check_scopes("transition:generic atproto", "transition:chat.bsky")


label = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
nsids = st.lists(label, min_size=3, max_size=5).map(".".join)
services = st.tuples(label, label).map(lambda p: f"did:web:{p[0]}.example#{p[1]}~/?:@")
names = st.one_of(
    st.just(("*",)), st.sets(nsids, min_size=1, max_size=4).map(lambda s: tuple(sorted(s)))
)
mimes = st.from_regex(r"[a-z0-9.%+!#$&^_~'()-]{1,8}/[a-z0-9.%+!#$&^_~'()-]{1,8}", fullmatch=True)
scopes: st.SearchStrategy[Scope] = st.one_of(
    st.builds(
        RepoPermission,
        collections=names,
        actions=st.sampled_from(
            [("create",), ("update", "delete"), ("create", "update", "delete")]
        ),
    ),
    st.builds(RPCPermission, methods=names, audience=services),
    st.builds(
        BlobPermission,
        accept=st.sets(mimes, min_size=1, max_size=3).map(lambda s: tuple(sorted(s))),
    ),
    st.builds(
        AccountPermission,
        attribute=st.sampled_from(["email", "repo"]),
        actions=st.sampled_from([("read",), ("manage",), ("read", "manage")]),
    ),
    st.builds(IdentityPermission, attribute=st.sampled_from(["handle", "*"])),
    st.builds(IncludeScope, nsid=nsids, audience=st.one_of(st.none(), services)),
)


@given(scopes)
def test_every_permission_is_read_back_as_it_was_written(scope: Scope) -> None:
    text = str(scope)

    assert is_scope_string(text)
    assert scope == parse_scope(text)
    assert covers(text, text)


@given(st.text(max_size=80))
def test_no_text_breaks_the_parser_and_its_spelling_is_stable(text: str) -> None:
    once = str(parse_scope(text))

    assert once == str(parse_scope(once))


@given(st.lists(scopes, max_size=5), scopes)
def test_a_longer_grant_never_covers_less(grant: list[Scope], needed: Scope) -> None:
    held = [str(scope) for scope in grant]

    assert covers([*held, str(needed)], str(needed))
    if covers(held[:2], str(needed)):
        assert covers(held, str(needed))
