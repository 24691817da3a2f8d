"""What is asked for is said in words; the scopes themselves are technical details."""

from __future__ import annotations

import httpx
import pytest

from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.testing.permission_words import explain, optional_scopes
from tests.network.visitor import Visitor
from tests.network.walker import Clock, Walker, loopback_client_id

WORDS = {
    "atproto": "Know which account you are",
    "transition:email": "See your e-mail address",
    "transition:generic": "Almost everything in your account: Create, change and delete any public"
    " data; Upload any file; Read your private preferences; Act as you at any service, except for"
    " chat",
    "transition:chat.bsky": "Read and send your chat messages",
    "repo:app.bsky.feed.post": "Public data of your account: Create, change and delete Bluesky"
    " posts (app.bsky.feed.post)",
    "repo:app.bsky.feed.post?action=create": "Public data of your account: Create Bluesky posts"
    " (app.bsky.feed.post)",
    "repo?collection=dev.birdsong.tune&collection=app.bsky.graph.follow&action=update"
    "&action=delete": "Public data of your account: Change and delete Bluesky follows"
    " (app.bsky.graph.follow); Change and delete records of the kind (dev.birdsong.tune)",
    "repo:*?action=delete": "Public data of your account: Delete records of any kind",
    "blob:*/*": "Files of your account: Upload any file",
    "blob:image/*": "Files of your account: Upload pictures",
    "blob:application/pdf": "Files of your account: Upload files of the type (application/pdf)",
    "rpc:app.bsky.actor.getProfile?aud=did:web:api.bsky.app#bsky_appview": "Act as you at other"
    " services: Call this method of api.bsky.app (app.bsky.actor.getProfile)",
    "rpc:*?aud=did:web:api.bsky.app#bsky_appview": "Act as you at other services: Call any method"
    " of api.bsky.app",
    "rpc:app.bsky.actor.getProfile?aud=*": "Act as you at other services: Call this method of any"
    " service (app.bsky.actor.getProfile)",
    "account:email": "See your e-mail address",
    "account:email?action=manage": "See and change your e-mail address",
    "account:status?action=manage": "Deactivate and reactivate your account",
    "account:repo?action=manage": "Replace everything that your account has published",
    "identity:handle": "Change your handle",
    "identity:*": "Full control of your identity: The app could take your account away from you"
    " for ever",
}


def said(*scopes: str) -> list[str]:
    found: list[str] = []
    for words in explain(scopes):
        lines = [text + (f" ({name})" if name else "") for text, name in words.lines]
        found.append(": ".join([words.title, "; ".join(lines)] if lines else [words.title]))
    return found


@pytest.mark.parametrize("scope", WORDS)
def test_each_kind_of_scope_is_said_in_words(scope: str) -> None:
    assert said("atproto", scope)[-1] == WORDS[scope]


def test_scopes_of_one_kind_are_said_together() -> None:
    assert said(
        "atproto",
        "repo:app.bsky.feed.post?action=create",
        "repo:app.bsky.feed.post?action=delete",
        "blob:image/*",
        "blob:video/*",
    ) == [
        "Know which account you are",
        "Public data of your account: Create and delete Bluesky posts (app.bsky.feed.post)",
        "Files of your account: Upload pictures; Upload videos",
    ]


def test_what_could_cost_the_account_is_marked() -> None:
    grave = [words.title for words in explain(["identity:*", "identity:handle"]) if words.grave]

    assert grave == ["Full control of your identity"]


def test_only_the_e_mail_address_may_be_kept_back() -> None:
    scopes = ["atproto", "account:email", "account:status", "repo:app.bsky.feed.post"]

    assert optional_scopes(scopes) == {"account:email"}
    assert optional_scopes([*scopes, "transition:generic"]) == set()
    assert optional_scopes(["atproto", "transition:email"]) == set()


@pytest.mark.anyio
async def test_no_scope_is_shown_but_as_a_technical_detail(
    network: Network, http: httpx.AsyncClient, clock: Clock
) -> None:
    scope = " ".join(["atproto", *(each for each in WORDS if each != "atproto")])
    walker = Walker(network, http, clock=clock, client_id=loopback_client_id(scope=scope))
    walker.scope = scope
    visitor = Visitor(http)
    await visitor.open(await walker.authorize_url())
    await visitor.sign_in("alice.test")
    shown, _, details = visitor.page.text.partition("Technical details")

    assert [each for each in WORDS if each != "atproto" and each in shown] == []
    assert [each for each in WORDS if each not in details] == []


@pytest.mark.anyio
async def test_a_permission_set_is_shown_with_what_is_in_it(
    network: Network, http: httpx.AsyncClient, clock: Clock
) -> None:
    network.add_permission_set("dev.birdsong.writer", ["repo:dev.birdsong.tune?action=create"])
    scope = "atproto include:dev.birdsong.writer"
    walker = Walker(network, http, clock=clock, client_id=loopback_client_id(scope=scope))
    walker.scope = scope
    visitor = Visitor(http)
    await visitor.open(await walker.authorize_url())
    await visitor.sign_in("alice.test")
    shown, _, _ = visitor.page.text.partition("Technical details")

    assert "All of this together" in shown
    assert "A set of permissions that is called dev.birdsong.writer" in shown
    assert "Create records of the kind dev.birdsong.tune" in shown
    assert "include:" not in shown
