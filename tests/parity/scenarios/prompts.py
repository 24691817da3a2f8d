"""What is asked of a person: prompt, login_hint, remembered accounts, and consent given before."""

from __future__ import annotations

from tests.network.walker import Key
from tests.parity.client import Client, Grant, confidential
from tests.parity.person import Person, Seen
from tests.parity.scenario import Rows, scenario
from tests.parity.world import Account, World

_DAY = 86_400.0
_WIDE = "atproto transition:generic transition:chat.bsky"


async def _confidential(world: World, account: Account) -> Client:
    key = Key("k1")
    folder = world.site.folder(key)
    folder.change(scope=_WIDE)
    return confidential(world, account, folder, key)


async def _known(client: Client, person: Person, account: Account) -> Client:
    """Let a browser remember an account that has consented to a client."""
    await person.open(await client.authorize_url(login_hint=account.handle))
    await person.sign_in(account, remember=True)
    await person.consent()
    return client


async def _opened(row: Rows, name: str, client: Client, person: Person, **fields: str) -> Seen:
    seen = await person.open(await client.authorize_url(**fields))
    return row.seen(name, seen, client.state)


@scenario(
    "prompt none: nothing remembered",
    "prompt none: a remembered account and no hint",
    "prompt none: a hint of another account",
    "prompt none: remembered and consented",
    "prompt none: the tokens of that code",
    "prompt none: more scopes than consented",
    "prompt none: never consented to this client",
    "prompt none: password typed 6 days ago",
    "prompt none: password typed 8 days ago",
    "prompt none: form_post",
)
async def silent(world: World, row: Rows) -> None:
    alice, other = await world.create_account("alice"), await world.create_account("bob")
    client = await _confidential(world, alice)
    person = await world.person()
    hint = {"prompt": "none", "login_hint": alice.handle}
    await _opened(row, "prompt none: nothing remembered", client, person, **hint)
    await _known(client, person, alice)
    await _opened(
        row, "prompt none: a remembered account and no hint", client, person, prompt="none"
    )
    theirs = {"prompt": "none", "login_hint": other.handle}
    await _opened(row, "prompt none: a hint of another account", client, person, **theirs)
    seen = await _opened(row, "prompt none: remembered and consented", client, person, **hint)
    assert seen.sent is not None
    answer = await client.exchange(seen.sent.parameters.get("code", ""))
    row.effect(
        "prompt none: the tokens of that code",
        status=answer.status_code,
        same=answer.json().get("sub") == alice.did,
    )
    wide = {**hint, "scope": _WIDE}
    await _opened(row, "prompt none: more scopes than consented", client, person, **wide)
    stranger = await _confidential(world, alice)
    await _opened(row, "prompt none: never consented to this client", stranger, person, **hint)
    await _opened(row, "prompt none: form_post", client, person, **hint, response_mode="form_post")
    await world.age_sign_ins(alice, 6 * _DAY)
    await _opened(row, "prompt none: password typed 6 days ago", client, person, **hint)
    await world.age_sign_ins(alice, 2 * _DAY)
    await _opened(row, "prompt none: password typed 8 days ago", client, person, **hint)


@scenario(
    "no prompt: nobody known",
    "no prompt: a hint of somebody unknown here",
    "no prompt: a hint of nobody",
    "no prompt: the handle of a remembered account",
    "no prompt: the handle in capitals",
    "no prompt: the DID of a remembered account",
    "no prompt: no hint, and a remembered account",
    "no prompt: the remembered account is chosen",
    "no prompt: more scopes than consented",
    "no prompt: never consented to this client",
    "no prompt: another browser",
    "no prompt: password typed 8 days ago",
    "no prompt: two remembered accounts",
    "no prompt: one of two by its hint",
)
async def hints(world: World, row: Rows) -> None:
    alice, other = await world.create_account("alice"), await world.create_account("bob")
    client = await _confidential(world, alice)
    person = await world.person()
    await _opened(row, "no prompt: nobody known", client, person)
    theirs = {"login_hint": other.handle}
    await _opened(row, "no prompt: a hint of somebody unknown here", client, person, **theirs)
    nobody = {"login_hint": "nobody-at-all.test"}
    await _opened(row, "no prompt: a hint of nobody", client, person, **nobody)
    await _known(client, person, alice)
    for name, named in (
        ("the handle of a remembered account", alice.handle),
        ("the handle in capitals", alice.handle.upper()),
        ("the DID of a remembered account", alice.did),
    ):
        await _opened(row, f"no prompt: {name}", client, person, login_hint=named)
    await _opened(row, "no prompt: no hint, and a remembered account", client, person)
    row.seen("no prompt: the remembered account is chosen", await person.choose(alice), None)
    hint = {"login_hint": alice.handle}
    wide = {**hint, "scope": _WIDE}
    await _opened(row, "no prompt: more scopes than consented", client, person, **wide)
    stranger = await _confidential(world, alice)
    await _opened(row, "no prompt: never consented to this client", stranger, person, **hint)
    await _opened(row, "no prompt: another browser", client, await world.person(), **hint)
    await world.age_sign_ins(alice, 8 * _DAY)
    await _opened(row, "no prompt: password typed 8 days ago", client, person, **hint)
    await _known(client, person, other)
    await _opened(row, "no prompt: two remembered accounts", client, person)
    await _opened(row, "no prompt: one of two by its hint", client, person, **theirs)


@scenario(
    "public client: remembered, the first time",
    "public client: remembered, and consented before",
    "public client: prompt login",
    "public client: prompt select_account, nothing remembered",
    "public client: prompt select_account, with a remembered account",
    "public client: prompt create",
)
async def public(world: World, row: Rows) -> None:
    alice = await world.create_account("alice")
    client = Client(world, alice)
    person = await world.person()
    nothing = "public client: prompt select_account, nothing remembered"
    await _opened(row, nothing, client, person, prompt="select_account")
    await _known(client, person, alice)
    hint = {"login_hint": alice.handle}
    first = await _opened(row, "public client: remembered, the first time", client, person, **hint)
    assert first.asks == "consent"
    await person.consent()
    again = "public client: remembered, and consented before"
    await _opened(row, again, client, person, **hint)
    await _opened(row, "public client: prompt login", client, person, **hint, prompt="login")
    known = "public client: prompt select_account, with a remembered account"
    await _opened(row, known, client, person, prompt="select_account")
    await _opened(row, "public client: prompt create", client, person, prompt="create")


@scenario(
    "prompt login: remembered and consented",
    "prompt login: no hint",
    "prompt login: no hint, and the account is chosen",
    "prompt login: after the password",
    "prompt consent: remembered and consented",
    "prompt consent: no hint",
    "prompt select_account: nothing remembered",
    "prompt select_account: with a remembered account",
    "prompt select_account: with its hint",
    "prompt create: with a remembered account",
    "prompt create: with its hint",
)
async def chosen(world: World, row: Rows) -> None:
    alice = await world.create_account("alice")
    client = await _confidential(world, alice)
    person = await world.person()
    hint = {"login_hint": alice.handle}
    nothing = "prompt select_account: nothing remembered"
    await _opened(row, nothing, client, person, prompt="select_account")
    await _known(client, person, alice)
    login = {**hint, "prompt": "login"}
    await _opened(row, "prompt login: no hint", client, person, prompt="login")
    picked = await person.choose(alice)
    row.seen("prompt login: no hint, and the account is chosen", picked, None)
    await _opened(row, "prompt login: remembered and consented", client, person, **login)
    typed = await person.sign_in(alice, remember=True)
    row.seen("prompt login: after the password", typed, None)
    again = "prompt consent: remembered and consented"
    await _opened(row, again, client, person, **hint, prompt="consent")
    await _opened(row, "prompt consent: no hint", client, person, prompt="consent")
    known = "prompt select_account: with a remembered account"
    await _opened(row, known, client, person, prompt="select_account")
    by_name = "prompt select_account: with its hint"
    await _opened(row, by_name, client, person, **hint, prompt="select_account")
    create = "prompt create: with a remembered account"
    await _opened(row, create, client, person, prompt="create")
    await _opened(row, "prompt create: with its hint", client, person, **hint, prompt="create")


@scenario(
    "sign-up: a handle that is taken",
    "sign-up: a handle that is too short",
    "sign-up: a handle with a dot in it",
    "sign-up: a handle of another domain",
    "sign-up: an e-mail address that is taken",
    "sign-up: done",
    "sign-up: the callback",
    "sign-up: the tokens, and the new account at its PDS",
    "sign-up: the new name",
    "sign-up: is not remembered",
    "sign-up: the password is good",
)
async def signing_up(world: World, row: Rows) -> None:
    alice, taken = await world.account("alice.test"), await world.create_account("taken")
    client = Client(world, alice)
    person = await world.person()
    password = "a password of mine"
    await person.open(await client.authorize_url(prompt="create"))
    for name, handle in (
        ("a handle that is taken", "alice"),
        ("a handle that is too short", "al"),
        ("a handle with a dot in it", "al.ice.test"),
        ("a handle of another domain", "alice.birdsong.dev"),
    ):
        seen = await person.sign_up(handle, "new@mail.test", password)
        row.seen(f"sign-up: {name}", seen, None)
    handle = taken.handle.replace("taken", "new")
    email = f"{handle.partition('.')[0]}@mail.test"
    seen = await person.sign_up(handle, taken.email, password)
    row.seen("sign-up: an e-mail address that is taken", seen, None)
    await person.open(await client.authorize_url(prompt="create"))
    row.seen("sign-up: done", await person.sign_up(handle, email, password), None)
    seen = row.seen("sign-up: the callback", await person.consent(), client.state)
    assert seen.sent is not None
    tokens = (await client.exchange(seen.sent.parameters["code"])).json()
    me = await client.get_session(tokens["access_token"])
    row.answer("sign-up: the tokens, and the new account at its PDS", me)
    found = await world.handle_document(handle)
    row.effect("sign-up: the new name", status=found.status_code, same=found.text == tokens["sub"])
    await _opened(row, "sign-up: is not remembered", client, person)
    new = Account(handle=handle, did=tokens["sub"], password=password, email=email)
    row.seen("sign-up: the password is good", await person.sign_in(new), None)


@scenario(
    "sign-in: a wrong password",
    "sign-in: the right one after it",
    "sign-in: nobody of this name",
    "sign-in: an account that was taken down",
    "sign-in: without remembering",
    "sign-in: without remembering forgets what was remembered",
    "sign-in: forgotten by the person",
    "sign-in: a code that is used twice makes the browser forget",
    "deactivated: a remembered account",
    "deactivated: prompt none",
)
async def signing_in(world: World, row: Rows) -> None:
    alice, down = await world.create_account("alice"), await world.create_account("down")
    client = await _confidential(world, alice)
    person = await world.person()
    await world.take_down(down)
    await person.open(await client.authorize_url())
    nobody = Account(handle="nobody-at-all.test", did="", password="x", email="")
    row.seen("sign-in: nobody of this name", await person.sign_in(nobody), None)
    row.seen("sign-in: an account that was taken down", await person.sign_in(down), None)
    wrong = await person.sign_in(alice, password="wrong")
    row.seen("sign-in: a wrong password", wrong, None)
    row.seen("sign-in: the right one after it", await person.sign_in(alice), None)
    await person.consent()
    hint = {"login_hint": alice.handle}
    await _opened(row, "sign-in: without remembering", client, person, **hint)
    await _known(client, person, alice)
    await person.open(await client.authorize_url(**hint, prompt="login"))
    await person.sign_in(alice)
    forgets = "sign-in: without remembering forgets what was remembered"
    await _opened(row, forgets, client, person, **hint)
    await _known(client, person, alice)
    await person.open(await client.authorize_url())
    await person.forget(alice)
    await _opened(row, "sign-in: forgotten by the person", client, person, **hint)
    await _known(client, person, alice)
    back = (await person.open(await client.authorize_url(**hint))).sent
    assert back is not None
    for _ in range(2):
        await client.exchange(back.parameters["code"])
    twice = "sign-in: a code that is used twice makes the browser forget"
    await _opened(row, twice, client, person, **hint)
    await _known(client, person, alice)
    await world.deactivate(alice)
    await _opened(row, "deactivated: a remembered account", client, person, **hint)
    await _opened(row, "deactivated: prompt none", client, person, **hint, prompt="none")


@scenario(
    "response_mode query: approved",
    "response_mode fragment: approved",
    "response_mode form_post: approved",
    "response_mode query: cancelled",
    "response_mode fragment: cancelled",
    "response_mode form_post: cancelled",
    "response_mode fragment: refused without a page",
    "ui_locales and display: the same page",
)
async def modes(world: World, row: Rows) -> None:
    alice = await world.create_account("alice")
    client = await _confidential(world, alice)
    person = await world.person()
    for mode in ("query", "fragment", "form_post"):
        await person.open(await client.authorize_url(response_mode=mode))
        await person.sign_in(alice)
        row.seen(f"response_mode {mode}: approved", await person.consent(), client.state)
        await person.open(await client.authorize_url(response_mode=mode))
        row.seen(f"response_mode {mode}: cancelled", await person.cancel(), client.state)
    await _opened(
        row,
        "response_mode fragment: refused without a page",
        client,
        person,
        response_mode="fragment",
        prompt="none",
    )
    await _opened(
        row,
        "ui_locales and display: the same page",
        client,
        person,
        ui_locales="fr-FR",
        display="popup",
    )


@scenario(
    "e-mail unticked: the scope",
    "e-mail unticked: getSession",
    "e-mail unticked: the scope of the next login, which needs no page",
    "e-mail beside a transition scope: the scope",
)
async def unticked(world: World, row: Rows) -> None:
    alice = await world.create_account("alice")
    client = await _confidential(world, alice)
    scope = "atproto account:email repo:app.bsky.feed.post"
    folder_scope = f"{scope} transition:generic"
    key = Key("k1")
    folder = world.site.folder(key)
    folder.change(scope=folder_scope)
    client = confidential(world, alice, folder, key)
    client.scope = scope
    person = await world.person()
    await person.open(await client.authorize_url())
    await person.sign_in(alice, remember=True)
    grant = await _exchanged(client, await person.consent(email=False))
    row.effect("e-mail unticked: the scope", scope=grant.tokens["scope"])
    row.answer("e-mail unticked: getSession", await grant.session())
    silent_seen = await person.open(await client.authorize_url(login_hint=alice.did))
    grant = await _exchanged(client, silent_seen)
    row.effect(
        "e-mail unticked: the scope of the next login, which needs no page",
        scope=grant.tokens["scope"],
    )
    client.scope = "atproto account:email transition:generic"
    await person.open(await client.authorize_url(login_hint=alice.did))
    grant = await _exchanged(client, await person.consent())
    row.effect("e-mail beside a transition scope: the scope", scope=grant.tokens["scope"])


async def _exchanged(client: Client, seen: Seen) -> Grant:
    assert seen.sent is not None
    answer = await client.exchange(seen.sent.parameters["code"])
    assert answer.status_code == 200, answer.text
    return Grant(client, answer.json())
