"""An authorization server that repeats what it was sent, as debug pages do, gives nothing away."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from atproto_oauth_asgi.errors import RefreshFailed
from atproto_oauth_asgi.keys import ClientKeys, generate_client_keys
from atproto_oauth_asgi.net import Net
from atproto_oauth_asgi.testing.web import Answer, json_answer
from tests.app.faulty_store import FaultyStore
from tests.app.test_secrets import everything_logged
from tests.app.world import world

pytestmark = [pytest.mark.anyio, pytest.mark.spec("P8")]


class Sent:
    """Notes the form that left last, and lets the server answer with parts of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.values: dict[str, str] = {}
        post_form = Net.post_form

        async def noted(net: Net, url: str, form: dict[str, str], **options: object) -> object:
            headers = options["headers"]
            assert isinstance(headers, dict)
            self.values = {**form, "proof": headers["DPoP"]}
            return await post_form(net, url, form, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(Net, "post_form", noted)

    def echo(self, status: int, error: str) -> Callable[[Answer], Answer]:
        def change(answer: Answer) -> Answer:
            if b"use_dpop_nonce" in answer.body:
                return answer
            nonce = ("dpop-nonce", answer.header("dpop-nonce") or "")
            words = "\n".join(f"{name}={value}" for name, value in self.values.items())
            code = error.format(**self.values)
            return json_answer(status, {"error": code, "error_description": words}, nonce)

        return change

    def secrets(self) -> list[str]:
        public = {"client_id", "redirect_uri", "scope", "client_assertion_type", "login_hint"}
        return [
            value for name, value in self.values.items() if name not in public and len(value) > 20
        ]


@pytest.mark.parametrize(
    "error", ["invalid_grant", "{code_verifier}", "{code}", "a\nb", "x" * 5000]
)
@pytest.mark.parametrize("status", [400, 401, 500])
async def test_at_a_login(status: int, error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Sent(monkeypatch)
    async with world(client_keys=ClientKeys(generate_client_keys())) as here:
        callback = await here.approved()
        with (
            everything_logged() as logged,
            here.network.alter("/oauth/token", sent.echo(status, error)),
        ):
            page = await here.browser.get(callback)
            secrets = sent.secrets()  # code, verifier, assertion and proof
            await here.settled()

        assert page.status_code in {400, 502}
        assert here.cookie is None
        assert len(secrets) == 4
        # The browser of this test, httpx too, logs the addresses that it opens: the callback's.
        texts = [text for text in logged.texts if "/oauth/callback?" not in text]
        assert not [one for one in secrets for text in [*texts, page.text] if one in text]


@pytest.mark.parametrize("error", ["server_error", "{refresh_token}", "a\nb"])
@pytest.mark.parametrize("status", [400, 503])
async def test_at_a_refresh(status: int, error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Sent(monkeypatch)
    store = FaultyStore()
    async with world(store=store) as here:
        await here.login()
        here.network.expire_access_tokens()
        store.allow_refresh()
        async with here.oauth.session_for(here.did()) as session:
            with (
                everything_logged() as logged,
                here.network.alter("/oauth/token", sent.echo(status, error)),
                pytest.raises(RefreshFailed) as caught,
            ):
                await session.query("com.atproto.server.getSession")

    assert sent.values["refresh_token"] in sent.secrets()
    texts = [*logged.texts, str(caught.value), repr(caught.value)]
    assert not [secret for secret in sent.secrets() for text in texts if secret in text]
    assert not any("a\nb" in text for text in texts)
