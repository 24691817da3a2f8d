"""Requests to an authorization server: client authentication, DPoP, and one nonce retry."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

import httpx

from atproto_oauth_asgi.dpop import DPoPKey, Nonces, dpop_error, origin_of, target_uri
from atproto_oauth_asgi.errors import BadAnswer
from atproto_oauth_asgi.keys import ASSERTION_TYPE, ClientKeys
from atproto_oauth_asgi.net import Answer, Net
from atproto_oauth_asgi.words import error_code, harmless

# What of a form may be seen by everybody.
_PUBLIC = frozenset({"client_id", "redirect_uri", "scope", "client_assertion_type", "login_hint"})

BeforeSend = Callable[[], Awaitable[None]]
#: The nonce that it wants, or the time by its clock.
Learnt = Literal["nonce", "time"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientIdentity:
    """Who the app is to every authorization server, and the keys that prove it (RFC 7523 §3)."""

    client_id: str
    keys: ClientKeys | None

    def kid_for(self, kid: str | None) -> str | None:
        """Return the key that a grant authenticates with from now on.

        A grant keeps the key it began with. One that began while this client was public goes on
        with the key that signs logins now: servers let a client become confidential, and hold the
        grant to that key afterwards.
        """
        return self.keys.signing_kid if kid is None and self.keys is not None else kid

    def authenticate(self, issuer: str, kid: str | None, *, skew: int = 0) -> dict[str, str]:
        """Return the form fields that authenticate one HTTP attempt.

        `client_id` is always there. A session keeps the key it began with: `kid` names it, and
        None is a public client. Each call has an assertion `jti` of its own. `skew` is what is
        known of the server's clock, in seconds.

        Raises:
            ClientKeyMissing: CLIENT_KEYS does not hold that key any more.
        """
        fields = {"client_id": self.client_id}
        if kid is not None:
            keys = self.keys or ClientKeys.none()
            fields["client_assertion_type"] = ASSERTION_TYPE
            fields["client_assertion"] = keys.assertion(kid, self.client_id, issuer, skew=skew)
        return fields


@dataclass(frozen=True, slots=True, kw_only=True)
class ASAnswer:
    """An authorization server's answer to one HTTP attempt."""

    answer: Answer
    #: What the server told with its refusal, before it looked at anything else, and what the same
    #: request may succeed with.
    learnt: Learnt | None
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
    sent, skew = nonces.get(origin), nonces.clocks.offset(origin)
    # The name `authenticate` comes last: nothing in the form may replace it.
    fields = {**form, **client.authenticate(issuer, kid, skew=skew)}
    proof = key.proof("POST", target_uri(url), nonce=sent, skew=skew)
    answer = await net.post_form(
        endpoint,
        fields,
        headers={"DPoP": proof},
        deadline=deadline,
        before_send=before_send,
    )
    given = nonces.learn(origin, answer.headers)
    errors = {_text(answer, "error"), dpop_error(answer.headers)}
    learnt: Learnt | None = None
    if answer.status in {400, 401}:
        # Asking again with a nonce that was just refused would never end (RFC 9449 §8).
        if "use_dpop_nonce" in errors and given not in {None, sent}:
            learnt = "nonce"
        elif "invalid_dpop_proof" in errors and nonces.clocks.learn(origin, answer.headers):
            learnt = "time"
    return ASAnswer(
        answer=answer,
        learnt=learnt,
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
    """Send a form, and once more for each thing the server wanted first (RFC 9449 §8).

    Raises:
        FetchError: there was no answer.
        ClientKeyMissing: the session's client key is gone.
    """
    told: set[Learnt] = set()
    while True:
        result = await attempt(
            net, client, endpoint, form,
            issuer=issuer, kid=kid, key=key, nonces=nonces, deadline=deadline,
        )  # fmt: skip
        if result.learnt is None or result.learnt in told:
            return result
        told.add(result.learnt)


def _text(answer: Answer, member: str) -> str | None:
    try:
        document = answer.json()
    except BadAnswer:
        return None
    if not isinstance(document, dict):
        return None
    value = cast("dict[str, object]", document).get(member)
    return value if isinstance(value, str) else None
