"""Requests to an authorization server: client authentication, DPoP, and one nonce retry."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import httpx

from atproto_oauth_asgi.dpop import DPoPKey, Nonces, dpop_error, origin_of, target_uri
from atproto_oauth_asgi.errors import BadAnswer
from atproto_oauth_asgi.keys import ASSERTION_TYPE, ClientKeys
from atproto_oauth_asgi.net import Answer, Net
from atproto_oauth_asgi.words import error_code, harmless

# What of a form may be seen by everybody.
_PUBLIC = frozenset({"client_id", "redirect_uri", "scope", "client_assertion_type", "login_hint"})

BeforeSend = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientIdentity:
    """Who the app is to every authorization server, and the keys that prove it (RFC 7523 §3)."""

    client_id: str
    keys: ClientKeys | None

    def authenticate(self, issuer: str, kid: str | None) -> dict[str, str]:
        """Return the form fields that authenticate one HTTP attempt.

        `client_id` is always there. A session keeps the key it began with: `kid` names it, and
        None is a public client. Each call has an assertion `jti` of its own.

        Raises:
            ClientKeyMissing: CLIENT_KEYS does not hold that key any more.
        """
        fields = {"client_id": self.client_id}
        if kid is not None:
            keys = self.keys or ClientKeys.none()
            fields["client_assertion_type"] = ASSERTION_TYPE
            fields["client_assertion"] = keys.assertion(kid, self.client_id, issuer)
        return fields


@dataclass(frozen=True, slots=True, kw_only=True)
class ASAnswer:
    """An authorization server's answer to one HTTP attempt."""

    answer: Answer
    #: Whether the server asked for the same request again, with a nonce it now gave.
    nonce_wanted: bool
    #: Whether the answer carried a usable DPoP nonce.
    nonce_given: bool
    #: What the server was sent and nobody else may see.
    sent: tuple[str, ...] = field(default=(), repr=False)

    @property
    def error(self) -> str | None:
        """Return the OAuth error code of the body, if it has one (RFC 6749 §5.2)."""
        return error_code(_text(self.answer, "error"), self.sent)

    @property
    def description(self) -> str:
        """Return the server's words on the error: untrusted, for logs and not for pages."""
        return harmless(_text(self.answer, "error_description") or "", self.sent)

    def document(self) -> dict[str, object]:
        """Return the JSON object of a success.

        Raises:
            BadAnswer: the body is not a JSON object.
        """
        document = self.answer.json()
        if not isinstance(document, dict):
            msg = "The authorization server's answer is not a JSON object."
            raise BadAnswer(msg, http_status=self.answer.status)
        return cast("dict[str, object]", document)


async def attempt(
    net: Net,
    client: ClientIdentity,
    endpoint: str,
    form: Mapping[str, str],
    *,
    issuer: str,
    kid: str | None,
    key: DPoPKey,
    nonces: Nonces,
    deadline: float,
    before_send: BeforeSend | None = None,
) -> ASAnswer:
    """Send one authenticated, DPoP-bound form, once.

    Raises:
        FetchError: there was no answer.
        ClientKeyMissing: the session's client key is gone.
    """
    url = httpx.URL(endpoint)
    origin = origin_of(url)
    sent = nonces.get(origin)
    # The name `authenticate` comes last: nothing in the form may replace it.
    fields = {**form, **client.authenticate(issuer, kid)}
    proof = key.proof("POST", target_uri(url), nonce=sent)
    answer = await net.post_form(
        endpoint,
        fields,
        headers={"DPoP": proof},
        deadline=deadline,
        before_send=before_send,
    )
    given = nonces.learn(origin, answer.headers)
    challenged = answer.status in {400, 401} and "use_dpop_nonce" in {
        _text(answer, "error"),
        dpop_error(answer.headers),
    }
    return ASAnswer(
        answer=answer,
        # Asking again with a nonce that was just refused would never end (RFC 9449 §8).
        nonce_wanted=challenged and given is not None and given != sent,
        nonce_given=given is not None,
        sent=(proof, *(value for name, value in fields.items() if name not in _PUBLIC)),
    )


async def post(
    net: Net,
    client: ClientIdentity,
    endpoint: str,
    form: Mapping[str, str],
    *,
    issuer: str,
    kid: str | None,
    key: DPoPKey,
    nonces: Nonces,
    deadline: float = 10.0,
) -> ASAnswer:
    """Send a form and, if the server wants a nonce first, send it once more (RFC 9449 §8).

    Raises:
        FetchError: there was no answer.
        ClientKeyMissing: the session's client key is gone.
    """
    result = await attempt(
        net, client, endpoint, form,
        issuer=issuer, kid=kid, key=key, nonces=nonces, deadline=deadline,
    )  # fmt: skip
    if result.nonce_wanted:
        result = await attempt(
            net, client, endpoint, form,
            issuer=issuer, kid=kid, key=key, nonces=nonces, deadline=deadline,
        )  # fmt: skip
    return result


def _text(answer: Answer, member: str) -> str | None:
    try:
        document = answer.json()
    except BadAnswer:
        return None
    if not isinstance(document, dict):
        return None
    value = cast("dict[str, object]", document).get(member)
    return value if isinstance(value, str) else None
