"""Faults in what a failure does, and in how sessions and processes end."""
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from atproto_oauth_asgi import lease, refresh_outcome
from atproto_oauth_asgi.commit import Committer
from atproto_oauth_asgi.instrumentation import Events
from atproto_oauth_asgi.lease import Hold, Leases
from atproto_oauth_asgi.live import LiveSession
from atproto_oauth_asgi.metadata import ClientMetadata
from atproto_oauth_asgi.refresh_outcome import RefreshOutcomes
from atproto_oauth_asgi.runtime import Runtime
from atproto_oauth_asgi.sessions import Sessions
from atproto_oauth_asgi.tasks import Tasks
from atproto_oauth_asgi.tokens import TokenResponse
from tests.refresh.faults import fault, nothing

# --- Failures ---


@fault("no backoff")
def _no_backoff(patch: pytest.MonkeyPatch) -> None:
    give_back: Any = Leases.give_back

    async def faulty(*args: Any, **kwargs: Any) -> None:
        await give_back(*args, **{**kwargs, "wait_ms": None})

    patch.setattr(Leases, "give_back", faulty)


@fault("no jitter")
def _no_jitter(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lease, "random", SimpleNamespace(uniform=lambda _a, _b: 1.0))


@fault("Retry-After is ignored")
def _no_retry_after(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(refresh_outcome, "_retry_after", nothing)


@fault("the end is not noticed")
def _end_unnoticed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LiveSession, "end", nothing)


@fault("ends are not explained")
def _unexplained(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Events, "warning", nothing)


@fault("the row is not read again")
def _not_read_again(patch: pytest.MonkeyPatch) -> None:
    async def faulty(self: Any, hold: Hold) -> None:
        await self._end(hold, "revoked")

    patch.setattr(RefreshOutcomes, "_grant_gone", faulty)


@fault("old refusals end newer sessions")
def _old_refusals(patch: pytest.MonkeyPatch) -> None:
    async def faulty(self: Any, hold: Hold) -> None:
        await self._store.end_session(hold.live.id, "revoked")

    patch.setattr(RefreshOutcomes, "_grant_gone", faulty)


@fault("every failure ends the session")
def _failures_end(patch: pytest.MonkeyPatch) -> None:
    async def faulty(self: Any, hold: Hold, *_: Any, **__: Any) -> None:
        await self._store.end_session(hold.live.id, "revoked", version=hold.version)
        hold.live.end("revoked")

    patch.setattr(Leases, "postpone", faulty)


@fault("a re-used jti ends the session")
def _jti_ends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(refresh_outcome, "_jti_reused", lambda _: False)


def _parses(patch: pytest.MonkeyPatch, **members: Any) -> None:
    parse = TokenResponse.parse

    def faulty(document: Any, *, sub: str | None) -> TokenResponse:
        return parse({**document, **members}, sub=None if not members else sub)

    patch.setattr(TokenResponse, "parse", staticmethod(faulty))


@fault("the subject is not compared")
def _any_subject(patch: pytest.MonkeyPatch) -> None:
    _parses(patch)


@fault("the token type is not compared")
def _any_type(patch: pytest.MonkeyPatch) -> None:
    _parses(patch, token_type="DPoP")


@fault("client ids are not compared")
def _any_client(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sessions, "unusable_reason", nothing)


@fault("the port is in the client id")
def _port_in_id(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ClientMetadata, "_portless_redirect_uri", ClientMetadata.redirect_uri)


@fault("logout revokes first")
def _revokes_first(patch: pytest.MonkeyPatch) -> None:
    async def faulty(self: Runtime, live: LiveSession) -> None:
        await self.revoker.start(live, live.tokens)
        await self.store.end_session(live.id, "logout")
        live.end("logout")

    patch.setattr(Runtime, "logout", faulty)


@fault("logout needs the server")
def _needs_server(patch: pytest.MonkeyPatch) -> None:
    logout: Any = Runtime.logout

    async def faulty(self: Runtime, live: LiveSession) -> None:
        await self.net.get_json(f"{live.issuer}/.well-known/oauth-authorization-server")
        await logout(self, live)

    patch.setattr(Runtime, "logout", faulty)


@fault("shutdown drains nothing")
def _no_drain(patch: pytest.MonkeyPatch) -> None:
    drain: Any = Tasks.drain

    async def faulty(self: Tasks, _timeout: float) -> None:
        await drain(self, 0.0)

    patch.setattr(Tasks, "drain", faulty)


@fault("nobody says it")
def _not_said(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Events, "warning", nothing)


@fault("the old refresh token is dropped")
def _no_old_token(patch: pytest.MonkeyPatch) -> None:
    commit_it: Any = Committer.commit

    async def faulty(self: Any, live: Any, flight: Any, new: Any, response: Any, **kw: Any) -> None:
        given = replace(new, refresh_token=response.refresh_token)
        await commit_it(self, live, flight, given, response, **kw)

    patch.setattr(Committer, "commit", faulty)
