"""The pages as a browser without JavaScript uses them."""

from __future__ import annotations

import httpx
import pytest

from atproto_oauth_asgi.testing import Network
from atproto_oauth_asgi.testing.devices import LOGIN_LIFE
from tests.network.visitor import Visitor
from tests.network.walker import REDIRECT_URI, Clock, Walker, loopback_client_id, parameters

pytestmark = pytest.mark.anyio


@pytest.fixture
def visitor(http: httpx.AsyncClient) -> Visitor:
    return Visitor(http)


async def test_a_person_signs_in_and_consents(
    visitor: Visitor, walker: Walker, network: Network
) -> None:
    await visitor.open(await walker.authorize_url(login_hint="ALICE.test"))
    shown = visitor.page
    await visitor.press("Sign in", password="dev-password")
    asked = visitor.page
    callback = await visitor.authorize()
    tokens = (await walker.exchange(parameters(callback)["code"])).json()

    assert "Development network" in shown.text
    assert shown.forms[0].values["username"] == "alice.test"
    assert "readonly" in shown.forms[0].fields["username"]
    assert "127.0.0.1 asks for access to alice.test" in asked.text
    assert callback.startswith(REDIRECT_URI)
    assert tokens["sub"] == network.account("alice.test").did


async def test_a_did_as_hint_is_shown_as_the_handle(
    visitor: Visitor, walker: Walker, network: Network
) -> None:
    did = network.account("alice.test").did
    await visitor.open(await walker.authorize_url(login_hint=did))

    assert visitor.page.forms[0].values["username"] == "alice.test"


@pytest.mark.parametrize("typed", ["Alice.test", " @alice.test ", "alice", "alice@mail.test"])
async def test_people_type_their_name_as_they_like(
    typed: str, visitor: Visitor, walker: Walker
) -> None:
    await visitor.open(await walker.authorize_url())
    await visitor.sign_in(typed)

    assert "asks for access to alice.test" in visitor.page.text


@pytest.mark.parametrize(
    ("username", "password"), [("alice.test", "wrong"), ("nobody.test", "dev-password"), ("?", "")]
)
async def test_what_is_wrong_is_not_told(
    username: str, password: str, visitor: Visitor, walker: Walker
) -> None:
    await visitor.open(await walker.authorize_url())
    wrong = await visitor.sign_in(username, password, remember=True)
    page = visitor.page

    assert wrong.status_code == 400
    assert "Wrong identifier or password" in page.text
    assert page.forms[0].values["username"] == username
    assert page.forms[0].values["remember"] == "yes"
    await visitor.sign_in("alice.test")
    assert "Authorize" in visitor.page.text


async def test_accounts_that_are_not_active(
    visitor: Visitor, walker: Walker, network: Network
) -> None:
    network.take_down("bob.test")
    network.account("alice.test").status = "deactivated"
    await visitor.open(await walker.authorize_url())
    await visitor.sign_in("bob.test")
    taken_down = visitor.page.text
    await visitor.sign_in("alice.test")
    deactivated = visitor.page.text
    await visitor.press("Reactivate the account")
    callback = await visitor.authorize()

    assert "Account was taken down" in taken_down
    assert "alice.test is deactivated at the moment" in deactivated
    assert "code" in parameters(callback)
    assert network.account("alice.test").status == "active"


@pytest.mark.parametrize("before", ["sign-in", "consent"])
async def test_cancel_and_deny(before: str, visitor: Visitor, walker: Walker) -> None:
    await visitor.open(await walker.authorize_url())
    if before == "consent":
        await visitor.sign_in("alice.test")
    await visitor.press("Cancel" if before == "sign-in" else "Deny access")

    assert parameters(visitor.callback)["error"] == "access_denied"


async def test_another_account_can_be_chosen(
    visitor: Visitor, walker: Walker, network: Network
) -> None:
    await visitor.open(await walker.authorize_url())
    await visitor.sign_in("alice.test")
    await visitor.press("Another account")
    await visitor.sign_in("bob@mail.test")
    code = parameters(await visitor.authorize())["code"]

    assert (await walker.exchange(code)).json()["sub"] == network.account("bob.test").did


async def test_an_unticked_permission_is_not_granted(visitor: Visitor, walker: Walker) -> None:
    walker.scope = "atproto account:email repo:app.bsky.feed.post"
    walker.client_id = loopback_client_id(scope=walker.scope)
    await visitor.open(await walker.authorize_url())
    await visitor.sign_in("alice.test")
    code = parameters(await visitor.authorize(email=None))["code"]

    assert (await walker.exchange(code)).json()["scope"] == "atproto repo:app.bsky.feed.post"


async def test_beside_a_transition_scope_nothing_can_be_unticked(
    visitor: Visitor, walker: Walker
) -> None:
    walker.scope = "atproto account:email transition:generic"
    walker.client_id = loopback_client_id(scope=walker.scope)
    await visitor.open(await walker.authorize_url())
    await visitor.sign_in("alice.test")
    offered = visitor.page.forms[0].fields
    code = parameters(await visitor.authorize())["code"]

    assert offered == {}
    assert (await walker.exchange(code)).json()["scope"] == walker.scope


async def test_remembered_accounts_are_chosen_and_forgotten(
    visitor: Visitor, walker: Walker, clock: Clock
) -> None:
    for handle in ("alice.test", "bob.test"):
        await visitor.open(await walker.authorize_url())
        if handle == "bob.test":
            await visitor.follow("Another account")
        await visitor.sign_in(handle, remember=True)
    await visitor.open(await walker.authorize_url())
    offered = [each.name for each in visitor.page.controls]
    await visitor.press("alice.test")
    chosen = visitor.page.text
    await visitor.press("Another account")
    await visitor.press("Forget alice.test")
    left = [each.name for each in visitor.page.controls]
    clock.advance(LOGIN_LIFE + 1)
    walker.nonce = None
    await visitor.open(await walker.authorize_url())
    await visitor.press("bob.test")

    assert offered[:4] == ["alice.test", "Forget alice.test", "bob.test", "Forget bob.test"]
    assert "asks for access to alice.test" in chosen
    assert left[:2] == ["bob.test", "Forget bob.test"]
    assert visitor.page.forms[0].values["username"] == "bob.test"
    assert visitor.page.forms[0].values["remember"] == "yes"


async def test_what_is_remembered_stays_with_the_browser(
    visitor: Visitor, walker: Walker, http: httpx.AsyncClient
) -> None:
    await visitor.open(await walker.authorize_url())
    await visitor.sign_in("alice.test", remember=True)
    other = Visitor(http)
    await other.open(await walker.authorize_url())

    assert "alice.test" not in other.page.text


async def test_signing_in_without_the_tick_forgets(visitor: Visitor, walker: Walker) -> None:
    await visitor.open(await walker.authorize_url())
    await visitor.sign_in("alice.test", remember=True)
    await visitor.open(await walker.authorize_url(prompt="login", login_hint="alice.test"))
    await visitor.press("Deny access")
    await visitor.open(await walker.authorize_url())
    await visitor.follow("Another account")
    await visitor.sign_in("alice.test")
    await visitor.open(await walker.authorize_url())

    assert visitor.page.title.startswith("Sign in")


async def test_an_account_made_on_the_pages_is_usable(
    visitor: Visitor, walker: Walker, network: Network
) -> None:
    await visitor.open(await walker.authorize_url(prompt="create"))
    await visitor.sign_up("Carol", "Carol@mail.test", "a password of mine")
    asked = visitor.page.text
    tokens = (await walker.exchange(parameters(await visitor.authorize())["code"])).json()
    me = (await walker.get_session(tokens["access_token"])).json()
    resolved = await network.policy().resolve_txt("_atproto.carol.test")  # type: ignore[misc]
    await visitor.open(await walker.authorize_url())
    await visitor.sign_in("carol@mail.test", "a password of mine")

    assert "asks for access to carol.test" in asked
    assert me["handle"] == "carol.test"
    assert resolved == (f"did={tokens['sub']}".encode(),)
    assert "asks for access to carol.test" in visitor.page.text


@pytest.mark.parametrize(
    ("handle", "sentence"),
    [
        ("alice", "already in use"),
        ("ALICE.test", "already in use"),
        ("al", "invalid"),
        ("a" * 19, "invalid"),
        ("-carol", "invalid"),
        ("carol.smith.test", "invalid"),
        ("carol.example.com", "Custom domains"),
        ("<b>", "invalid"),
    ],
)
async def test_handles_that_cannot_be_had(
    handle: str, sentence: str, visitor: Visitor, walker: Walker
) -> None:
    await visitor.open(await walker.authorize_url(prompt="create"))
    answer = await visitor.press("Next", handle=handle)

    assert answer.status_code == 400
    assert sentence in visitor.page.text
    assert visitor.page.forms[0].values["handle"] == handle


@pytest.mark.parametrize(
    ("email", "password", "sentence"),
    [
        ("alice@mail.test", "long enough", "already used"),
        ("carol", "long enough", "Enter your email"),
        ("carol@mail.test", "short", "8 to 256"),
        ("carol@mail.test", "x" * 257, "8 to 256"),
    ],
)
async def test_credentials_that_cannot_be_had(
    email: str, password: str, sentence: str, visitor: Visitor, walker: Walker, network: Network
) -> None:
    await visitor.open(await walker.authorize_url(prompt="create"))
    await visitor.sign_up("carol", email, password)

    assert sentence in visitor.page.text
    with pytest.raises(ValueError, match="carol"):
        network.account("carol.test")


async def test_two_people_who_want_one_handle(
    visitor: Visitor, walker: Walker, http: httpx.AsyncClient
) -> None:
    other = Visitor(http)
    for each in (visitor, other):
        await each.open(await walker.authorize_url(prompt="create"))
        await each.press("Next", handle="carol")
    for each, email in ((visitor, "one@mail.test"), (other, "two@mail.test")):
        await each.press("Create the account", email=email, password="long enough")

    assert "asks for access to carol.test" in visitor.page.text
    assert "already in use" in other.page.text


async def test_a_demo_lists_its_accounts_but_not_those_of_visitors(
    http: httpx.AsyncClient, walker: Walker, network: Network
) -> None:
    network.host.interaction.show_accounts = True
    visitor = Visitor(http)
    await visitor.open(await walker.authorize_url(prompt="create"))
    await visitor.sign_up("carol", "carol@mail.test", "my secret")
    await visitor.open(await walker.authorize_url())
    listed = visitor.page
    await visitor.press("Continue as bob.test")

    assert "dev-password" in listed.text
    assert "carol" not in listed.text
    assert "my secret" not in visitor.answer.text
    assert "asks for access to bob.test" in visitor.page.text


async def test_consent_without_signing_in_gives_nothing(visitor: Visitor, walker: Walker) -> None:
    await visitor.open(await walker.authorize_url())
    values = visitor.page.forms[0].values
    url = walker.url("/oauth/authorize/consent")
    answer = await visitor.post(url, {**values, "decision": "allow"})

    assert answer.status_code == 200
    assert "Password" in visitor.page.text


async def test_an_account_that_is_not_remembered_cannot_be_chosen(
    visitor: Visitor, walker: Walker, network: Network
) -> None:
    await visitor.open(await walker.authorize_url())
    values = {**visitor.page.forms[0].values, "did": network.account("bob.test").did}
    await visitor.post(walker.url("/oauth/authorize/choose"), values)

    assert "Password" in visitor.page.text


@pytest.mark.parametrize("path", ["sign-in", "sign-up", "choose", "forget", "consent"])
async def test_forms_of_another_site_or_browser_are_refused(
    path: str, visitor: Visitor, walker: Walker
) -> None:
    await visitor.open(await walker.authorize_url())
    url = walker.url(f"/oauth/authorize/{path}")
    values = {**visitor.page.forms[0].values, "username": "alice.test", "decision": "deny"}
    forged = await visitor.post(url, {**values, "csrf": "0" * 64})
    cross_site = await visitor.post(url, values, site="cross-site")
    visitor.forget_cookies()
    no_cookie = await visitor.post(url, values)

    assert (forged.status_code, no_cookie.status_code) == (403, 403)
    assert cross_site.status_code == 400
    assert "Forbidden sec-fetch-site header" in cross_site.text


async def test_a_cookie_that_the_server_did_not_give_is_no_device(
    visitor: Visitor, walker: Walker
) -> None:
    url = await walker.authorize_url()
    planted = {"cookie": "network-device=dev-" + "0" * 32}
    answer = await visitor.http.get(url, headers={**NAVIGATION, **planted})

    assert "dev-" + "0" * 32 not in answer.headers["set-cookie"]


async def test_a_request_belongs_to_the_browser_that_opened_it(
    visitor: Visitor, walker: Walker
) -> None:
    url = await walker.authorize_url()
    await visitor.open(url)
    visitor.forget_cookies()
    await visitor.open(url)

    assert "another+device" in visitor.callback


@pytest.mark.parametrize(
    "query", ["", "?client_id=x", "?client_id=x&request_uri=urn:x", "?request_uri=req-0"]
)
async def test_unknown_requests_get_a_page_and_no_redirect(
    query: str, visitor: Visitor, walker: Walker
) -> None:
    answer = await visitor.open(walker.url(f"/oauth/authorize{query}"))

    assert answer.status_code == 400
    assert answer.headers["content-type"].startswith("text/html")


async def test_the_address_of_a_form_is_a_page_for_people_too(
    visitor: Visitor, walker: Walker
) -> None:
    answer = await visitor.open(walker.url("/oauth/authorize/sign-in"))

    assert answer.status_code == 405
    assert "Go back to the app" in visitor.page.text


NAVIGATION = {
    "sec-fetch-site": "cross-site",
    "sec-fetch-mode": "navigate",
    "sec-fetch-dest": "document",
}


@pytest.mark.parametrize(
    ("header", "value", "sentence"),
    [
        ("sec-fetch-mode", "cors", "Forbidden sec-fetch-mode header"),
        ("sec-fetch-dest", "iframe", "Forbidden sec-fetch-dest header"),
        ("sec-fetch-site", "elsewhere", "Forbidden sec-fetch-site header"),
    ],
)
async def test_only_a_person_who_goes_there_opens_the_page(
    header: str, value: str, sentence: str, walker: Walker, http: httpx.AsyncClient
) -> None:
    headers = {**NAVIGATION, header: value}
    answer = await http.get(await walker.authorize_url(), headers=headers)

    assert answer.status_code == 400
    assert sentence in answer.text


@pytest.mark.parametrize("mode", ["fragment", "form_post"])
async def test_other_response_modes(mode: str, visitor: Visitor, walker: Walker) -> None:
    await visitor.open(await walker.authorize_url(response_mode=mode))
    await visitor.sign_in("alice.test")
    await visitor.press("Authorize")
    back = visitor.page

    if mode == "fragment":
        assert visitor.callback.startswith(f"{REDIRECT_URI}#state=")
    else:
        (form,) = back.forms
        assert (form.action, form.method) == (REDIRECT_URI, "post")
        assert form.values["code"].startswith("cod-")
        assert [each.name for each in back.controls] == ["Continue"]
